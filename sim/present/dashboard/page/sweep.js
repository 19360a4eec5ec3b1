// View 6: all chips of a sweep; what they cost and what they give, and the chip under the pointer in full.

const SVG_POINTS = 4000;

let webGL = null;
function hasWebGL() {
  if (webGL === null) {
    const canvas = document.createElement("canvas");
    webGL = Boolean(canvas.getContext("webgl") || canvas.getContext("experimental-webgl"));
  }
  return webGL;
}

// A sweep with its columns as functions of the row.
async function loadSweep(given) {
  const columns = {};
  for (const [name, column] of Object.entries(given.columns)) {
    if (column.truths) { const truths = await unpacked(column.truths); columns[name] = { at: (i) => truths[i] === 1, kind: "truth" }; }
    else if (column.values) { const values = await unpacked(column.values); columns[name] = { at: (i) => values[i], kind: "number" }; }
    else {
      const codes = await unpacked(column.codes), list = column.words || column.numbers;
      columns[name] = { at: (i) => list[codes[i]], kind: column.words ? "word" : "number", list, codes };
    }
  }
  const sweep = { ...given, columns, workloads: new Map(), brushes: {}, known: new Map() };
  for (let i = 0; i < given.shown; i++) {
    const key = given.workload_columns.map((name) => columns[name].at(i)).join(", ");
    if (!sweep.workloads.has(key)) sweep.workloads.set(key, []);
    sweep.workloads.get(key).push(i);
  }
  sweep.numbers = Object.keys(columns).filter((name) => columns[name].kind === "number" && !given.workload_columns.includes(name));
  const [x, y] = [given.objectives[0], given.objectives[1] || given.varied.find((name) => columns[name].kind === "number") || "floor_s"];
  sweep.choice = { workload: sweep.workloads.keys().next().value, x, y };
  return sweep;
}

async function sweepView(state) {
  const given = state.data.sweep;
  if (!given) return;
  if (!state.sweep) {
    state.sweep = await loadSweep(given);
    sweepChoices(state);
  }
  const { sweep } = state;
  const axes = axesOf(sweep), rows = sweep.workloads.get(sweep.choice.workload);
  const kept = brushed(sweep, axes, rows);
  const front = frontOf(sweep, kept.filter((i) => sweep.columns.feasible.at(i)));
  $("sweep-see").textContent = `${sweep.name}: ${sweep.points.toLocaleString("en")} points. Point at a chip, or choose one of the front, to see it in full.`;
  const notes = ["The line joins the chips that no other one beats in both figures."];
  if (sweep.no_chips) notes.push(`${sweep.no_chips.toLocaleString("en")} points contradict themselves and are left out.`);
  if (sweep.shown + sweep.no_chips < sweep.points) notes.push(`An even sample of ${sweep.shown.toLocaleString("en")} points, with the whole front.`);
  if (!hasWebGL()) notes.push(`This browser has no WebGL: of the points an even sample of at most ${SVG_POINTS.toLocaleString("en")} is drawn, as SVG; the front is whole.`);
  $("sweep-note").textContent = notes.join(" ");
  $("parallel-note").textContent = Object.keys(sweep.brushes).length ? `${kept.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} chips pass the ranges on the axes; both figures show them, and the front is theirs.` : "";
  frontChoice(state, front);
  parallelView(state, axes, rows, kept, front);
  await pause();
  await frontView(state, rows, kept, front);
  await pause();
  await densities(sweep, axes, rows, kept);
}

function sampled(rows, most) {
  const step = Math.ceil(rows.length / most);
  return step <= 1 ? rows : rows.filter((_, i) => i % step === 0);
}

const cost = (sweep, name, i) => (sweep.larger_is_better.includes(name) ? -sweep.columns[name].at(i) : sweep.columns[name].at(i));

// Rows that no other is at most as dear as in both figures and cheaper in one, by the first figure.
function frontOf(sweep, rows) {
  const { x, y } = sweep.choice;
  const points = rows.map((i) => [cost(sweep, x, i), cost(sweep, y, i), i]).filter((p) => !Number.isNaN(p[0] + p[1]));
  points.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]);
  let least = Infinity;
  const front = [];
  for (const [, second, i] of points) if (second < least) { least = second; front.push(i); }
  return front;
}

