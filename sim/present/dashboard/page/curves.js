// View 4: latency and rate over lengths and batches, by the roofline engine, with the points where the bound changes.

const CURVE_BATCHES = [1, 8, 64];
const CURVE_COLORS = [OKABE.blue, OKABE.vermillion, OKABE.green, OKABE.purple];
const CURVES_MARGIN = { l: 72, r: 14, t: 30, b: 84 };

// What is drawn over what: a column of two figures each, latency above and tokens/s below.
function curveColumns(state) {
  const chip = state.chipNow(state.chip), at = state.at;
  const batch_of = (recipe) => recipe.batches[at.batch];
  return state.phases.flatMap((phase) => {
    const engine = state.roofline(phase), { recipe } = engine, length = at[state.length_of(phase)];
    const over = (list, step) => list.map((x, i) => ({ x, ...step(i) }));
    const byLength = (batch) => ({ batch, points: over(recipe.lengths, (l) => engine.step(recipe.batches.indexOf(batch), l, chip)) });
    const asked = { seconds: phase.total_s, tokens: phase.tokens_per_s };
    const latency = phase.phase === "prefill" ? "TTFT" : "TPOT";
    if (phase.phase === "prefill") return [{ title: "prompt [tokens]", latency, rate: "prefill tokens/s", lines: [byLength(batch_of(recipe))], asked: { x: phase.length, ...asked } }];
    const batches = [...new Set([...CURVE_BATCHES, batch_of(recipe)])].sort((a, b) => a - b);
    const byBatch = { batch: null, points: over(recipe.batches, (b) => engine.step(b, length, chip)) };
    return [
      { title: "context [tokens]", latency, rate: "decode tokens/s", lines: batches.map(byLength), asked: { x: phase.length, ...asked } },
      { title: `batch, context ${recipe.lengths[length]}`, latency, rate: "decode tokens/s", lines: [byBatch], asked: { x: phase.batch, ...asked } },
    ];
  });
}

function curvesView(state) {
  const t = theme(), columns = curveColumns(state), { engine } = state.data;
  const batches = [...new Set(columns.flatMap((column) => column.lines.map((line) => line.batch)))].filter((batch) => batch !== null).sort((a, b) => a - b);
  const traces = [], axes = {};
  const width = $("curves").clientWidth - CURVES_MARGIN.l - CURVES_MARGIN.r, height = $("curves").clientHeight - CURVES_MARGIN.t - CURVES_MARGIN.b;
  const gap = 84 / width, each = (1 - gap * (columns.length - 1)) / columns.length, between = 54 / height;
  const seen = new Set();
  const add = (trace) => { traces.push({ ...trace, legendgroup: trace.name, showlegend: !seen.has(trace.name) }); seen.add(trace.name); };
  columns.forEach((column, n) => {
    ["total_s", "tokens_per_s"].forEach((value, row) => {
      const number = n + 1 + row * columns.length, suffix = number === 1 ? "" : number;
      const place = { xaxis: `x${suffix}`, yaxis: `y${suffix}` };
      const written = (y) => (row === 0 ? seconds(y, 3) : scaled(y, "", BIG, 3));
      const asked = row === 0 ? column.asked.seconds : column.asked.tokens;
      for (const { batch, points } of column.lines) {
        const k = Math.max(0, batches.indexOf(batch));
        add({
          type: "scatter", mode: "lines", ...place, x: points.map((p) => p.x), y: points.map((p) => p[value]), name: batch === null ? "over batches" : `batch ${batch}`,
          line: batch === null ? { color: t.ink, width: 2 } : { color: CURVE_COLORS[k % 4], width: 2, dash: DASHES[k % 4] },
          text: points.map((p) => `${row === 0 ? seconds(p.total_s) : rate(p.tokens_per_s, "tokens/s")}, mostly ${plain(p.bound_by)}`),
          hovertemplate: "%{x}: %{text}<extra></extra>",
        });
      }
      const turns = column.lines.flatMap(({ points }) => points.flatMap((p, i) => (i > 0 && p.bound_by !== points[i - 1].bound_by ? [{ ...p, before: points[i - 1].bound_by }] : [])));
      add({
        type: "scatter", mode: "markers", ...place, x: turns.map((p) => p.x), y: turns.map((p) => p[value]), name: "the bound changes",
        marker: { symbol: "diamond", size: 10, color: t.paper, line: { color: t.ink, width: 2 } },
        text: turns.map((p) => `${plain(p.before)} until here, then ${plain(p.bound_by)}`), hovertemplate: "%{x}: %{text}<extra></extra>",
      });
      add({
        type: "scatter", mode: "markers", ...place, x: [column.asked.x], y: [asked], name: `${engine} engine, as asked`,
        marker: { symbol: "star", size: 13, color: OKABE.orange, line: { color: t.ink, width: 1 } }, text: [`${engine}: ${written(asked)}`], hovertemplate: "%{text}<extra></extra>",
      });
      const xs = column.lines.flatMap(({ points }) => points.map((p) => p.x)), ys = [asked, ...column.lines.flatMap(({ points }) => points.map((p) => p[value]))];
      const [low, high] = [Math.min(...ys), Math.max(...ys)], edge = Math.max(0.06, 0.05 * Math.log10(high / low));
      const begin = n * (each + gap);
      axes[`xaxis${suffix}`] = {
        type: "log", title: { text: column.title, standoff: 4 }, anchor: `y${suffix}`, domain: [begin, begin + each],
        range: [Math.log10(Math.min(...xs)) - 0.08, Math.log10(Math.max(...xs)) + 0.08], ...logTicks(Math.min(...xs), Math.max(...xs), (x) => scaled(x, "", BIG), 5),
      };
      axes[`yaxis${suffix}`] = {
        type: "log", title: { text: row === 0 ? column.latency : column.rate, standoff: 4 }, anchor: `x${suffix}`, domain: row === 0 ? [0.5 + between / 2, 1] : [0, 0.5 - between / 2],
        range: [Math.log10(low) - edge, Math.log10(high) + edge], ...logTicks(low, high, written, 5),
      };
    });
  });
  $("curves-see").textContent = `By the roofline engine; a star is the ${engine} engine's figure for what was asked: ${state.phases.map((phase) => `${phase.phase === "prefill" ? "TTFT" : "TPOT"} ${seconds(phase.total_s)}`).join(", ")}. Diamonds: from here on something else binds most of the step.`;
  return draw("curves", traces, layout({ margin: CURVES_MARGIN, ...axes, legend: legendBelow("curves", CURVES_MARGIN, 46) }));
}
