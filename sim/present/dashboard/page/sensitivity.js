// View 5: what doubling and halving each number of the chip would do, and memory against its capacity.

function sensitivityView(state) {
  const t = theme(), { phases, data } = state;
  const engine = data.sensitivity_engine;
  const own = (name) => phases.map((phase) => `${phase.phase} ${seconds(phase[name])}`).join(", ");
  const reason = engine === data.engine ? "" : `; ${data.engine} would map the model anew for every changed chip (its own figures: ${own("total_s")})`;
  $("sensitivity-see").textContent = `The longest bar is the number of the chip to change first; bars on the left are latency saved. By the ${engine} engine (${own("sensitivity_s")})${reason}.`;
  const traces = [];
  const label = (row) => row[0].replace(/^memory\./, "");
  phases.forEach((phase, i) => {
    const rows = [...phase.sensitivity].reverse(); // the first is drawn at the bottom
    const suffix = i === 0 ? "" : "2";
    for (const [name, column, color, shape] of [["halved", 4, OKABE.orange, "/"], ["doubled", 3, OKABE.blue, ""]]) {
      traces.push({
        type: "bar", orientation: "h", name, legendgroup: name, showlegend: i === 0, xaxis: `x${suffix}`, yaxis: `y${suffix}`,
        y: rows.map((row) => plain(label(row))), x: rows.map((row) => row[column]),
        marker: { color, pattern: hatch(shape, t.paper) },
        hovertemplate: rows.map((row) => `${plain(row[0])} ${name}: latency %{x:+.1%}<extra>${phase.phase}</extra>`),
      });
    }
  });
  const changes = phases.flatMap((phase) => phase.sensitivity.flatMap((row) => [row[3] || 0, row[4] || 0]));
  const [least, most] = [Math.min(-0.1, ...changes), Math.max(0.1, ...changes)];
  const margin = { l: 8, r: 24, t: 30, b: 84 };
  const names = phases.map((phase) => labelWidth(phase.sensitivity.map(label), 11) / Math.max(1, $("sensitivity").clientWidth - margin.l - margin.r));
  const domains = phases.length === 1 ? [[names[0], 1]] : [[names[0], 0.49], [0.51 + names[1], 1]];
  const x = (phase, n, domain) => ({ title: { text: `change of ${phase.phase === "prefill" ? "TTFT" : "TPOT"}`, standoff: 6 }, tickformat: "+.0%", nticks: (domain[1] - domain[0]) * $("sensitivity").clientWidth < 240 ? 3 : 6, domain, anchor: `y${n}`, range: [1.08 * least, 1.08 * most], zerolinecolor: t.ink });
  const y = (n) => ({ type: "category", anchor: `x${n}`, tickfont: { size: 11 } });
  return draw("sensitivity", traces, layout({
    barmode: "group", bargap: 0.25, bargroupgap: 0.05, margin,
    xaxis: x(phases[0], "", domains[0]), yaxis: y(""),
    ...(phases.length > 1 ? { xaxis2: x(phases[1], "2", domains[1]), yaxis2: y("2") } : {}),
    legend: legendBelow("sensitivity", margin, 46),
  }));
}

function memoryView(state) {
  const t = theme(), margin = { l: 70, r: 20, t: 24, b: 74 };
  const parts = [["weights", "weights_bytes", OKABE.blue, ""], ["KV cache", "kv_cache_bytes", OKABE.vermillion, "/"], ["activations", "activations_bytes", OKABE.green, "."]];
  const names = state.phases.map((phase) => phase.phase);
  const traces = parts.map(([name, key, color, shape]) => ({
    type: "bar", orientation: "h", name, y: names, x: state.phases.map((phase) => phase.memory[key]),
    marker: { color, pattern: hatch(shape, t.paper) },
    text: state.phases.map((phase) => bytes(phase.memory[key])), textposition: "none", hovertemplate: `${name}: %{text}<extra>%{y}</extra>`,
  }));
  const capacity = state.phases[0].memory.capacity_bytes;
  const needed = state.phases.map((phase) => phase.memory.weights_bytes + phase.memory.kv_cache_bytes + phase.memory.activations_bytes);
  const most = 1.2 * Math.max(capacity, ...needed), ticks = roundNumbers(0, most, 6);
  const label = { showarrow: false, font: { size: 11, color: t.ink }, bgcolor: t.paper };
  return draw("memory", traces, layout({
    barmode: "stack", margin,
    xaxis: { title: { text: "bytes of DRAM", standoff: 4 }, showgrid: false, tickmode: "array", tickvals: ticks, ticktext: ticks.map((each) => bytes(each)), range: [0, most] },
    yaxis: { autorange: "reversed", type: "category" },
    legend: { ...legendBelow("memory", margin, 44), traceorder: "normal" },
    shapes: [{ type: "line", xref: "x", yref: "paper", x0: capacity, x1: capacity, y0: 0, y1: 1, line: { color: t.ink, width: 2, dash: "dash" } }],
    annotations: [
      { ...label, xref: "x", yref: "paper", x: capacity, y: 1.02, yanchor: "bottom", xanchor: "center", text: `capacity ${bytes(capacity)}` },
      ...state.phases.map((phase, i) => ({ ...label, xref: "x", yref: "y", x: needed[i], y: phase.phase, xanchor: "left", xshift: 4, text: `${bytes(needed[i])}: ${phase.memory.fits ? "fits" : "DOES NOT FIT"}` })),
    ],
  }), STILL);
}