function sweepChoices(state) {
  const { sweep } = state;
  const choice = (title, name, options, written = (each) => each) => {
    const select = element("select", { id: `sweep-${name}` }, ...options.map((each) => element("option", { value: each }, written(each))));
    select.value = sweep.choice[name];
    select.addEventListener("change", () => { sweep.choice[name] = select.value; if (name === "workload") sweep.brushes = {}; sweepView(state); });
    return element("label", {}, `${title} `, select);
  };
  $("sweep-choices").replaceChildren(
    choice("Workload", "workload", [...sweep.workloads.keys()], (key) => workloadName(sweep, key)), choice("x", "x", sweep.numbers), choice("y", "y", sweep.numbers),
    element("label", {}, "Front ", element("select", { id: "sweep-front" })),
  );
  $("sweep-front").addEventListener("change", (event) => { if (event.target.value !== "") showChip(state, Number(event.target.value)); });
}

// Model and phase, and what else parts it from the other workloads.
function workloadName(sweep, key) {
  const first = [...sweep.workloads.values()].map((rows) => rows[0]), own = sweep.workloads.get(key)[0];
  const told = sweep.workload_columns.filter((name) => !["model", "phase"].includes(name) && new Set(first.map((i) => sweep.columns[name].at(i))).size > 1);
  const text = (name) => String(sweep.columns[name].at(own));
  return [["model", "phase"].map(text).join(" "), ...told.filter((name) => text(name) !== "").map((name) => `${name} ${text(name)}`)].join(", ");
}

function frontChoice(state, front) {
  const { sweep } = state, { x, y } = sweep.choice;
  const options = front.map((i) => element("option", { value: i }, `${figure(sweep, x, i)}, ${figure(sweep, y, i)}`));
  $("sweep-front").replaceChildren(element("option", { value: "" }, front.length === 1 ? "1 chip" : `${front.length} chips`), ...options);
}

// A number of a column with its unit.
function written(sweep, name, value, digits = 6) {
  const unit = sweep.units[name] || "";
  if (unit === "s") return seconds(value, Math.min(4, digits));
  if (unit === "B") return capacity(value);
  if (unit === "J") return joules(value, Math.min(4, digits));
  if (["B/s", "Hz", "W"].includes(unit)) return rate(value, unit, Math.min(4, digits));
  return `${Number(value.toPrecision(digits))} ${unit}`.trim();
}

function figure(sweep, name, i) {
  const value = sweep.columns[name].at(i);
  return typeof value === "number" ? written(sweep, name, value) : String(value);
}

function showChip(state, i) {
  const { sweep } = state;
  const list = element("dl");
  for (const name of Object.keys(sweep.columns)) list.append(element("dt", {}, name), element("dd", {}, figure(sweep, name, i)));
  sweep.point?.(i);
  $("sweep-point").replaceChildren(element("h3", {}, `${sweep.columns.chip.at(i)}: row ${i}`), list);
}

// Axes of the parallel coordinates, of one workload: what was varied, the objectives and the main figures, each once and only where points
// differ. `values` are in the order of its rows, in decades on a logarithmic axis.
function axesOf(sweep) {
  const key = sweep.choice.workload;
  if (sweep.known.has(key)) return sweep.known.get(key);
  const rows = sweep.workloads.get(key);
  const found = [...new Set([...sweep.varied, ...sweep.objectives, ...sweep.metrics])].flatMap((name) => {
    const column = sweep.columns[name], word = column.kind === "word";
    const values = Float64Array.from(rows, (i) => (word ? column.codes[i] : Number(column.at(i))));
    let low = Infinity, high = -Infinity;
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    if (!(high > low)) return [];
    const log = !word && low > 0 && high / low > 4;
    const scale = (value) => (log ? Math.log10(value) : value);
    const ticks = axisTicks(sweep, name, values, low, high, log).map(([value, text]) => [scale(value), text]);
    return [{ name, values: log ? values.map(Math.log10) : values, low: scale(low), high: scale(high), ticks }];
  });
  sweep.known.set(key, found);
  return found;
}

