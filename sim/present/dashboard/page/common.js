// What all views share: numbers as text, colours and symbols, the theme, and saving of figures.

const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

function svgElement(tag, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
}

// Plotly reads a few tags in its texts; a name is text.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function scaled(value, unit, prefixes, digits = 4) {
  if (!Number.isFinite(value) || value === 0) return `${value} ${unit}`.trim();
  const [prefix, size] = prefixes.find((each) => Math.abs(value) >= each[1] * (1 - 1e-12)) || prefixes[prefixes.length - 1];
  return `${Number((value / size).toPrecision(digits))} ${prefix}${unit}`.trim();
}

const BIG = [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]];
const SMALL = [["", 1], ["m", 1e-3], ["u", 1e-6], ["n", 1e-9], ["p", 1e-12]];
const seconds = (value, digits = 4) => scaled(value, "s", SMALL, digits);
const joules = (value, digits = 4) => (value === null ? "" : scaled(value, "J", SMALL, digits)); // null: nothing is known of the chip's energy
const bytes = (value, digits = 3) => scaled(value, "B", BIG, digits);
const rate = (value, unit, digits = 4) => scaled(value, unit, BIG, digits);
const capacity = (value) => scaled(value, "B", [["Ti", 2 ** 40], ["Gi", 2 ** 30], ["Mi", 2 ** 20], ["Ki", 2 ** 10], ["", 1]]);
const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)}%`;

// Okabe and Ito's colours, told apart with every kind of colour blindness; a symbol says the same once more.
const OKABE = {
  orange: "#E69F00", sky: "#56B4E9", green: "#009E73", yellow: "#F0E442",
  blue: "#0072B2", vermillion: "#D55E00", purple: "#CC79A7", grey: "#8A8A8A",
};
const KINDS = {
  Linear: [OKABE.blue, "circle"],
  MatMul: [OKABE.vermillion, "square"],
  ReduceMax: [OKABE.orange, "triangle-up"],
  ElementwiseExp: [OKABE.orange, "triangle-down"],
  Normalize: [OKABE.orange, "triangle-left"],
  RMSNorm: [OKABE.green, "diamond"],
  SiLU: [OKABE.purple, "pentagon"],
  Mul: [OKABE.purple, "x"],
  Add: [OKABE.purple, "cross"],
  RoPE: [OKABE.sky, "star"],
  RoPETable: [OKABE.sky, "hexagram"],
  MemCopy: [OKABE.grey, "bowtie"],
  Embedding: [OKABE.grey, "hourglass"],
};
const kindStyle = (kind) => KINDS[kind] || [OKABE.grey, "hexagon"];

// What binds: a colour, and for surfaces a pattern.
const BOUNDS = { matrix: [OKABE.vermillion, ""], vector: [OKABE.sky, "/"], dram: [OKABE.blue, "."], launch: [OKABE.grey, "x"] };
const OTHERS = [[OKABE.green, "\\"], [OKABE.orange, "+"], [OKABE.purple, "-"], [OKABE.yellow, "|"]];
const seenBounds = [];
function boundStyle(name) {
  if (name in BOUNDS) return BOUNDS[name];
  if (!seenBounds.includes(name)) seenBounds.push(name);
  return OTHERS[seenBounds.indexOf(name) % OTHERS.length];
}

// Colours of the page itself, read from the style sheet so that there is one place for them.
function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { ink: of("ink"), faint: of("faint"), paper: of("paper"), line: of("line"), accent: of("accent"), soft: of("soft") };
}

// The system's theme, until the system or the button changes it; `redraw` draws the figures in its colours.
function themed(redraw) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const set = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("theme").textContent = dark ? "Light" : "Dark";
  };
  set(system.matches);
  system.addEventListener("change", () => { set(system.matches); redraw(); });
  $("theme").addEventListener("click", () => { set(document.documentElement.dataset.theme !== "dark"); redraw(); });
}

// A layout for Plotly in the colours of the theme. Margins are given, not found: finding them makes Plotly draw all axes several times.
function layout(more = {}) {
  const t = theme();
  const axis = { gridcolor: t.line, linecolor: t.faint, zerolinecolor: t.line, tickcolor: t.faint, automargin: false };
  const made = {
    paper_bgcolor: t.paper, plot_bgcolor: t.paper,
    font: { family: "system-ui, sans-serif", size: 12, color: t.ink },
    margin: { l: 64, r: 20, t: 30, b: 48 },
    hoverlabel: { bgcolor: t.paper, bordercolor: t.faint, font: { color: t.ink, size: 12 }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: t.faint, activecolor: t.accent },
    dragmode: "pan", hovermode: "closest",
    ...more,
  };
  for (const name of Object.keys(made)) if (/^[xy]axis\d*$/.test(name)) made[name] = { ...axis, ...made[name] };
  return made;
}

// A legend in rows, `distance` pixels below the axes of a figure.
function legendBelow(id, margin, distance) {
  const height = $(id).clientHeight - margin.t - margin.b;
  return { orientation: "h", x: 0, xanchor: "left", y: -distance / Math.max(1, height), yanchor: "top", bgcolor: "rgba(0,0,0,0)", font: { size: 11 } };
}

// A name within a layer, without the block.
const shortName = (name) => name.replace(/^(self_attn|mlp)\./, "");

// Room that the longest of some labels takes, in pixels.
const labelWidth = (labels, size = 12) => 0.6 * size * Math.max(0, ...labels.map((label) => String(label).length)) + 20;

// Round numbers from `low` to `high`, some `most` of them.
function roundNumbers(low, high, most) {
  const power = 10 ** Math.floor(Math.log10((high - low) / most)), step = power * [1, 2, 5, 10].find((each) => each * power * most >= high - low);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, k) => Number(((first + k) * step).toPrecision(12)));
}

// Ticks of a logarithmic axis: round numbers within a decade, 1, 2 and 5 of each of a few, else the 1 of each or of every so many;
// `written` makes their text.
function logTicks(low, high, written, most = 6) {
  const decades = Math.log10(high / low);
  const steps = decades * 3 <= most ? [1, 2, 5] : decades * 2 <= most ? [1, 3] : [1];
  const every = Math.max(1, Math.ceil(decades / most));
  const tickvals = decades < 0.9 ? roundNumbers(low, high, most - 1) : [];
  for (let power = Math.floor(Math.log10(low)) - 1; decades >= 0.9 && power <= Math.log10(high) + 1; power++) {
    if (power % every === 0) for (const step of steps) tickvals.push(Number(`${step}e${power}`));
  }
  return { tickmode: "array", tickvals, ticktext: tickvals.map(written) };
}

const CONFIG = {
  displaylogo: false, responsive: true, scrollZoom: false, doubleClick: "reset",
  modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
};

const STILL = { ...CONFIG, displayModeBar: false };

// A pattern over a colour.
const hatch = (shape, color, solidity = 0.3) => ({ shape, fgcolor: color, solidity, fillmode: "overlay", size: 6 });

const HANDLERS = {}; // by figure and event; attached when it is first drawn

// Draw a figure, or redraw it where it has changed.
function draw(id, traces, figureLayout, config = CONFIG) {
  const figure = $(id), first = !figure.data;
  const drawn = Plotly.react(figure, traces, figureLayout, config);
  if (first) for (const [event, handler] of Object.entries(HANDLERS[id] || {})) figure.on(event, handler);
  return drawn;
}

// Redraw a figure for which it is not too early.
const redraw = (id, view, ...rest) => ($(id).data ? view(...rest) : null);

function download(url, name) {
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

// The buttons of a figure: it as PNG and as SVG.
function saveButtons(holder) {
  const name = holder.dataset.name;
  for (const format of ["png", "svg"]) {
    const button = element("button", { type: "button", "aria-label": `Save ${name} as ${format.toUpperCase()}` });
    button.textContent = format.toUpperCase();
    button.addEventListener("click", async () => {
      const figure = $(holder.dataset.figure);
      download(await image(figure.classList.contains("js-plotly-plot") ? figure : figure.querySelector("svg"), format), `${name}.${format}`);
    });
    holder.append(button);
  }
}

// A figure as a data URL: Plotly's, or a drawing of our own with its style written into it.
async function image(figure, format) {
  if (figure.classList.contains("js-plotly-plot")) {
    const width = figure.clientWidth, height = figure.clientHeight;
    return Plotly.toImage(figure, { format, width, height, scale: format === "png" ? 2 : 1 });
  }
  const svg = figure.cloneNode(true);
  inlineStyles(figure, svg);
  const box = figure.getBoundingClientRect();
  svg.setAttribute("width", box.width);
  svg.setAttribute("height", box.height);
  const url = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(svg))}`;
  if (format === "svg") return url;
  const picture = new Image();
  await new Promise((done, failed) => { picture.onload = done; picture.onerror = failed; picture.src = url; });
  const canvas = element("canvas", { width: 2 * box.width, height: 2 * box.height });
  const context = canvas.getContext("2d");
  context.fillStyle = theme().paper;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
}

const INLINED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "font-size", "font-family", "font-weight", "text-anchor"];

function inlineStyles(from, to) {
  const style = getComputedStyle(from);
  to.setAttribute("style", INLINED.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
  for (let i = 0; i < from.children.length; i++) inlineStyles(from.children[i], to.children[i]);
}

// A packed column as a typed array.
const ARRAYS = { u1: Uint8Array, i1: Int8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };

async function inflated(text) {
  const compressed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const unpacked = async (column) => new ARRAYS[column.type](await inflated(column.deflate));

// Let the browser listen in between, or show what is drawn (in a tab that is not shown it never does).
const pause = () => new Promise((done) => { setTimeout(done, 0); });
const painted = () => new Promise((done) => { requestAnimationFrame(() => setTimeout(done, 0)); setTimeout(done, 200); });

// A colour between two, both as #rrggbb.
function mixed(color, other, part) {
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [a, b] = [parts(color), parts(other)];
  return `#${a.map((value, i) => Math.round(value + (b[i] - value) * part).toString(16).padStart(2, "0")).join("")}`;
}

// Work that may lag behind a slider: once per frame, the latest only.
let waiting = null;
function later(work) {
  if (waiting !== null) cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => { waiting = null; work(); });
}
