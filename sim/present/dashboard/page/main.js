// The state of the page, and what happens when something is chosen or moved.

const LENGTHS = { prefill: "prompt", decode: "context" };

const state = {
  data: JSON.parse($("data").textContent),
  case: 0, chip: 0, shown: null, chosen: null, overlay: new Set(), at: {}, base: {}, engines: new Map(), sweep: null, window: null, drawing: null,
  enlarged: {}, // by phase, the sector of the breakdown that fills it

  get phases() { return this.data.cases[this.case].phases; },
  get phase_data() { return this.phases.find((phase) => phase.phase === this.shown); },

  // The roofline of a phase's recipe, kept with what it has worked out.
  roofline(phase) {
    if (!this.engines.has(phase.recipe)) this.engines.set(phase.recipe, new Roofline(this.data.recipes[phase.recipe]));
    return this.engines.get(phase.recipe);
  },
  // What a phase starts from: `prompt` of prefill, `context` of decode.
  length_of(phase) { return LENGTHS[phase.phase]; },
  isNeutral() { return Object.keys(this.base).every((name) => this.at[name] === this.base[name]); },
  chipNow(i) {
    if (i !== this.chip) return this.data.chips[i];
    return scaledChip(this.data.chips[i], { clock: FACTORS[this.at.clock], matrix: FACTORS[this.at.matrix], bandwidth: FACTORS[this.at.bandwidth] });
  },

  // Every folded op of the model on a chip, both phases: as the chosen engine says, or as the sliders make it.
  points(chip) {
    const found = this.data.cases.find((each) => each.model === this.data.cases[this.case].model && each.chip === chip);
    return found.phases.flatMap((phase) => {
      const { rows } = phase;
      const now = this.isNeutral() ? null : this.whatIf(phase, chip);
      const total = now ? now.total_s : phase.total_s;
      return rows.name.map((name, k) => {
        const figures = now ? now.rows[k] : { latency_s: rows.latency_s[k], busy_s: rows.busy_s[k], count: rows.ops[k].length, flops: rows.flops[k], dram_bytes: rows.dram_bytes[k], bound_by: rows.bound_by[k] };
        return { name, kind: rows.kind[k], phase: phase.phase, share: figures.latency_s / total, ...figures };
      });
    });
  },
  whatIf(phase, chip) {
    return this.roofline(phase).step(this.at.batch, this.at[this.length_of(phase)], this.chipNow(chip), phase.rows);
  },
  // The step as asked, by the roofline engine.
  baseline(phase) {
    return this.roofline(phase).step(this.base.batch, this.base[this.length_of(phase)], this.data.chips[this.chip]).total_s;
  },
  layer_span(phase) {
    const run = phase.runs.find((each) => each.name.startsWith("layers."));
    const before = phase.runs.slice(0, phase.runs.indexOf(run)).reduce((sum, each) => sum + each.latency_s, 0);
    const one = run.latency_s / run.count;
    return run.count > 1 ? [before + one, before + 2 * one] : [before, before + one];
  },

  // A slider was moved: totals and points at once, curves in the next frame.
  moved() {
    const begin = performance.now();
    totalsView(this);
    const points = state.points(this.chip);
    document.body.dataset.step_ms = performance.now() - begin;
    detailsView(this, points);
    later(() => { redraw("roofline", rooflineView, this); redraw("curves", curvesView, this); });
  },

  choose(name) {
    this.chosen = name === this.chosen ? null : name;
    $("op").value = this.chosen === null ? "" : this.chosen;
    redraw("roofline", rooflineView, this);
    redraw("breakdown", breakdownView, this);
    redraw("timeline", drawTimeline, this);
    markGraph(this);
    markTable(this);
    detailsView(this);
  },
};

function setBase() {
  state.base = { bandwidth: 12, matrix: 12, clock: 12 };
  for (const phase of state.phases) {
    const { recipe } = state.roofline(phase);
    state.base.batch = recipe.batches.indexOf(phase.batch);
    state.base[state.length_of(phase)] = recipe.lengths.indexOf(phase.length);
  }
  state.at = { ...state.base };
}

function chooseCase() {
  const model = $("model").value, chip = Number($("chip").value);
  state.case = state.data.cases.findIndex((each) => each.model === model && each.chip === chip);
  state.chip = chip;
  state.overlay.add(chip);
  setBase();
  buildSliders(state);
  fillOps();
  return drawAll(state.plotly);
}

