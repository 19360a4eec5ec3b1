// View 1: every op as a point under the roofs of the chip; several chips on top of each other.

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const ROOFLINE_MARGIN = { l: 74, r: 16, t: 30, b: 104 };

function rooflineView(state) {
  const t = theme();
  const engine = state.isNeutral() ? `${state.data.engine} engine` : "roofline engine at the sliders";
  $("roofline-see").textContent = `Ops under a slope wait for that memory, ops under a flat roof for the arithmetic; far below both, something else is lost. Filled: prefill, open: decode; size: share of the time; ${engine}.`;
  const shown = state.data.chips.map((_, i) => i).filter((i) => state.overlay.has(i));
  const chips = shown.map((i) => [i, state.chipNow(i)]);
  const found = shown.flatMap((chip) => state.points(chip).map((point) => ({ ...point, chip })));
  const span = rooflineSpan(found, chips.map(([, chip]) => chip));
  const points = found.map((point) => ({ ...point, ...placeOf(point, span), size: 9 + 36 * Math.sqrt(point.share) }));
  const traces = chips.flatMap(([i, chip]) => roofTraces(chip, span, DASHES[i % DASHES.length], t));
  traces.push(...pointTraces(state, points, t));
  const strip = stripPlace(points, span, chips.map(([, chip]) => chip));
  const own = chips.sort(([a], [b]) => (b === state.chip) - (a === state.chip)).map(([i, chip]) => [chip, i === state.chip]);
  return draw("roofline", traces, layout({
    margin: ROOFLINE_MARGIN,
    xaxis: { type: "log", range: span.x, title: { text: "operational intensity [FLOP per byte of DRAM]", standoff: 6 }, ...logTicks(10 ** span.x[0], 10 ** span.x[1], (x) => (x < 1 ? String(x) : scaled(x, "", BIG)), 9) },
    yaxis: { type: "log", range: span.y, title: { text: "attained rate [FLOP/s]", standoff: 6 }, ...logTicks(10 ** span.y[0], 10 ** span.y[1], (y) => scaled(y, "", BIG), 10) },
    legend: { ...legendBelow("roofline", ROOFLINE_MARGIN, 46), itemsizing: "constant" },
    shapes: strips(span, t),
    annotations: [...stripLabels(span, strip), ...roofLabels(own, points, strip, span, $("roofline"), t)],
    uirevision: "roofline",
  }));
}

// Where a point stands on the axes; ops without FLOPs, or without a byte of DRAM, stand in strips at the edges.
function placeOf(p, span) {
  const onChip = 10 ** (p.dram_bytes > 0 ? span.x[0] + 0.15 : (span.onChip + span.x[1]) / 2);
  return {
    x: p.dram_bytes > 0 && p.flops > 0 ? p.flops / p.dram_bytes : onChip,
    y: p.flops > 0 && p.latency_s > 0 ? attained(p) : 10 ** ((span.y[0] + span.moves) / 2),
  };
}

// While an op runs: its share of the group's latency, or, where ops of a group run at the same time, what its own unit takes for it.
const attained = (p) => p.flops / Math.max(p.latency_s / p.count, p.busy_s);

// The window in decades; ops that move nothing through DRAM stand in a strip on the right, those without a FLOP in one at the bottom.
function rooflineSpan(points, chips) {
  const finite = points.filter((p) => p.flops > 0 && p.latency_s > 0);
  const xs = finite.filter((p) => p.dram_bytes > 0).map((p) => Math.log10(p.flops / p.dram_bytes));
  const ys = finite.map((p) => Math.log10(attained(p)));
  const peaks = chips.flatMap((chip) => Object.values(chip.macs_per_s).map((macs) => Math.log10(2 * macs)));
  const ridges = chips.flatMap((chip) => Object.values(chip.macs_per_s).map((macs) => Math.log10((2 * macs) / chip.levels[0].read)));
  const low = Math.floor(Math.min(...ys)) - 0.6;
  const left = Math.min(...xs, ...ridges) - 0.4, right = Math.max(...xs, ...ridges) + 0.4;
  return { x: [left, right + 0.9], y: [low, Math.max(...peaks) + 0.5], onChip: right, moves: low + 0.5 };
}

function strips(span, t) {
  const edge = { type: "rect", layer: "below", line: { width: 0 }, fillcolor: t.soft };
  return [
    { ...edge, xref: "x", yref: "paper", x0: 10 ** span.onChip, x1: 10 ** span.x[1], y0: 0, y1: 1 },
    { ...edge, xref: "paper", yref: "y", x0: 0, x1: 1, y0: 10 ** span.y[0], y1: 10 ** span.moves },
  ];
}

