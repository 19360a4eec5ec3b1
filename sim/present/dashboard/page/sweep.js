// View 6: all chips of a sweep; what they cost and what they give, and the chip under the pointer in full.

const SVG_POINTS = 4000;

const hasWebGL = (() => {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl") || canvas.getContext("experimental-webgl"));
})();

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
  const sweep = { ...given, columns, workloads: new Map() };
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
  if (!given) { $("view-sweep").hidden = true; return null; }
  if (!state.sweep) {
    state.sweep = await loadSweep(given);
    sweepChoices(state);
  }
  const { sweep } = state;
  const rows = sweep.workloads.get(sweep.choice.workload);
  const feasible = rows.filter((i) => sweep.columns.feasible.at(i));
  const front = frontOf(sweep, feasible);
  $("sweep-see").textContent = `${sweep.name}: ${sweep.points.toLocaleString("en")} points; the line joins the chips that no other one beats in both figures. Point at a chip, or choose one of the front, to see it in full.`;
  const notes = [];
  if (sweep.no_chips) notes.push(`${sweep.no_chips.toLocaleString("en")} points contradict themselves and are left out.`);
  if (sweep.shown + sweep.no_chips < sweep.points) notes.push(`An even sample of ${sweep.shown.toLocaleString("en")} points, with the whole front.`);
  if (!hasWebGL) notes.push(`This browser has no WebGL: of the points below an even sample of at most ${SVG_POINTS.toLocaleString("en")} is drawn, as SVG; the front is whole.`);
  $("sweep-note").textContent = notes.join(" ");
  frontChoice(state, front);
  await frontView(state, hasWebGL ? rows : sampled(rows, SVG_POINTS), front);
  await parallelView(state, rows, front);
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
  const choice = (title, name, options) => {
    const select = element("select", { id: `sweep-${name}` }, ...options.map((each) => element("option", { value: each }, each)));
    select.value = sweep.choice[name];
    select.addEventListener("change", () => { sweep.choice[name] = select.value; sweepView(state); });
    return element("label", {}, `${title} `, select);
  };
  $("sweep-choices").replaceChildren(
    choice("Workload", "workload", [...sweep.workloads.keys()]), choice("x", "x", sweep.numbers), choice("y", "y", sweep.numbers),
    element("label", {}, "Front ", element("select", { id: "sweep-front" })),
  );
  $("sweep-front").addEventListener("change", (event) => { if (event.target.value !== "") showChip(state, Number(event.target.value)); });
}

function frontChoice(state, front) {
  const { sweep } = state, { x, y } = sweep.choice;
  const options = front.map((i) => element("option", { value: i }, `${figure(sweep, x, i)}, ${figure(sweep, y, i)}`));
  $("sweep-front").replaceChildren(element("option", { value: "" }, `${front.length} chips`), ...options);
}

// A cell with its unit.
function figure(sweep, name, i) {
  const value = sweep.columns[name].at(i), unit = sweep.units[name] || "";
  if (typeof value !== "number") return String(value);
  if (unit === "s") return seconds(value);
  if (unit === "B") return capacity(value);
  if (["B/s", "Hz", "W"].includes(unit)) return rate(value, unit);
  return `${Number(value.toPrecision(6))} ${unit}`.trim();
}

function showChip(state, i) {
  const { sweep } = state;
  const list = element("dl");
  for (const name of Object.keys(sweep.columns)) list.append(element("dt", {}, name), element("dd", {}, figure(sweep, name, i)));
  sweep.point?.(i);
  $("sweep-point").replaceChildren(element("h3", {}, `${sweep.columns.chip.at(i)}: row ${i}`), list);
}

// Axes of the parallel coordinates: what was varied, the objectives and the main figures, each once and only where points differ.
function axesOf(sweep, rows) {
  const names = [...new Set([...sweep.varied, ...sweep.objectives, ...sweep.metrics])];
  return names.flatMap((name) => {
    const column = sweep.columns[name];
    const values = column.kind === "word" ? rows.map((i) => column.codes[i]) : rows.map((i) => Number(column.at(i)));
    let low = Infinity, high = -Infinity;
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    if (!(high > low)) return [];
    if (column.kind === "word") return [{ name, values, low, high, ticks: column.list.map((word, code) => [code, word]).filter(([code]) => code >= low && code <= high) }];
    const log = low > 0 && high / low > 8;
    const scale = (value) => (log ? Math.log10(value) : value);
    const ticks = Array.from({ length: 5 }, (_, k) => scale(low) + ((scale(high) - scale(low)) * k) / 4).map((at) => {
      const value = log ? 10 ** at : at, unit = sweep.units[name] || "";
      return [at, unit === "s" ? seconds(value, 3) : unit === "B" ? capacity(value) : ["B/s", "Hz", "W"].includes(unit) ? rate(value, unit, 3) : String(Number(value.toPrecision(3)))];
    });
    return [{ name, values: log ? values.map(scale) : values, low: scale(low), high: scale(high), ticks }];
  });
}