// Every value where they are few, else round ones.
function axisTicks(sweep, name, values, low, high, log) {
  const column = sweep.columns[name], text = (value) => [value, written(sweep, name, value, 4)];
  if (column.kind === "word") return column.list.map((word, code) => [code, word]).filter(([code]) => code >= low && code <= high);
  const distinct = new Set();
  for (const value of values) { distinct.add(value); if (distinct.size > 8) break; }
  if (distinct.size <= 8) return [...distinct].map(text);
  if (log) return logTicks(low, high, (value) => value, 8).tickvals.filter((value) => value >= low && value <= high).map(text);
  return roundNumbers(low, high, 5).map(text);
}

// The rows that pass every range on an axis.
function brushed(sweep, axes, rows) {
  const held = axes.filter((axis) => axis.name in sweep.brushes).map((axis) => [axis.values, ...sweep.brushes[axis.name]]);
  return held.length ? rows.filter((_, n) => held.every(([values, from, to]) => values[n] >= from && values[n] <= to)) : rows;
}

// Parallel coordinates: every chip is a line, in pictures that are darker where more of them pass; the front and the axes on top. It is drawn
// here and not by Plotly, whose own needs WebGL, cannot be saved as SVG, and marks no front.
function parallelView(state, axes, rows, kept, front) {
  const { sweep } = state, holder = $("parallel"), width = holder.clientWidth, height = holder.clientHeight, t = theme();
  const top = 52, bottom = height - 16;
  const x = axes.map((_, k) => Math.round(34 + (k * (width - 130)) / Math.max(1, axes.length - 1)));
  const place = (axis, value) => bottom - ((bottom - top) * (value - axis.low)) / (axis.high - axis.low);
  const lines = axes.map((axis) => Float32Array.from(axis.values, (value) => place(axis, value)));
  const index = new Int32Array(sweep.shown).fill(-1);
  rows.forEach((i, n) => { index[i] = n; });
  const focus = document.activeElement?.dataset?.axis;
  const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "parallel" });
  const pictures = ["all", "kept"].map((name) => svgElement("image", { x: 0, y: 0, width, height, "data-lines": name }));
  svg.append(...pictures);
  const path = (i) => axes.map((_, k) => `${k ? "L" : "M"}${x[k]},${lines[k][index[i]].toFixed(1)}`).join("");
  for (const i of front) svg.append(svgElement("path", { d: path(i), "data-row": i, style: `fill:none;stroke:${OKABE.vermillion};stroke-width:1.6` }));
  const pointed = svgElement("path", { id: "pointed", d: "", style: `fill:none;stroke:${t.ink};stroke-width:3` });
  svg.append(pointed);
  const drawn = { x, lines, width, height, pictures, place, bottom, top, pointed };
  axes.forEach((axis, k) => svg.append(axisOf(state, axis, k, drawn, t)));
  svg.addEventListener("pointermove", (event) => {
    if (event.buttons) return;
    const found = nearest(event.offsetX, event.offsetY, drawn, rows, kept, index);
    if (found !== null) showChip(state, found);
  });
  holder.replaceChildren(svg);
  sweep.point = (i) => pointed.setAttribute("d", index[i] >= 0 ? path(i) : "");
  sweep.drawn = drawn;
  if (focus) holder.querySelector(`[data-axis="${CSS.escape(focus)}"]`)?.focus();
}

const NEAR_PX = 6;

// The chip whose line passes next to a place, or null.
function nearest(px, py, { x, lines }, rows, kept, index) {
  const k = x.findIndex((at, i) => at <= px && px < x[i + 1]);
  if (k < 0) return null;
  const part = (px - x[k]) / (x[k + 1] - x[k]), [left, right] = [lines[k], lines[k + 1]];
  let best = null, least = NEAR_PX;
  for (const i of kept) {
    const n = index[i], distance = Math.abs(left[n] + part * (right[n] - left[n]) - py);
    if (distance < least) { least = distance; best = i; }
  }
  return best;
}