function fillOps() {
  const names = [...new Set(state.phases.flatMap((phase) => phase.rows.name))];
  $("op").replaceChildren(element("option", { value: "" }, "none"), ...names.map((name) => element("option", { value: name }, name)));
  if (!names.includes(state.chosen)) state.chosen = null;
  $("op").value = state.chosen === null ? "" : state.chosen;
}

function buildControls() {
  const { data } = state;
  const models = [...new Set(data.cases.map((each) => each.model))];
  $("model").replaceChildren(...models.map((name) => element("option", { value: name }, name)));
  $("chip").replaceChildren(...data.chips.map((chip, i) => element("option", { value: i }, chip.name)));
  $("model").addEventListener("change", chooseCase);
  $("chip").addEventListener("change", chooseCase);
  const phases = data.cases[0].phases.map((phase) => phase.phase);
  $("phase").replaceChildren(...phases.map((name) => element("option", { value: name }, name)));
  state.shown = phases[0];
  $("phase").addEventListener("change", () => { state.shown = $("phase").value; phaseViews(); redraw("timeline", timelineView, state); });
  $("op").addEventListener("change", () => { state.chosen = null; state.choose($("op").value === "" ? null : $("op").value); });
  $("reset").addEventListener("click", () => { state.at = { ...state.base }; buildSliders(state); state.moved(); });
  if (data.chips.length > 1) {
    $("overlay").replaceChildren("Shown: ", ...data.chips.map((chip, i) => {
      const box = element("input", { type: "checkbox" });
      box.checked = true;
      box.addEventListener("change", () => { if (box.checked || i === state.chip) state.overlay.add(i); else state.overlay.delete(i); redraw("roofline", rooflineView, state); });
      return element("label", {}, box, ` ${chip.name}`);
    }));
  }
  data.chips.forEach((_, i) => state.overlay.add(i));
  themed(() => drawAll(state.plotly));
}

function listen() {
  const choose = (name) => { if (name) state.choose(name); };
  HANDLERS.roofline = { plotly_click: (event) => choose(event.points[0].customdata) };
  HANDLERS.breakdown = { plotly_icicleclick: (event) => {
    const { customdata, id } = event.points[0], [phase] = id.split("/");
    if (customdata) choose(customdata);
    else {
      state.enlarged[phase] = state.enlarged[phase] === id ? phase : id;
      breakdownView(state);
    }
    return false; // Plotly's own zoom leaves names too small to read, and no way back
  } };
  HANDLERS.timeline = {
    plotly_click: (event) => choose(event.points[0].customdata),
    plotly_relayout: (change) => {
      const range = "xaxis.range[0]" in change ? [change["xaxis.range[0]"], change["xaxis.range[1]"]] : change["xaxis.range"];
      if (!range || (range[0] === state.window.range[0] && range[1] === state.window.range[1])) return;
      state.window.range = range;
      drawTimeline(state);
    },
    plotly_doubleclick: () => { state.window.range = [0, state.phase_data.total_s]; drawTimeline(state); return false; },
  };
  HANDLERS.front = { plotly_hover: (event) => showChip(state, event.points[0].customdata) };
  for (const holder of document.querySelectorAll(".save[data-figure]")) saveButtons(holder);
  tableButtons();
}

function tableView() {
  const phase = state.phase_data, { rows } = phase;
  const order = rows.name.map((_, k) => k).sort((a, b) => rows.latency_s[b] - rows.latency_s[a]);
  const head = element("tr");
  for (const title of TABLE_HEAD) head.append(element("th", { scope: "col" }, title));
  const body = element("tbody");
  for (const k of order) {
    const row = element("tr", { "data-op": rows.name[k], tabindex: -1 });
    for (const cell of tableCells(phase, k)) row.append(element("td", {}, cell));
    row.addEventListener("click", () => { state.choose(rows.name[k]); row.focus(); });
    body.append(row);
  }
  body.addEventListener("keydown", walk);
  $("ops").replaceChildren(element("thead", {}, head), body);
  markTable(state);
}

const TABLE_HEAD = ["op", "kind", "n", "latency", "share", "bound by", "energy", "FLOPs each", "DRAM each", "output"];

function tableCells(phase, k) {
  const { rows } = phase;
  return [
    rows.name[k], rows.kind[k], String(rows.ops[k].length), seconds(rows.latency_s[k]), percent(rows.latency_s[k] / phase.total_s), rows.bound_by[k],
    joules(rows.energy_j[k]), rate(rows.flops[k], "", 3), bytes(rows.dram_bytes[k]), `${rows.output[k]} ${rows.format[k]}`,
  ];
}