// Where the name of the strip on the right stands, in decades: farthest from the points in it and from roofs.
function stripPlace(points, span, chips) {
  const inside = points.filter((p) => p.x > 10 ** span.onChip).map((p) => p.y);
  const taken = [...inside, ...chips.flatMap((chip) => flatRoofs(chip).map((roof) => roof.flops))].map(Math.log10);
  const room = span.y[1] - span.moves, free = (y) => Math.min(room, ...taken.map((each) => Math.abs(each - y)));
  const places = Array.from({ length: 18 }, (_, k) => span.moves + (0.08 + 0.05 * k) * room);
  return [(span.onChip + span.x[1]) / 2, places.reduce((best, each) => (free(each) > free(best) ? each : best))];
}

function stripLabels(span, [x, y]) {
  const label = { showarrow: false, font: { size: 11, color: theme().faint } };
  return [
    { ...label, xref: "x", yref: "y", x, y, text: "no byte<br>of DRAM", yanchor: "middle" },
    { ...label, xref: "paper", yref: "y", x: 0.5, y: (span.y[0] + span.moves) / 2, text: "only moves: no FLOP" },
  ];
}

// Roofs of the matrix unit, formats of one peak together; last that of the vector unit, by its additions.
function flatRoofs(chip) {
  const vector = { names: ["vector"], flops: 1 / chip.primitive_s.add };
  return [...peaks(chip), vector];
}

function peaks(chip) {
  const found = [];
  for (const [name, macs] of Object.entries(chip.macs_per_s)) {
    const same = found.find((each) => Math.abs(each.flops / (2 * macs) - 1) < 0.02);
    if (same) same.names.push(name);
    else found.push({ names: [name], flops: 2 * macs });
  }
  return found.sort((a, b) => b.flops - a.flops);
}

function roofTraces(chip, span, dash, t) {
  const tops = peaks(chip), top = tops[0].flops;
  const traces = [];
  const line = (x, y, width, name) => traces.push({
    type: "scatter", mode: "lines", x, y, line: { color: t.faint, width, dash }, hoverinfo: "skip", showlegend: false, name,
  });
  chip.levels.forEach((level, i) => {
    const ridge = top / level.read;
    line([10 ** span.x[0], ridge], [10 ** span.x[0] * level.read, top], i === 0 ? 2.4 : 1.2, `roof ${chip.name} ${level.name}`);
  });
  for (const peak of flatRoofs(chip)) {
    const from = Math.min(...chip.levels.map((level) => peak.flops / level.read));
    line([from, 10 ** span.x[1]], [peak.flops, peak.flops], peak.names[0] === "vector" ? 1.2 : 2.4, `roof ${chip.name} ${peak.names.join(", ")}`);
  }
  const ridges = tops.flatMap((peak) => chip.levels.map((level) => ({ peak, level, x: peak.flops / level.read })));
  traces.push({
    type: "scatter", mode: "markers", name: `ridge points ${plain(chip.name)}`, showlegend: false,
    x: ridges.map((r) => r.x), y: ridges.map((r) => r.peak.flops),
    marker: { symbol: "line-ns-open", size: 12, color: t.ink, line: { width: 2, color: t.ink } },
    text: ridges.map((r) => `${plain(chip.name)}: ridge of ${r.peak.names.join(", ")} and ${plain(r.level.name)}<br>${Number(r.x.toPrecision(4))} FLOP/B`),
    hovertemplate: "%{text}<extra></extra>",
  });
  return traces;
}

// Names of roofs, each along its line, above or below it, where it covers the fewest points and no other name; one that finds no such place is left out. Of chips
// beside the chosen one only the highest roof and DRAM carry a name.
function roofLabels(chips, points, strip, span, figure, t) {
  const width = figure.clientWidth - ROOFLINE_MARGIN.l - ROOFLINE_MARGIN.r, height = figure.clientHeight - ROOFLINE_MARGIN.t - ROOFLINE_MARGIN.b;
  const onScreen = ([x, y]) => [((x - span.x[0]) / (span.x[1] - span.x[0])) * width, ((y - span.y[0]) / (span.y[1] - span.y[0])) * height];
  const taken = points.map((p) => [...onScreen([Math.log10(p.x), Math.log10(p.y)]), p.size / 2 + 6, 1]);
  taken.push([...onScreen(strip), 34, 100]);
  const lines = chips.flatMap(([chip, whole]) => roofLines(chip, whole, span, chips.length > 1));
  const found = [];
  for (const { text, from, to, near } of lines) {
    const [a, b] = [onScreen(from), onScreen(to)];
    const length = Math.hypot(b[0] - a[0], b[1] - a[1]), half = 3.3 * text.length + 4;
    const [ux, uy] = [(b[0] - a[0]) / length, (b[1] - a[1]) / length];
    const best = { hits: 100 };
    for (let n = 0; n < 50; n++) { // above the line, then below it
      const at = half + 4 + (length - 2 * half - 8) * Math.abs(near - (n % 25) / 24), beside = n < 25 ? 9 : -9;
      if (length < 2 * half + 8) break;
      const middle = [a[0] + ux * at - beside * uy, a[1] + uy * at + beside * ux];
      const reach = Array.from({ length: Math.ceil(half / 5) + 1 }, (_, k) => -half + (2 * half * k) / Math.ceil(half / 5)).map((along) => [middle[0] + ux * along, middle[1] + uy * along]);
      const hits = taken.reduce((sum, [x, y, r, weight]) => sum + (reach.some(([rx, ry]) => Math.hypot(rx - x, ry - y) < r) ? weight : 0), 0);
      if (hits < best.hits) Object.assign(best, { hits, middle, reach });
    }
    if (!best.middle) continue;
    taken.push(...best.reach.map(([x, y]) => [x, y, 13, 100]));
    found.push({
      showarrow: false, xref: "paper", yref: "paper", x: best.middle[0] / width, y: best.middle[1] / height, xanchor: "center", yanchor: "middle",
      textangle: (-Math.atan2(uy, ux) * 180) / Math.PI, font: { size: 11, color: t.ink }, text: plain(text), bgcolor: `${t.paper}B0`, borderpad: 0,
    });
  }
  return found;
}