// One axis with its name, its ticks and its range, which is dragged, or moved by keyboard in twentieths.
function axisOf(state, axis, k, { x, place, top, bottom }, t) {
  const { brushes } = state.sweep, at = x[k];
  const group = svgElement("g", { class: "axis", "data-axis": axis.name, tabindex: 0, role: "slider", "aria-orientation": "vertical", "aria-label": `Range of ${axis.name}` });
  const [from, to] = brushes[axis.name] || [axis.low, axis.high];
  group.setAttribute("aria-valuetext", brushes[axis.name] ? `part of the axis, ${percent((from - axis.low) / (axis.high - axis.low), 0)} to ${percent((to - axis.low) / (axis.high - axis.low), 0)}` : "all");
  group.setAttribute("aria-valuemin", 0);
  group.setAttribute("aria-valuemax", 100);
  group.setAttribute("aria-valuenow", Math.round((100 * (from - axis.low)) / (axis.high - axis.low)));
  const hold = svgElement("rect", { class: "hold", x: at - 8, width: 16, y: place(axis, to), height: Math.max(1, place(axis, from) - place(axis, to)), style: `fill:${t.accent};fill-opacity:${brushes[axis.name] ? 0.35 : 0}` });
  group.append(svgElement("rect", { x: at - 14, width: 28, y: top - 6, height: bottom - top + 12, fill: "transparent" }), hold);
  group.append(svgElement("path", { d: `M${at},${top}V${bottom}`, style: `stroke:${t.ink};stroke-width:1.5` }));
  const words = { x: at, y: k % 2 ? 14 : 34, style: `fill:${t.ink};font:600 11px system-ui,sans-serif;text-anchor:${k === 0 ? "start" : "middle"}` };
  if (k === 0) words.x = at - 8;
  group.append(svgElement("text", words, axis.name));
  const halo = `fill:${t.ink};stroke:${t.paper};stroke-width:3px;paint-order:stroke;font:11px system-ui,sans-serif;pointer-events:none`;
  for (const [value, text] of axis.ticks) {
    group.append(svgElement("path", { d: `M${at - 3},${place(axis, value)}h6`, style: `stroke:${t.ink};stroke-width:1` }));
    group.append(svgElement("text", { x: at + 6, y: place(axis, value) + 4, style: halo }, shortened(text, 16)));
  }
  const value = (y) => axis.low + ((bottom - Math.min(bottom, Math.max(top, y))) / (bottom - top)) * (axis.high - axis.low);
  const set = (range) => {
    if (range === null) delete brushes[axis.name]; else brushes[axis.name] = range;
    sweepView(state);
  };
  let begun = null;
  group.addEventListener("pointerdown", (event) => { begun = event.offsetY; group.setPointerCapture(event.pointerId); group.focus({ preventScroll: true }); event.preventDefault(); });
  group.addEventListener("pointermove", (event) => {
    if (begun === null) return;
    const [high, low] = [Math.max(top, Math.min(begun, event.offsetY)), Math.min(bottom, Math.max(begun, event.offsetY))];
    hold.setAttribute("y", high);
    hold.setAttribute("height", Math.max(1, low - high));
    hold.style.fillOpacity = 0.35;
  });
  group.addEventListener("pointerup", (event) => {
    if (begun === null) return;
    const range = [value(Math.max(begun, event.offsetY)), value(Math.min(begun, event.offsetY))];
    const dragged = Math.abs(begun - event.offsetY) > 3;
    begun = null;
    set(dragged ? range : null);
  });
  group.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { set(null); return; }
    const sign = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!sign) return;
    event.preventDefault();
    const range = [...(brushes[axis.name] || [axis.low, axis.high])], end = event.shiftKey ? 1 : 0;
    range[end] = Math.min(axis.high, Math.max(axis.low, range[end] + (sign * (axis.high - axis.low)) / 20));
    set(range[0] < range[1] ? range : null);
  });
  return group;
}

const LINES_AT_A_TIME = 20000;

// The pictures of the lines: of those that pass the ranges, and, faint, of all where some do not.
async function densities(sweep, axes, rows, kept) {
  const { drawn } = sweep, t = theme();
  const index = new Map(kept.length < rows.length ? rows.map((i, n) => [i, n]) : []);
  if (kept.length < rows.length) await density(sweep, drawn, drawn.pictures[0], rows.map((_, n) => n), mixed(t.faint, t.paper, 0.5));
  await density(sweep, drawn, drawn.pictures[1], kept.length < rows.length ? kept.map((i) => index.get(i)) : rows.map((_, n) => n), OKABE.blue);
}