// Up and down, to the ends, and choosing, by keyboard.
function walk(event) {
  const rows = [...event.currentTarget.children], at = rows.indexOf(event.target.closest("tr"));
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); state.choose(rows[at].dataset.op); return; }
  if (to === undefined || !rows[to]) return;
  event.preventDefault();
  rows[to].focus();
  if (rows[to].dataset.op !== state.chosen) state.choose(rows[to].dataset.op);
}

function markTable() {
  const rows = [...$("ops").querySelectorAll("tbody tr")];
  const chosen = rows.find((row) => row.dataset.op === state.chosen);
  for (const row of rows) {
    row.setAttribute("aria-selected", row === chosen);
    row.tabIndex = row === (chosen || rows[0]) ? 0 : -1;
  }
}

// The table as Markdown and CSV, for papers and spreadsheets.
function tableButtons() {
  const holder = $("view-ops").querySelector(".save");
  const forms = {
    Markdown: ["md", (lines) => [lines[0], lines[0].map((_, i) => (i === 0 ? "---" : "---:")), ...lines.slice(1)].map((cells) => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`).join("\n")],
    CSV: ["csv", (lines) => lines.map((cells) => cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",")).join("\n")],
  };
  for (const [name, [suffix, written]] of Object.entries(forms)) {
    const button = element("button", { type: "button", "aria-label": `Save the ops as ${name}` }, name);
    button.addEventListener("click", () => {
      const phase = state.phase_data;
      const lines = [TABLE_HEAD, ...phase.rows.name.map((_, k) => tableCells(phase, k))];
      download(`data:text/plain;charset=utf-8,${encodeURIComponent(`${written(lines)}\n`)}`, `ops-${phase.phase}.${suffix}`);
    });
    holder.append(button);
  }
}

function detailsView(_, points = state.points(state.chip)) {
  const holder = $("details");
  if (state.chosen === null) { holder.replaceChildren(element("p", { class: "note" }, "Choose an op in any view: it is marked in all of them.")); return; }
  const parts = [element("h3", {}, state.chosen)];
  for (const point of points.filter((each) => each.name === state.chosen)) {
    const phase = state.phases.find((each) => each.phase === point.phase), k = phase.rows.name.indexOf(point.name);
    const list = element("dl");
    const add = (title, text) => list.append(element("dt", {}, title), element("dd", {}, text));
    add(point.phase, `${seconds(point.latency_s)}, ${percent(point.share)}`);
    add("bound by", point.bound_by);
    if (state.isNeutral() && phase.rows.energy_j[k] !== null) add("energy", `${joules(phase.rows.energy_j[k])}, ${joules(phase.rows.energy_j[k] / point.count)} each`);
    add("each", `${rate(point.flops, "FLOP")}, ${bytes(point.dram_bytes)} of DRAM`);
    if (state.isNeutral()) add("shapes", `${phase.rows.inputs[k]} to ${phase.rows.output[k]} ${phase.rows.format[k]}`);
    const lost = phase.rows.lost_s[k].map((value, i) => [state.data.lost[i], value]).filter(([, value]) => value > 0);
    if (lost.length && state.isNeutral()) add("lost, each", lost.map(([cause, value]) => `${cause} ${seconds(value, 3)}`).join(", "));
    parts.push(list);
  }
  holder.replaceChildren(...parts);
}

// What shows one phase and is drawn without Plotly.
function phaseViews() {
  graphView(state);
  tableView();
}

const FIGURES = [rooflineView, breakdownView, timelineView, sensitivityView, memoryView, curvesView, sweepView];

// Sliders, totals and tables at once, before Plotly is there; then one figure after the other, the page listening in between.
async function drawAll(plotly) {
  const own = (state.drawing = {});
  totalsView(state);
  detailsView(state);
  componentTables(state);
  phaseViews();
  $("view-sweep").hidden = !state.data.sweep;
  document.body.dataset.usable ||= performance.now();
  await plotly;
  for (const view of FIGURES) {
    if (state.drawing !== own) return; // another model or chip was chosen meanwhile, and all is drawn anew
    await view(state);
    if (view === rooflineView) await painted();
    document.body.dataset.interactive ||= performance.now();
    await pause();
  }
  document.body.dataset.ready ||= performance.now();
}

async function begin() {
  buildControls();
  listen();
  state.plotly = new Promise((done) => { document.addEventListener("DOMContentLoaded", done); }); // its script stands last in the page
  await chooseCase();
}

begin();
