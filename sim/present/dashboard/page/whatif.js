// View 7: sliders over the chip and the step; the roofline is worked out again at every move.

const FACTORS = Array.from({ length: 25 }, (_, i) => 2 ** ((i - 12) / 4)); // an eighth to eight times, four steps per doubling

function sliderTable(state) {
  const chip = () => state.data.chips[state.chip];
  const times = (i) => (i === 12 ? "" : ` (${Number(FACTORS[i].toPrecision(3))}x)`);
  const format = () => Object.keys(chip().macs_per_s)[0];
  const recipe = state.roofline(state.phases[0]).recipe;
  return [
    ["bandwidth", `${chip().levels[0].name} bandwidth`, FACTORS.length, (i) => rate(chip().levels[0].read * FACTORS[i], "B/s") + times(i)],
    ["matrix", `matrix rate (${format()})`, FACTORS.length, (i) => rate(2 * chip().macs_per_s[format()] * FACTORS[i], "OP/s") + times(i)],
    ["clock", "clock", FACTORS.length, (i) => rate(chip().clock_hz * FACTORS[i], "Hz") + times(i)],
    ["batch", "batch", recipe.batches.length, (i) => String(recipe.batches[i])],
    ...state.phases.map((phase) => {
      const { lengths } = state.roofline(phase).recipe, name = state.length_of(phase);
      return [name, `${name} (${phase.phase})`, lengths.length, (i) => `${lengths[i]} tokens`];
    }),
  ];
}

function buildSliders(state) {
  $("sliders").replaceChildren(...sliderTable(state).map(([name, title, length, text]) => {
    const input = element("input", { type: "range", id: `slider-${name}`, min: 0, max: length - 1, step: 1 });
    const output = element("output", { for: input.id, id: `value-${name}` });
    const label = element("label", { class: "slider" }, title, output, input);
    const show = () => { output.textContent = text(state.at[name]); input.setAttribute("aria-valuetext", output.textContent); };
    input.value = state.at[name];
    input.addEventListener("input", () => { state.at[name] = Number(input.value); show(); state.moved(); });
    show();
    return label;
  }));
}

// The table of totals; full precision stands in data attributes.
function totalsView(state) {
  const chip = state.chipNow(state.chip);
  const rows = state.phases.map((phase) => {
    const found = state.roofline(phase).step(state.at.batch, state.at[state.length_of(phase)], chip);
    const row = element("tr", { "data-phase": phase.phase, "data-seconds": found.total_s, "data-lm_head": found.component_s.lm_head });
    row.append(element("th", { scope: "row" }, phase.phase === "prefill" ? "TTFT" : "TPOT"));
    for (const text of [seconds(phase.total_s), seconds(found.total_s)]) row.append(element("td", {}, text));
    const more = element("tr");
    more.append(element("th", { scope: "row" }, "tokens/s"));
    for (const value of [phase.tokens_per_s, found.tokens_per_s]) more.append(element("td", {}, String(Number(value.toPrecision(4)))));
    const bound = element("tr");
    bound.append(element("th", { scope: "row" }, "bound"));
    for (const shares of [phase.bound_shares, found.bound_s]) {
      const name = largest(shares), sum = Object.values(shares).reduce((a, b) => a + b, 0);
      bound.append(element("td", {}, `${name} ${percent(shares[name] / sum, 0)}`));
    }
    return [row, more, bound];
  });
  $("totals").querySelector("tbody").replaceChildren(...rows.flat());
  const heads = $("totals").querySelectorAll("thead th");
  heads[1].textContent = `${state.data.engine}, as asked`;
  heads[2].textContent = "roofline, what if";
  $("mode").textContent = state.isNeutral()
    ? `All sliders stand at the chip and the step as asked; points are the ${state.data.engine} engine's.`
    : "Points and curves show the roofline engine at these sliders.";
}