// The lines that may carry a name: their ends in decades, and where along them the name is best.
function roofLines(chip, whole, span, many) {
  const who = many ? `${chip.name}: ` : "", tops = peaks(chip), top = Math.log10(tops[0].flops);
  const flat = (whole ? flatRoofs(chip) : tops.slice(0, 1)).map((peak) => {
    const y = Math.log10(peak.flops), ridge = y - Math.log10(Math.max(...chip.levels.map((level) => level.read)));
    const unit = peak.names.every((name) => name.startsWith("int") || name === "vector") ? "OP/s" : "FLOP/s";
    return { text: `${who}${peak.names.join(", ")} ${rate(peak.flops, unit)}`, from: [Math.max(ridge, span.x[0]), y], to: [span.x[1], y], near: 1 };
  });
  const slopes = (whole ? chip.levels : chip.levels.slice(0, 1)).flatMap((level) => {
    const bandwidth = Math.log10(level.read), from = Math.max(span.x[0], span.moves - bandwidth), to = Math.min(span.x[1], top - bandwidth);
    return to > from ? [{ text: `${who}${level.name} ${rate(level.read, "B/s")}`, from: [from, from + bandwidth], to: [to, to + bandwidth], near: 0.5 }] : [];
  });
  return [...slopes, ...flat];
}

// One trace per kind of op; prefill is filled, decode open, other chips are faint.
function pointTraces(state, points, t) {
  const kinds = [...new Set(points.map((p) => p.kind))];
  const traces = kinds.map((kind) => {
    const own = points.filter((p) => p.kind === kind);
    const [color, symbol] = kindStyle(kind);
    return {
      type: "scatter", mode: "markers", name: kind, legendgroup: kind,
      x: own.map((p) => p.x), y: own.map((p) => p.y),
      customdata: own.map((p) => p.name),
      text: own.map((p) => pointText(state, p)),
      hovertemplate: "%{text}<extra></extra>",
      marker: {
        symbol: own.map((p) => (p.phase === "decode" ? `${symbol}-open` : symbol)),
        size: own.map((p) => p.size),
        color,
        opacity: own.map((p) => opacityOf(state, p)),
        line: { width: own.map((p) => (p.name === state.chosen ? 4 : p.phase === "decode" ? 2 : 1)), color: own.map((p) => (p.name === state.chosen ? t.ink : p.phase === "decode" ? color : t.paper)) },
      },
    };
  });
  for (const [name, symbol] of [["prefill", "circle"], ["decode", "circle-open"]]) {
    if (!state.phases.some((phase) => phase.phase === name)) continue;
    traces.push({ type: "scatter", mode: "markers", x: [null], y: [null], name, marker: { symbol, size: 9, color: t.ink, line: { width: 2 } } });
  }
  return traces;
}

function opacityOf(state, point) {
  const base = point.chip === state.chip ? 0.9 : 0.4;
  return state.chosen === null || point.name === state.chosen ? base : base * 0.25;
}

function pointText(state, p) {
  const intensity = p.dram_bytes > 0 ? `${Number((p.flops / p.dram_bytes).toPrecision(4))} FLOP/B` : "no byte of DRAM";
  const speed = p.flops > 0 && p.latency_s > 0 ? rate(attained(p), "FLOP/s") : "no FLOP";
  return [
    `<b>${plain(p.name)}</b>${p.count > 1 ? ` (${p.count} alike)` : ""}`,
    `${p.kind}, ${p.phase}, ${plain(state.data.chips[p.chip].name)}`,
    `${intensity}, ${speed}`,
    `${seconds(p.latency_s)}, ${percent(p.share)} of the step, bound by ${plain(p.bound_by)}`,
  ].join("<br>");
}