// How many lines pass each pixel, as a picture; ends when another drawing has begun.
async function density(sweep, drawn, picture, members, color) {
  const { x, lines } = drawn, width = Math.round(drawn.width), height = Math.round(drawn.height);
  const passed = new Float32Array(width * height);
  for (let begin = 0; begin < members.length; begin += LINES_AT_A_TIME) {
    const end = Math.min(members.length, begin + LINES_AT_A_TIME);
    for (let k = 0; k + 1 < x.length; k++) {
      const [left, right] = [lines[k], lines[k + 1]], columns = x[k + 1] - x[k];
      for (let m = begin; m < end; m++) {
        let at = left[members[m]] + 0.5;
        const slope = (right[members[m]] + 0.5 - at) / columns;
        for (let column = x[k]; column < x[k + 1]; column++, at += slope) passed[(at | 0) * width + column] += 1;
      }
    }
    await pause();
    if (sweep.drawn !== drawn) return;
  }
  const most = Math.log1p(passed.reduce((a, b) => Math.max(a, b), 0));
  const canvas = element("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const parts = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  for (let i = 0; i < passed.length; i++) {
    if (passed[i] === 0) continue;
    image.data.set([...parts, 40 + 190 * (Math.log1p(passed[i]) / most)], 4 * i);
  }
  context.putImageData(image, 0, 0);
  picture.setAttribute("href", canvas.toDataURL("image/png"));
}

const FRONT_MARGIN = { l: 88, r: 24, t: 30, b: 84 };

async function frontView(state, rows, kept, front) {
  const { sweep } = state, { x, y } = sweep.choice, t = theme();
  const shown = (list) => (hasWebGL() ? list : sampled(list, SVG_POINTS));
  const feasible = shown(kept.filter((i) => sweep.columns.feasible.at(i))), others = shown(kept.filter((i) => !sweep.columns.feasible.at(i)));
  const cloud = (own, name, color, symbol, more = {}) => ({
    type: hasWebGL() && rows.length > SVG_POINTS ? "scattergl" : "scatter", mode: "markers", name, x: own.map((i) => sweep.columns[x].at(i)), y: own.map((i) => sweep.columns[y].at(i)), customdata: own,
    marker: { color, size: 5, opacity: 0.5, symbol }, hoverinfo: "none", ...more,
  });
  const traces = [];
  if (kept.length < rows.length) traces.push(cloud(sampled(rows, SVG_POINTS), "outside the ranges", mixed(t.faint, t.paper, 0.6), "circle", { hoverinfo: "skip" }));
  traces.push(cloud(feasible, "meets the constraints", OKABE.blue, "circle"));
  if (others.length) traces.push(cloud(others, "misses a constraint", OKABE.grey, "x"));
  traces.push({
    type: "scatter", mode: "lines+markers", name: "Pareto front", x: front.map((i) => sweep.columns[x].at(i)), y: front.map((i) => sweep.columns[y].at(i)), customdata: front,
    line: { color: OKABE.vermillion, width: 2, shape: "hv" }, marker: { color: OKABE.vermillion, size: 9, symbol: "diamond", line: { color: t.ink, width: 1 } }, hoverinfo: "none",
  });
  await draw("front", traces, layout({
    margin: FRONT_MARGIN, xaxis: frontAxis(sweep, x, rows), yaxis: frontAxis(sweep, y, rows), legend: legendBelow("front", FRONT_MARGIN, 46),
  }));
}

// A logarithmic axis with units at its ticks, over all chips of the workload; linear where a figure may be 0.
function frontAxis(sweep, name, rows) {
  let low = Infinity, high = -Infinity;
  for (const i of rows) { const value = sweep.columns[name].at(i); if (value < low) low = value; if (value > high) high = value; }
  const title = { text: `${plain(name)}${sweep.larger_is_better.includes(name) ? ", more is better" : ""}`, standoff: 6 };
  if (!(low > 0)) return { title };
  const edge = Math.max(0.02, 0.04 * Math.log10(high / low));
  return { type: "log", title, range: [Math.log10(low) - edge, Math.log10(high) + edge], ...logTicks(low, high, (value) => written(sweep, name, value, 3), 6) };
}
