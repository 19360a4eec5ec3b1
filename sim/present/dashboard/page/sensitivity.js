// View 5: what doubling and halving each number of the chip would do, and memory against its capacity.

function sensitivityView(state) {
  const t = theme();
  const traces = [];
  state.phases.forEach((phase, i) => {
    const rows = [...phase.sensitivity].reverse(); // the first is drawn at the bottom
    const suffix = i === 0 ? "" : "2";
    for (const [name, column, color, shape] of [["halved", 4, OKABE.orange, "/"], ["doubled", 3, OKABE.blue, ""]]) {
      traces.push({
        type: "bar", orientation: "h", name, legendgroup: name, showlegend: i === 0, xaxis: `x${suffix}`, yaxis: `y${suffix}`,
        y: rows.map((row) => plain(row[0])), x: rows.map((row) => row[column]),
        marker: { color, pattern: hatch(shape, t.paper) },
        hovertemplate: rows.map((row) => `${plain(row[0])} ${name}: latency %{x:+.1%}<extra>${phase.phase}</extra>`),
      });
    }
  });
  const largestChange = Math.max(0.1, ...state.phases.flatMap((phase) => phase.sensitivity.flatMap((row) => [Math.abs(row[3] || 0), Math.abs(row[4] || 0)])));
  const x = (phase, n, domain) => ({ title: { text: `${phase.phase}: change of latency (${seconds(state.baseline(phase))})`, standoff: 6 }, tickformat: "+.0%", domain, anchor: `y${n}`, range: [-1.05 * Math.min(largestChange, 1), 1.05 * largestChange], zerolinecolor: t.ink });
  const y = (n) => ({ type: "category", anchor: `x${n}`, tickfont: { size: 11 } });
  draw("sensitivity", traces, layout({
    barmode: "group", bargap: 0.25, bargroupgap: 0.05,
    margin: { l: 10, r: 12, t: 30, b: 60 },
    xaxis: x(state.phases[0], "", [0.2, 0.49]), yaxis: y(""),
    xaxis2: x(state.phases[1], "2", [0.71, 1]), yaxis2: y("2"),
    legend: { orientation: "h", y: -0.17, yanchor: "top", bgcolor: "rgba(0,0,0,0)" },
  }));
  return memoryView(state, t);
}

function memoryView(state, t) {
  const parts = [["weights", "weights_bytes", OKABE.blue, ""], ["KV cache", "kv_cache_bytes", OKABE.vermillion, "/"], ["activations", "activations_bytes", OKABE.green, "."]];
  const names = state.phases.map((phase) => phase.phase);
  const traces = parts.map(([name, key, color, shape]) => ({
    type: "bar", orientation: "h", name, y: names, x: state.phases.map((phase) => phase.memory[key]),
    marker: { color, pattern: hatch(shape, t.paper) },
    text: state.phases.map((phase) => bytes(phase.memory[key])), textposition: "none", hovertemplate: `${name}: %{text}<extra>%{y}</extra>`,
  }));
  const capacity = state.phases[0].memory.capacity_bytes;
  const needed = state.phases.map((phase) => phase.memory.weights_bytes + phase.memory.kv_cache_bytes + phase.memory.activations_bytes);
  const label = { showarrow: false, font: { size: 11, color: t.ink }, bgcolor: t.paper };
  return draw("memory", traces, layout({
    barmode: "stack", margin: { l: 70, r: 20, t: 24, b: 56 },
    xaxis: { title: { text: "bytes of DRAM", standoff: 4 }, exponentformat: "SI", ticksuffix: "B", range: [0, 1.12 * Math.max(capacity, ...needed)] },
    yaxis: { autorange: "reversed", type: "category" },
    legend: { orientation: "h", y: -0.45, yanchor: "top", bgcolor: "rgba(0,0,0,0)" },
    shapes: [{ type: "line", xref: "x", yref: "paper", x0: capacity, x1: capacity, y0: 0, y1: 1, line: { color: t.ink, width: 2, dash: "dash" } }],
    annotations: [
      { ...label, xref: "x", yref: "paper", x: capacity, y: 1.02, yanchor: "bottom", xanchor: "center", text: `capacity ${bytes(capacity)}` },
      ...state.phases.map((phase, i) => ({ ...label, xref: "x", yref: "y", x: needed[i], y: phase.phase, xanchor: "left", xshift: 4, bgcolor: "rgba(0,0,0,0)", text: `${bytes(needed[i])}: ${phase.memory.fits ? "fits" : "DOES NOT FIT"}` })),
    ],
  }), STILL);
}
