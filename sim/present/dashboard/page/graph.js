// View 8: the ops of one layer from top to bottom, with the shape of every tensor on its edge.

function graphView(state) {
  const phase = state.phase_data, drawing = phase.graph, { box, rank } = drawing;
  const height = 34, pad = 14;
  const rowOf = new Map();
  phase.rows.ops.forEach((ops, k) => ops.forEach((op) => rowOf.set(op, phase.rows.name[k])));
  const xs = [...drawing.nodes.map((node) => node.at[0]), ...drawing.edges.flatMap((edge) => edge.path.map((at) => at[0]))];
  const left = Math.min(...xs) - box / 2, right = Math.max(...xs) + box / 2;
  const bottom = Math.max(...drawing.nodes.map((node) => node.at[1])) + height / 2;
  const svg = svgElement("svg", {
    viewBox: `${left - pad} ${-height / 2 - pad} ${right - left + 2 * pad} ${bottom + height / 2 + 2 * pad}`, role: "group",
    "aria-label": `Ops of ${drawing.component} with the shapes between them`,
  });
  const defs = svgElement("defs");
  const marker = svgElement("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" });
  marker.append(svgElement("path", { d: "M0,0 L8,4 L0,8 z", style: `fill:${theme().faint};stroke:none` }));
  defs.append(marker);
  svg.append(defs);
  const labels = [];
  const into = new Map();
  for (const edge of drawing.edges) {
    const points = edge.path.map((at) => [...at]);
    points[0][1] += height / 2;
    points[points.length - 1][1] -= height / 2;
    const own = into.get(edge.to) || 0;
    into.set(edge.to, own + 1);
    const path = svgElement("path", { d: curve(points), "marker-end": "url(#tip)", "data-from": rowOf.get(edge.from) || "", "data-to": rowOf.get(edge.to) || "" });
    svg.append(path);
    labels.push(edgeLabel(edge, points, own, rank - height));
  }
  for (const node of drawing.nodes) svg.append(boxOf(state, node, rowOf.get(node.op), box, height));
  svg.append(...labels.flat(), ...boundKey(phase.rows, drawing, rowOf, right, height));
  svg.addEventListener("click", (event) => { const holder = event.target.closest("[data-op]"); if (holder) state.choose(holder.dataset.op); });
  svg.addEventListener("keydown", (event) => {
    const holder = event.target.closest("[data-op]");
    if (holder && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); state.choose(holder.dataset.op); }
  });
  $("graph-see").textContent = `${drawing.component}, ${phase.phase}: what each op reads and makes; dashed boxes come from outside, weights stand in the op that holds them. The frame says what binds the op.`;
  $("graph").replaceChildren(svg);
  markGraph(state);
}

// Which frame says what, at the top right, beside the first box.
function boundKey(rows, drawing, rowOf, right, height) {
  const bounds = [...new Set(drawing.nodes.filter((node) => node.op >= 0).map((node) => rows.bound_by[rows.name.indexOf(rowOf.get(node.op))]))];
  const left = right - 30 - Math.max(80, ...bounds.map((bound) => labelWidth([`bound by ${bound}`], 10.5)));
  return bounds.flatMap((bound, i) => {
    const y = i * 22 - height / 2;
    return [
      svgElement("rect", { class: "key", x: left, y, width: 24, height: 14, rx: 4, stroke: boundStyle(bound)[0] }),
      svgElement("text", { class: "named", x: left + 30, y: y + 11 }, `bound by ${bound}`),
    ];
  });
}

// A smooth line through the places where the edge passes ranks.
function curve(points) {
  let d = `M${points[0][0]},${points[0][1]}`;
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1], [x1, y1] = points[i], middle = (y0 + y1) / 2;
    d += ` C${x0},${middle} ${x1},${middle} ${x1},${y1}`;
  }
  return d;
}

// The shape stands where the edge comes in; labels of one op's edges one above the other.
function edgeLabel(edge, points, own, gap) {
  const [x0, y0] = points[points.length - 2], [x1, y1] = points[points.length - 1];
  const part = [0.66, 0.34, 0.5][own % 3];
  const s = part * part * (3 - 2 * part); // the curve's place at this height, nearly
  const x = x0 + (x1 - x0) * s, y = points.length > 2 ? y1 - gap * (1 - part) : y0 + (y1 - y0) * part;
  const width = 5.4 * edge.shape.length + 6;
  return [
    svgElement("rect", { class: "behind", x: x - width / 2, y: y - 6.5, width, height: 13, rx: 3 }),
    svgElement("text", { class: "shape", x, y: y + 3.5 }, edge.shape),
  ];
}

function boxOf(state, node, row, box, height) {
  const [x, y] = node.at;
  const holder = svgElement("g", { class: node.op < 0 ? "outside" : "box" });
  const rect = svgElement("rect", { x: x - box / 2, y: y - height / 2, width: box, height, rx: 6, fill: "none" });
  if (row) {
    const rows = state.phase_data.rows, k = rows.name.indexOf(row);
    rect.setAttribute("stroke", boundStyle(rows.bound_by[k])[0]);
    holder.setAttribute("data-op", row);
    holder.setAttribute("tabindex", "0");
    holder.setAttribute("role", "button");
    holder.setAttribute("aria-label", `${node.kind} ${row}, ${seconds(rows.latency_s[k])}, bound by ${rows.bound_by[k]}`);
  } else rect.setAttribute("style", `fill:${theme().paper}`);
  const held = node.holds.length ? ` ${node.holds.join(" ")}` : "";
  holder.append(rect, svgElement("text", { class: "kind", x, y: y - 3 }, node.op < 0 ? OUTSIDE[node.kind] || node.kind : node.kind + held));
  holder.append(svgElement("text", { x, y: y + 11 }, shortened(shortName(node.label), 22)));
  holder.append(svgElement("title", {}, `${node.label}${held}`));
  return holder;
}

const OUTSIDE = { intermediate: "made before", kv_cache: "KV cache", input: "input" };

const shortened = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function markGraph(state) {
  for (const holder of $("graph").querySelectorAll("[data-op]")) {
    const is = holder.dataset.op === state.chosen;
    holder.classList.toggle("chosen", is);
    holder.setAttribute("aria-pressed", is);
  }
  for (const path of $("graph").querySelectorAll("path[data-to]")) {
    path.classList.toggle("chosen-edge", state.chosen !== null && (path.dataset.from === state.chosen || path.dataset.to === state.chosen));
  }
}
