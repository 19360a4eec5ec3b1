// View 4: latency and rate over lengths and batches, by the roofline engine, with the points where the bound changes.

const CURVE_BATCHES = [1, 8, 64];

function curvesView(state) {
  const t = theme();
  const [prefill, decode] = state.phases.map((phase) => state.roofline(phase));
  const chip = state.chipNow(state.chip);
  const at = state.positions();
  const over = (engine, list, step) => list.map((x, i) => ({ x, ...step(engine, i) }));
  const byPrompt = over(prefill, prefill.recipe.lengths, (engine, l) => engine.step(at.batch, l, chip));
  const batches = [...new Set([...CURVE_BATCHES, decode.recipe.batches[at.batch]])].sort((a, b) => a - b);
  const byContext = batches.map((batch) => over(decode, decode.recipe.lengths, (engine, l) => engine.step(engine.recipe.batches.indexOf(batch), l, chip)));
  const byBatch = over(decode, decode.recipe.batches, (engine, b) => engine.step(b, at.context, chip));
  const colors = [OKABE.blue, OKABE.vermillion, OKABE.green, OKABE.purple];
  const dashes = ["solid", "dash", "dot", "dashdot"];
  const traces = [];
  const add = (points, axis, value, name, n, shown) => {
    const suffix = axis === 1 ? "" : axis;
    const place = { xaxis: `x${suffix}`, yaxis: `y${suffix}` };
    const color = colors[n % colors.length];
    traces.push({
      type: "scatter", mode: "lines", ...place, x: points.map((p) => p.x), y: points.map((p) => p[value]), name, legendgroup: name, showlegend: shown,
      line: { color, width: 2, dash: dashes[n % dashes.length] },
      text: points.map((p) => `${value === "total_s" ? seconds(p.total_s) : rate(p.tokens_per_s, "tokens/s")}, mostly ${plain(p.bound_by)}`),
      hovertemplate: "%{x}: %{text}<extra></extra>",
    });
    const turns = points.filter((p, i) => i > 0 && p.bound_by !== points[i - 1].bound_by);
    const before = new Map(points.map((p, i) => [p, i > 0 ? points[i - 1].bound_by : ""]));
    traces.push({
      type: "scatter", mode: "markers", ...place, x: turns.map((p) => p.x), y: turns.map((p) => p[value]), name: "the bound changes", legendgroup: "turns",
      showlegend: axis === 1, marker: { symbol: "diamond", size: 10, color: t.paper, line: { color: t.ink, width: 2 } },
      text: turns.map((p) => `${plain(before.get(p))} until here, then ${plain(p.bound_by)}`), hovertemplate: "%{x}: %{text}<extra></extra>",
    });
  };
  const rates = [["total_s", 1], ["tokens_per_s", 4]];
  for (const [value, first] of rates) {
    const batch = `batch ${prefill.recipe.batches[at.batch]}`;
    add(byPrompt, first, value, batch, batches.indexOf(prefill.recipe.batches[at.batch]), false);
    byContext.forEach((points, n) => add(points, first + 1, value, `batch ${batches[n]}`, n, first === 1));
    add(byBatch, first + 2, value, batch, batches.indexOf(prefill.recipe.batches[at.batch]), false);
  }
  const [a, b] = state.phases;
  const engine = state.data.engine;
  const star = (axis, x, y, text) => traces.push({
    type: "scatter", mode: "markers", xaxis: `x${axis}`, yaxis: `y${axis}`, x: [x], y: [y], name: `${engine} engine, as asked`, legendgroup: "asked", showlegend: axis === "",
    marker: { symbol: "star", size: 13, color: OKABE.orange, line: { color: t.ink, width: 1 } }, text: [text], hovertemplate: "%{text}<extra></extra>",
  });
  star("", a.length, a.total_s, `${engine}: ${seconds(a.total_s)}`);
  star("4", a.length, a.tokens_per_s, `${engine}: ${rate(a.tokens_per_s, "tokens/s")}`);
  for (const [axis, x] of [["2", b.length], ["3", b.batch]]) star(axis, x, b.total_s, `${engine}: ${seconds(b.total_s)}`);
  for (const [axis, x] of [["5", b.length], ["6", b.batch]]) star(axis, x, b.tokens_per_s, `${engine}: ${rate(b.tokens_per_s, "tokens/s")}`);
  $("curves-see").textContent = `By the roofline engine; a star is the ${engine} engine's figure for what was asked: TTFT ${seconds(a.total_s)}, TPOT ${seconds(b.total_s)}. Diamonds: from here on something else binds most of the step.`;
  const x = (title, n) => ({ type: "log", title: { text: title, standoff: 4 }, anchor: `y${n}`, domain: [[0.06, 0.32], [0.4, 0.66], [0.74, 1]][(n - 1) % 3], nticks: 5, exponentformat: "SI", dtick: 1 });
  const decades = (n) => {
    const values = traces.filter((trace) => trace.yaxis === `y${n === 1 ? "" : n}`).flatMap((trace) => trace.y);
    return Math.log10(Math.max(...values) / Math.min(...values));
  };
  const y = (title, n) => ({ type: "log", title: { text: title, standoff: 2 }, anchor: `x${n}`, domain: n < 4 ? [0.57, 1] : [0, 0.42], exponentformat: "SI", dtick: decades(n) > 2.5 ? 1 : "D2", ticksuffix: n < 4 ? "s" : "" });
  const context = decode.recipe.lengths[at.context];
  return draw("curves", traces, layout({
    margin: { l: 16, r: 12, t: 30, b: 70 },
    xaxis: x("prompt", 1), yaxis: y("TTFT", 1),
    xaxis2: x("context", 2), yaxis2: y("TPOT", 2),
    xaxis3: x(`batch (context ${context})`, 3), yaxis3: y("TPOT", 3),
    xaxis4: x("prompt", 4), yaxis4: y("prefill tokens/s", 4),
    xaxis5: x("context", 5), yaxis5: y("decode tokens/s", 5),
    xaxis6: x(`batch (context ${context})`, 6), yaxis6: y("decode tokens/s", 6),
    legend: { orientation: "h", y: -0.13, yanchor: "top", bgcolor: "rgba(0,0,0,0)" },
  }));
}
