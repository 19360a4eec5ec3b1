// Predicted against measured: a log-log scatter of every op and engine, a colour and a symbol per hardware; on the line both are equal.

const SYMBOLS = ["circle", "square", "diamond", "cross", "x", "triangle-up", "star"];
const COLORS = [OKABE.blue, OKABE.vermillion, OKABE.green, OKABE.orange, OKABE.purple, OKABE.sky, OKABE.grey, OKABE.yellow];

function scatterView(id, { points, low, high }) {
  const t = theme(), margin = { l: 76, r: 20, t: 34, b: 112 };
  const equal = {
    type: "scatter", mode: "lines", x: [low, high], y: [low, high], name: "equal", hoverinfo: "skip", line: { color: t.faint, dash: "dot" },
  };
  const traces = points.map(({ name, index, measured_s, predicted_s, text }) => ({
    type: "scatter", mode: "markers", x: measured_s, y: predicted_s, name, text, hovertemplate: "%{text}<extra></extra>",
    marker: { size: 6, color: COLORS[index % COLORS.length], symbol: SYMBOLS[index % SYMBOLS.length], opacity: 0.75 },
  }));
  const axis = (title) => ({
    title: { text: title, standoff: 8 }, type: "log", range: [Math.log10(low), Math.log10(high)], ...logTicks(low, high, (value) => seconds(value, 3)),
  });
  return draw(id, [equal, ...traces], layout({ margin, xaxis: axis("measured time"), yaxis: axis("predicted time"), legend: legendBelow(id, margin, 56) }));
}

const figures = JSON.parse($("data").textContent).figures;

async function drawAll() {
  for (const [k, figure] of figures.entries()) {
    await scatterView(`figure-${k}`, figure);
    await pause();
  }
  document.body.dataset.ready ||= performance.now();
}

for (const holder of document.querySelectorAll(".save")) saveButtons(holder);
document.addEventListener("DOMContentLoaded", () => { themed(drawAll); drawAll(); }); // Plotly's script stands last in the page
