// View 2: the step, its components, their ops: heights are shares of the latency.

function breakdownView(state) {
  const t = theme();
  const traces = state.phases.map((phase, i) => icicle(state, phase, i, t));
  const bounds = [...new Set(state.phases.flatMap((phase) => phase.rows.bound_by))];
  for (const bound of bounds) {
    const [color, shape] = boundStyle(bound);
    traces.push({
      type: "bar", x: [null], y: [null], name: `bound by ${plain(bound)}`,
      marker: { color, pattern: hatch(shape, t.paper) }, hoverinfo: "skip",
    });
  }
  $("components").replaceChildren(...state.phases.map((phase) => componentTable(phase)));
  return draw("breakdown", traces, layout({
    margin: { l: 8, r: 8, t: 6, b: 30 },
    xaxis: { visible: false }, yaxis: { visible: false },
    legend: { orientation: "h", y: -0.02, yanchor: "top", bgcolor: "rgba(0,0,0,0)" },
    uniformtext: { minsize: 9, mode: "hide" },
  }), STILL);
}

function icicle(state, phase, i, t) {
  const ids = [phase.phase], labels = [`${phase.phase} ${seconds(phase.total_s)}`], parents = [""], values = [phase.total_s];
  const bounds = [largest(phase.bound_shares)], names = [""], texts = [`${plain(phase.phase)}: ${seconds(phase.total_s)}`];
  phase.runs.forEach((run, r) => {
    ids.push(`${phase.phase}/${r}`);
    labels.push(plain(run.name));
    parents.push(phase.phase);
    values.push(run.latency_s);
    bounds.push(run.bound_by);
    names.push("");
    texts.push(`<b>${plain(run.name)}</b><br>${seconds(run.latency_s)}, ${percent(run.latency_s / phase.total_s)}, bound by ${plain(run.bound_by)}`);
  });
  const rows = phase.rows;
  rows.name.forEach((name, k) => {
    if (phase.runs[rows.run[k]].name === name) return; // lm_head, norm ...: a component of one op is its own sector
    ids.push(`${phase.phase}/${rows.run[k]}/${k}`);
    labels.push(plain(name.replace(/^layers\.\*\./, "")));
    parents.push(`${phase.phase}/${rows.run[k]}`);
    values.push(rows.latency_s[k]);
    bounds.push(rows.bound_by[k]);
    names.push(name);
    texts.push(`<b>${plain(name)}</b><br>${seconds(rows.latency_s[k])}, ${percent(rows.latency_s[k] / phase.total_s)}, bound by ${plain(rows.bound_by[k])}`);
  });
  phase.runs.forEach((run, r) => { if (rows.name.includes(run.name)) names[r + 1] = run.name; });
  const chosen = names.map((name) => name !== "" && name === state.chosen);
  return {
    type: "icicle", ids, labels, parents, values, branchvalues: "total", sort: false, customdata: names, text: texts,
    hovertemplate: "%{text}<extra></extra>",
    texttemplate: "%{label}  %{percentRoot:.1%}",
    textfont: { size: 12 }, leaf: { opacity: 1 },
    tiling: { orientation: "h", pad: 1 },
    pathbar: { visible: true, thickness: 18, textfont: { size: 11 } },
    domain: { x: i === 0 ? [0, 0.495] : [0.505, 1] },
    marker: {
      colors: bounds.map((bound, k) => (k === 0 ? t.soft : boundStyle(bound)[0])),
      pattern: { shape: bounds.map((bound, k) => (k === 0 ? "" : boundStyle(bound)[1])), fgcolor: t.paper, solidity: 0.12, fillmode: "overlay" },
      line: { width: chosen.map((is, k) => (is ? 4 : names[k] === "lm_head" ? 2.5 : 0.5)), color: chosen.map((is, k) => (is || names[k] === "lm_head" ? t.ink : t.paper)) },
    },
  };
}

function componentTable(phase) {
  const table = element("table", { "aria-label": `Components of ${phase.phase}` });
  const head = element("tr");
  for (const title of [phase.phase, "latency", "share", "bound by"]) head.append(element("th", { scope: "col" }, title));
  const body = element("tbody");
  for (const run of phase.runs) {
    const row = element("tr", run.name === "lm_head" ? { class: "lm_head" } : {});
    row.append(element("th", { scope: "row" }, run.count > 1 ? `${run.name} (${run.count})` : run.name));
    for (const text of [seconds(run.latency_s), percent(run.latency_s / phase.total_s), run.bound_by]) row.append(element("td", {}, text));
    body.append(row);
  }
  table.append(element("thead", {}, head), body);
  return table;
}