// Parallel coordinates: every point is a line in one picture, darker where more of them pass; front and axes on top.
async function parallelView(state, rows, front) {
  const { sweep } = state, holder = $("parallel"), width = holder.clientWidth, height = holder.clientHeight, t = theme();
  const axes = axesOf(sweep, rows);
  const top = 52, bottom = height - 16;
  const x = (k) => 64 + (k * (width - 150)) / Math.max(1, axes.length - 1);
  const y = (axis, n) => bottom - ((bottom - top) * (axis.values[n] - axis.low)) / (axis.high - axis.low);
  const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "parallel" });
  const picture = svgElement("image", { x: 0, y: 0, width, height });
  svg.append(picture);
  const place = new Map(rows.map((i, n) => [i, n]));
  const path = (i) => axes.map((axis, k) => `${k ? "L" : "M"}${x(k).toFixed(1)},${y(axis, place.get(i)).toFixed(1)}`).join("");
  for (const i of front) svg.append(svgElement("path", { d: path(i), "data-row": i, style: `fill:none;stroke:${OKABE.vermillion};stroke-width:1.6` }));
  svg.append(svgElement("path", { id: "pointed", d: "", style: `fill:none;stroke:${t.ink};stroke-width:3` }));
  axes.forEach((axis, k) => {
    svg.append(svgElement("path", { d: `M${x(k)},${top}V${bottom}`, style: `stroke:${t.ink};stroke-width:1.5` }));
    svg.append(svgElement("text", { x: x(k), y: k % 2 ? 16 : 34, style: `fill:${t.ink};font:600 11px system-ui,sans-serif;text-anchor:middle` }, axis.name));
    for (const [value, text] of axis.ticks) {
      const at = bottom - ((bottom - top) * (value - axis.low)) / (axis.high - axis.low);
      const halo = `fill:${t.ink};stroke:${t.paper};stroke-width:3px;paint-order:stroke;font:11px system-ui,sans-serif`;
      svg.append(svgElement("text", { x: x(k) + 6, y: at + 4, style: halo }, text));
    }
  });
  holder.replaceChildren(svg);
  sweep.point = (i) => svg.querySelector("#pointed").setAttribute("d", place.has(i) ? path(i) : "");
  sweep.drawing = {};
  await manyLines(sweep, sweep.drawing, picture, rows.length, axes, x, y, width, height);
}

const LINES_AT_A_TIME = 20000;

// How many lines pass each pixel, as a picture; ends when another drawing has begun.
async function manyLines(sweep, drawing, picture, count, axes, x, y, width, height) {
  const [columns, lines] = [Math.round(width), Math.round(height)];
  const density = new Float32Array(columns * lines);
  for (let from = 0; from < count; from += LINES_AT_A_TIME) {
    for (let k = 0; k + 1 < axes.length; k++) {
      const left = Math.round(x(k)), right = Math.round(x(k + 1));
      for (let n = from; n < Math.min(count, from + LINES_AT_A_TIME); n++) {
        let at = y(axes[k], n);
        const slope = (y(axes[k + 1], n) - at) / (right - left);
        for (let column = left; column < right; column++, at += slope) density[Math.round(at) * columns + column] += 1;
      }
    }
    await pause();
    if (sweep.drawing !== drawing) return;
  }
  const most = Math.log1p(density.reduce((a, b) => Math.max(a, b), 0));
  const canvas = element("canvas", { width: columns, height: lines });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, lines);
  const color = [1, 3, 5].map((i) => parseInt(OKABE.blue.slice(i, i + 2), 16));
  for (let i = 0; i < density.length; i++) {
    if (density[i] === 0) continue;
    image.data.set([...color, 40 + 190 * (Math.log1p(density[i]) / most)], 4 * i);
  }
  context.putImageData(image, 0, 0);
  picture.setAttribute("href", canvas.toDataURL("image/png"));
}

async function frontView(state, rows, front) {
  const { sweep } = state, { x, y } = sweep.choice, t = theme();
  const feasible = rows.filter((i) => sweep.columns.feasible.at(i)), others = rows.filter((i) => !sweep.columns.feasible.at(i));
  const cloud = (own, name, color, symbol) => ({
    type: hasWebGL ? "scattergl" : "scatter", mode: "markers", name, x: own.map((i) => sweep.columns[x].at(i)), y: own.map((i) => sweep.columns[y].at(i)), customdata: own,
    marker: { color, size: 5, opacity: 0.5, symbol }, hoverinfo: "none",
  });
  const traces = [cloud(feasible, "meets the constraints", OKABE.blue, "circle")];
  if (others.length) traces.push(cloud(others, "misses a constraint", OKABE.grey, "x"));
  traces.push({
    type: "scatter", mode: "lines+markers", name: "Pareto front", x: front.map((i) => sweep.columns[x].at(i)), y: front.map((i) => sweep.columns[y].at(i)), customdata: front,
    line: { color: OKABE.vermillion, width: 2, shape: "hv" }, marker: { color: OKABE.vermillion, size: 9, symbol: "diamond", line: { color: t.ink, width: 1 } }, hoverinfo: "none",
  });
  const axis = (name) => ({ type: "log", title: { text: `${plain(name)}${sweep.units[name] ? ` [${plain(sweep.units[name])}]` : ""}${sweep.larger_is_better.includes(name) ? ", more is better" : ""}` }, exponentformat: "SI" });
  await draw("front", traces, layout({
    margin: { l: 76, r: 16, t: 30, b: 76 }, xaxis: axis(x), yaxis: axis(y),
    legend: { orientation: "h", y: -0.18, yanchor: "top", bgcolor: "rgba(0,0,0,0)" },
  }));
  const holder = $("front");
  holder.removeAllListeners("plotly_hover");
  holder.on("plotly_hover", (event) => showChip(state, event.points[0].customdata));
}
