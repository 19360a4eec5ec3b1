// View 2: the step, its components, their ops: heights are shares of the latency.

function breakdownView(state) {
  const t = theme(), margin = { l: 8, r: 8, t: 6, b: 30 };
  const traces = state.phases.map((phase, i) => icicle(state, phase, i, t));
  const bounds = [...new Set(state.phases.flatMap((phase) => phase.rows.bound_by))];
  for (const bound of bounds) traces.push({ type: "bar", x: [null], y: [null], name: `bound by ${plain(bound)}`, marker: surface([bound], t), hoverinfo: "skip" });
  return draw("breakdown", traces, layout({
    margin, xaxis: { visible: false }, yaxis: { visible: false },
    legend: legendBelow("breakdown", margin, 8),
    uniformtext: { minsize: 10, mode: "hide" },
  }), STILL);
}

// Tints on which text is read, with a pattern in the full colour; "" is no bound.
function surface(bounds, t) {
  const styles = bounds.map((bound) => (bound === "" ? [t.soft, ""] : boundStyle(bound)));
  return {
    colors: styles.map(([color], i) => (bounds[i] === "" ? color : mixed(color, t.paper, 0.55))), color: mixed(styles[0][0], t.paper, 0.55),
    pattern: { shape: styles.map(([, shape]) => shape), fgcolor: styles.map(([color]) => mixed(color, t.paper, 0.25)), solidity: 0.15, size: 8, fillmode: "overlay" },
  };
}

function icicle(state, phase, i, t) {
  const ids = [phase.phase], labels = [`${phase.phase} ${seconds(phase.total_s)}`], parents = [""], values = [phase.total_s];
  const bounds = [""], names = [""], texts = [hoverText(phase.phase, phase.total_s, phase, largest(phase.bound_shares), phase.energy_j)];
  phase.runs.forEach((run, r) => {
    ids.push(`${phase.phase}/${r}`);
    labels.push(plain(run.name.replace(/\.\.\. layers\./, "... ")));
    parents.push(phase.phase);
    values.push(run.latency_s);
    bounds.push(run.bound_by);
    names.push("");
    texts.push(hoverText(run.name, run.latency_s, phase, run.bound_by, run.energy_j));
  });
  const rows = phase.rows;
  rows.name.forEach((name, k) => {
    if (phase.runs[rows.run[k]].name === name) return; // lm_head, norm ...: a component of one op is its own sector
    ids.push(`${phase.phase}/${rows.run[k]}/${k}`);
    labels.push(plain(shortName(name.replace(/^layers\.\*\./, ""))));
    parents.push(`${phase.phase}/${rows.run[k]}`);
    values.push(rows.latency_s[k]);
    bounds.push(rows.bound_by[k]);
    names.push(name);
    texts.push(hoverText(name, rows.latency_s[k], phase, rows.bound_by[k], rows.energy_j[k]));
  });
  phase.runs.forEach((run, r) => { if (rows.name.includes(run.name)) names[r + 1] = run.name; });
  const chosen = names.map((name) => name !== "" && name === state.chosen);
  return {
    type: "icicle", ids, labels, parents, values, branchvalues: "total", sort: false, customdata: names, text: texts,
    hovertemplate: "%{text}<extra></extra>",
    texttemplate: names.map((_, k) => (k === 0 ? `${phase.phase}<br>${seconds(phase.total_s)}` : "%{label}  %{percentRoot:.1%}")),
    textfont: { size: 12, color: t.ink }, leaf: { opacity: 1 },
    tiling: { orientation: "h", pad: 1 },
    level: state.enlarged[phase.phase] || phase.phase, pathbar: { visible: false },
    domain: { x: state.phases.length === 1 ? [0, 1] : i === 0 ? [0, 0.495] : [0.505, 1] },
    marker: {
      ...surface(bounds, t),
      line: { width: chosen.map((is, k) => (is ? 4 : names[k] === "lm_head" ? 2.5 : 0.5)), color: chosen.map((is, k) => (is || names[k] === "lm_head" ? t.ink : t.paper)) },
    },
  };
}

function hoverText(name, latency_s, phase, bound_by, energy_j) {
  const lines = [`<b>${plain(name)}</b>`, `${seconds(latency_s)}, ${percent(latency_s / phase.total_s)}, bound by ${plain(bound_by)}`];
  if (energy_j !== null) lines.push(`${joules(energy_j)}, ${percent(energy_j / phase.energy_j)} of the energy`);
  return lines.join("<br>");
}

// The components as tables, with where the energy goes.
function componentTables(state) {
  $("components").replaceChildren(...state.phases.map((phase) => componentTable(phase)));
}

function componentTable(phase) {
  const known = phase.energy_j !== null;
  const table = element("table", { "aria-label": `Components of ${phase.phase}` });
  const line = (kind, name, cells, more = {}) => {
    const row = element("tr", more);
    row.append(element("th", { scope: kind }, name), ...cells.map((text) => element(kind === "col" ? "th" : "td", kind === "col" ? { scope: kind } : {}, text)));
    return row;
  };
  const body = element("tbody");
  for (const run of phase.runs) {
    const cells = [seconds(run.latency_s), percent(run.latency_s / phase.total_s), run.bound_by, ...(known ? [joules(run.energy_j)] : [])];
    body.append(line("row", run.count > 1 ? `${run.name} (${run.count})` : run.name, cells, run.name === "lm_head" ? { class: "lm_head" } : {}));
  }
  body.append(line("row", "total", [seconds(phase.total_s), "100%", largest(phase.bound_shares), ...(known ? [joules(phase.energy_j)] : [])]));
  const holder = element("div");
  table.append(element("thead", {}, line("col", phase.phase, ["latency", "share", "bound by", ...(known ? ["energy"] : [])])), body);
  holder.append(table);
  if (known) {
    const shares = Object.entries(phase.energy_by_j).sort((a, b) => b[1] - a[1]).filter(([, value]) => value >= 0.005 * phase.energy_j);
    holder.append(element("p", { class: "note" }, `Energy: ${shares.map(([name, value]) => `${name} ${percent(value / phase.energy_j, 0)}`).join(", ")}; ${rate(phase.energy_j / phase.total_s, "W")} on average.`));
  }
  return holder;
}
