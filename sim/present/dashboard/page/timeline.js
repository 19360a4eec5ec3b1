// View 3: what each memory and unit did when, from the whole step down to one tile; only as many bars as can be seen are drawn.

const WORK = {
  compute: [OKABE.vermillion, ""], read: [OKABE.blue, ""], write: [OKABE.green, ""], move: [OKABE.sky, ""], launch: [OKABE.grey, ""],
};
const STALLS = { dram: [OKABE.yellow, "/"], sram_space: [OKABE.orange, "\\"], array: [OKABE.purple, "x"], vector: [OKABE.purple, "+"], dependency: [OKABE.grey, "/"] };
const FINEST_PX = 1.5;

async function loadTimeline(phase) {
  if (phase.loaded) return phase.loaded;
  const given = phase.timeline;
  const columns = async (set, level) => {
    const found = { level, origin_s: set.origin_s, left_out: set.left_out };
    for (const name of ["start_s", "end_s", "resource", "what", "cause", "row", "bytes", "busy_s"]) found[name] = await unpacked(set[name]);
    return found;
  };
  const tiles = {};
  for (const name in given.tiles) tiles[name] = await columns(given.tiles[name], "tile");
  phase.loaded = { groups: await columns(given.groups, "group"), tiles };
  return phase.loaded;
}

async function timelineView(state) {
  const phase = state.phase_data;
  const loaded = await loadTimeline(phase);
  $("timeline-see").textContent = `${phase.phase} of ${phase.model} on ${state.data.chips[state.chip].name}, ${state.data.engine} engine: the fullest row sets the pace; a group is as high as its share of busy time; hatched bars wait, and say for what. ` +
    (Object.keys(loaded.tiles).length ? "Drag to zoom, double click for all." : "This engine has no schedule: each group's work begins with the group. Drag to zoom, double click for all.");
  zoomButtons(state, loaded);
  if (!state.window || state.window.phase !== phase.phase || state.window.case !== state.case) state.window = { phase: phase.phase, case: state.case, range: [0, phase.total_s] };
  await drawTimeline(state);
}

function zoomButtons(state, loaded) {
  const names = ["whole step", ...Object.keys(loaded.tiles), ...(Object.keys(loaded.tiles).length ? ["one tile"] : ["layers.1", "lm_head"])];
  const buttons = [...new Set(names)].map((name) => {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => { state.window.range = zoomTo(state, loaded, name); drawTimeline(state); });
    return button;
  });
  $("zooms").replaceChildren("Zoom to ", ...buttons);
}

function zoomTo(state, loaded, name) {
  const phase = state.phase_data;
  if (name === "whole step") return [0, phase.total_s];
  if (name === "one tile") return oneTile(phase, Object.values(loaded.tiles)[0]);
  let [from, to] = [Infinity, -Infinity];
  const rows = new Set(phase.rows.name.flatMap((row, k) => (row.startsWith(name) || (name === "layers.1" && row.startsWith("layers.*.")) ? [k] : [])));
  const set = loaded.tiles[name] || loaded.groups;
  const layer = name === "layers.1" && set === loaded.groups ? state.layer_span(phase) : null;
  if (layer) return layer;
  for (let i = 0; i < set.start_s.length; i++) {
    if (!rows.has(set.row[i])) continue;
    from = Math.min(from, set.start_s[i]);
    to = Math.max(to, set.end_s[i]);
  }
  return [from + set.origin_s, to + set.origin_s];
}

// A few tiles around a computation in the midst of what is kept of a group.
function oneTile(phase, set) {
  const compute = phase.timeline.kinds.indexOf("compute");
  const found = [];
  for (let i = 0; i < set.start_s.length && found.length < 400; i++) if (set.what[i] === compute) found.push(i);
  const at = found[Math.floor(found.length / 2)];
  const length = set.end_s[at] - set.start_s[at];
  return [set.origin_s + set.start_s[at] - 2 * length, set.origin_s + set.end_s[at] + 2 * length];
}

// What lies in the window: groups; where tiles are known and large enough to be seen, tiles on top of them.
function drawTimeline(state) {
  const phase = state.phase_data, loaded = phase.loaded, t = theme();
  const [from, to] = state.window.range;
  const figure = $("timeline");
  const pixel_s = (to - from) / Math.max(300, figure.clientWidth - 140);
  const sets = [loaded.groups];
  for (const set of Object.values(loaded.tiles)) {
    const begin = set.origin_s, end = set.origin_s + set.end_s[set.end_s.length - 1];
    if (begin < to && end > from && to - from < 4 * phase.total_s / phase.runs.reduce((n, run) => n + run.count, 0)) sets.push(set);
  }
  const tiles = sets.length > 1;
  const lanes = lanesOf(phase, [loaded.groups, ...Object.values(loaded.tiles)]);
  const bars = new Map();
  let merged = 0;
  for (const set of sets) {
    for (const bar of visibleBars(phase, set, from, to, pixel_s)) {
      const key = `${bar.label}|${bar.level}`;
      if (!bars.has(key)) bars.set(key, { ...bar, list: [] });
      bars.get(key).list.push(bar);
      merged += bar.count > 1 ? 1 : 0;
    }
  }
  const traces = [...bars.values()].map((group) => barTrace(state, phase, group, tiles, t));
  const seen = new Set();
  for (const trace of traces) { trace.showlegend = !seen.has(trace.name); seen.add(trace.name); }
  timelineNote(state, sets, merged);
  const margin = { l: labelWidth(lanes), r: 16, t: 30, b: 84 };
  figure.dataset.from = from;
  figure.dataset.to = to;
  return draw("timeline", traces, layout({
    barmode: "overlay", bargap: 0.18, dragmode: "zoom",
    margin,
    xaxis: { range: [from, to], ...timeTicks(from, to), hoverformat: ".7~s" },
    yaxis: { type: "category", categoryorder: "array", categoryarray: lanes.slice().reverse(), range: [-0.6, lanes.length - 0.4], fixedrange: true },
    legend: legendBelow("timeline", margin, 46),
  }));
}

// Round times; in a window that is short beside when it begins, since the first of them.
function timeTicks(from, to) {
  const times = roundNumbers(from, to, 7), begin = to - from < 0.02 * from ? times[0] : 0;
  const title = begin ? `time since ${seconds(begin, 9)} of the step` : "time since the start of the step";
  return { title: { text: title, standoff: 6 }, tickmode: "array", tickvals: times, ticktext: times.map((time) => seconds(time - begin, 3)) };
}

const laneName = (resource, what) => (what === "compute" || what === "launch" ? resource : what === "stall" ? `${resource} waits` : `${resource} ${what}`);
const laneOf = (phase, set, i) => laneName(phase.timeline.resources[set.resource[i]], phase.timeline.kinds[set.what[i]]);

function lanesOf(phase, sets) {
  const found = new Set();
  for (const set of sets) for (let i = 0; i < set.resource.length; i++) found.add(set.resource[i] * 16 + set.what[i]);
  const names = [...found].sort((a, b) => a - b).map((code) => laneName(phase.timeline.resources[code >> 4], phase.timeline.kinds[code & 15]));
  return [...new Set(names)];
}

// The intervals of a window; neighbours in a lane that are thinner than can be seen become one bar.
function visibleBars(phase, set, from, to, pixel_s) {
  const done = [], open = new Map();
  const { kinds, causes } = phase.timeline;
  for (let i = 0; i < set.start_s.length; i++) {
    const start = set.origin_s + set.start_s[i], end = set.origin_s + set.end_s[i];
    if (end < from || start > to) continue;
    const what = kinds[set.what[i]];
    const label = what === "stall" ? `waits for ${causes[set.cause[i]]}` : what;
    const lane = laneOf(phase, set, i), key = `${lane}|${label}`;
    const last = open.get(key);
    const thin = (end - start) < 2 * FINEST_PX * pixel_s;
    if (last && thin && start - last.end < FINEST_PX * pixel_s && (last.end - last.start < 40 * pixel_s) && (last.row === set.row[i] || end - start < pixel_s)) {
      last.end = Math.max(last.end, end);
      last.bytes += set.bytes[i];
      last.busy_s += set.busy_s[i];
      last.count += 1;
      continue;
    }
    const bar = { lane, label, what, cause: what === "stall" ? causes[set.cause[i]] : null, level: set.level, start, end, row: set.row[i], bytes: set.bytes[i], busy_s: set.busy_s[i], count: 1 };
    if (last) done.push(last);
    open.set(key, bar);
  }
  return [...done, ...open.values()];
}

function barTrace(state, phase, { label, what, cause, level, list }, tiles, t) {
  const [color, shape] = what === "stall" ? STALLS[cause] || STALLS.dependency : WORK[what];
  const behind = tiles && level === "group";
  const names = phase.rows.name;
  return {
    type: "bar", orientation: "h", name: label, legendgroup: label,
    y: list.map((bar) => bar.lane), base: list.map((bar) => bar.start), x: list.map((bar) => bar.end - bar.start),
    width: list.map((bar) => (behind ? 0.9 : 0.8) * Math.min(1, Math.max(0.12, level === "group" ? bar.busy_s / (bar.end - bar.start) : 0.8))),
    customdata: list.map((bar) => names[bar.row]),
    text: list.map((bar) => [
      `<b>${plain(names[bar.row])}</b>${bar.count > 1 ? ` and ${bar.count - 1} more` : ""}`,
      `${plain(bar.lane)}: ${label}, ${level === "group" ? "whole group" : "tile"}`,
      `${seconds(bar.start, 6)} + ${seconds(bar.end - bar.start)}, ${percent(Math.min(1, bar.busy_s / (bar.end - bar.start)), 0)} of it busy`, ...(bar.bytes ? [bytes(bar.bytes)] : []),
    ].join("<br>")),
    textposition: "none",
    hovertemplate: "%{text}<extra></extra>",
    marker: {
      color,
      opacity: list.map((bar) => (behind ? 0.22 : 0.95) * (state.chosen === null || names[bar.row] === state.chosen ? 1 : 0.3)),
      pattern: hatch(shape, "#222222"),
      line: { width: list.map((bar) => (names[bar.row] === state.chosen ? 1.5 : 0)), color: t.ink },
    },
  };
}

function timelineNote(state, sets, merged) {
  const left = sets.reduce((n, set) => n + set.left_out, 0);
  const parts = [];
  if (merged) parts.push("Bars thinner than a pixel are drawn together; zoom in to part them.");
  if (left) parts.push(`Faint bars are whole groups; of each, the first 5,000 intervals are kept tile by tile (${left.toLocaleString("en")} more are left out).`);
  if (!state.isNeutral()) parts.push("The sliders do not move this view: it is the step as it was asked for.");
  $("timeline-note").textContent = parts.join(" ");
}
