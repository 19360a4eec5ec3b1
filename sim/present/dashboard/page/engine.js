// The roofline engine, over a recipe and a chip: sim/engines/roofline.py in the browser, number by number.
// A recipe holds the loads of a step as functions of batch and length; it is exact at the positions of its two lists.

class Roofline {
  constructor(recipe) {
    this.recipe = recipe;
    this.known = null; // [batch index, length index] of the loads that are worked out
    this.values = new Float64Array(recipe.quantities.length);
  }

  // Every quantity at one position of the sliders.
  moveTo(b, l) {
    if (this.known !== null && this.known[0] === b && this.known[1] === l) return;
    const batch = this.recipe.batches[b], length = this.recipe.lengths[l];
    this.recipe.quantities.forEach((q, i) => {
      if (q[0] === "table") this.values[i] = q[1 + b][l];
      else if (q[0] === "linear") this.values[i] = q[1][l] + batch * q[2][l];
      else this.values[i] = (q[2] * length + q[1]) * length + q[0] + batch * ((q[5] * length + q[4]) * length + q[3]);
    });
    this.known = [b, l];
  }

  // Seconds that each unit and level is busy with some loads together, in the order of the Python engine.
  busy(loads, chip) {
    const v = this.values;
    const macs = {}, sums = {}, counts = {}, moved = {};
    const through = [0, 0];
    for (const load of loads) {
      for (const [name, q] of load.macs) macs[name] = (macs[name] || 0) + v[q];
      for (const [name, q] of load.sums) sums[name] = (sums[name] || 0) + v[q];
      for (const [name, q] of load.counts) counts[name] = (counts[name] || 0) + v[q];
      for (const [kind, write, q] of load.moved) {
        if (!(kind in moved)) moved[kind] = [0, 0];
        moved[kind][write] += v[q];
      }
      for (const [write, q] of load.always) through[write] += v[q];
      for (const [size, write, threshold] of load.crossings) if (v[threshold] > chip.resident_bytes) through[write] += v[size];
    }
    let matrix = 0, vector = 0;
    for (const name in macs) matrix += macs[name] / chip.macs_per_s[name];
    for (const name in counts) vector += counts[name] * chip.primitive_s[name];
    const busy = { matrix, vector };
    chip.levels.forEach((level, i) => {
      let [read, written] = through;
      if (i > 0) {
        read = written = 0;
        const sumsHere = level.holds.includes("psums");
        const first = i === chip.levels.findIndex((each, at) => at > 0 && each.holds.includes("activations"));
        for (const kind in moved) {
          if (kind === "psums" || kind === "results") {
            if (sumsHere) read += moved[kind][1];
            else if (kind === "results" && first) written += moved[kind][1];
          } else if (level.holds.includes(kind)) {
            read += moved[kind][0];
            written += moved[kind][1];
          }
        }
        if (i === chip.levels.findLastIndex((each) => each.holds.includes("psums"))) {
          for (const name in sums) written += Math.floor(sums[name] * chip.accumulate_bits[name] / 8);
        }
      }
      busy[level.name] = level.shared ? (read + written) / level.read : Math.max(read / level.read, written / level.write);
    });
    return { busy, dram_bytes: through[0] + through[1] };
  }

  // A whole step: its latency, what binds it, each component, and each folded op where `rows` are given.
  step(b, l, chip, rows) {
    this.moveTo(b, l);
    const { loads, classes, components, phase } = this.recipe;
    const timed = classes.map((members) => this.busy(members.map((i) => loads[i]), chip).busy);
    const bounds = timed.map(largest);
    let total_s = 0;
    const bound_s = {}, component_s = {};
    for (const [members, names] of components) {
      let one_s = 0;
      for (const i of members) {
        one_s += timed[i][bounds[i]];
        bound_s[bounds[i]] = (bound_s[bounds[i]] || 0) + timed[i][bounds[i]] * names.length;
      }
      for (const name of names) component_s[name] = one_s;
      total_s += one_s * names.length;
    }
    const tokens = this.recipe.batches[b] * (phase === "prefill" ? this.recipe.lengths[l] : 1);
    const found = { total_s, bound_s, bound_by: largest(bound_s), component_s, tokens_per_s: tokens / total_s };
    if (rows) found.rows = this.rows(rows, classes, loads, timed, bounds, chip);
    return found;
  }

  // Latency and bytes of the folded ops: a group's latency is shared in proportion to what each op would take alone.
  rows(rows, classes, loads, timed, bounds, chip) {
    const own = classes.map((members) => members.map((i) => this.busy([loads[i]], chip)));
    const alone = own.map((ops) => ops.map((op) => op.busy[largest(op.busy)]));
    const sums = alone.map((times) => times.reduce((a, b) => a + b, 0));
    return rows.members.map((members) => {
      let latency_s = 0, busy_s = 0, count = 0;
      for (const [c, place, times] of members) {
        const share = sums[c] > 0 ? alone[c][place] / sums[c] : 1 / alone[c].length;
        latency_s += times * share * timed[c][bounds[c]];
        busy_s = Math.max(busy_s, alone[c][place]);
        count += times;
      }
      const [c, place] = members[0];
      return {
        latency_s, busy_s, count,
        flops: this.values[loads[classes[c][place]].flops],
        dram_bytes: own[c][place].dram_bytes,
        bound_by: bounds[c],
      };
    });
  }
}

// The name of the largest number; the first of equals.
function largest(numbers) {
  let best = null;
  for (const name in numbers) if (best === null || numbers[name] > numbers[best]) best = name;
  return best;
}

// A chip with its clock, its matrix rates and its DRAM bandwidth multiplied.
function scaledChip(chip, { clock = 1, matrix = 1, bandwidth = 1 }) {
  const macs_per_s = {}, primitive_s = {};
  for (const name in chip.macs_per_s) macs_per_s[name] = chip.macs_per_s[name] * clock * matrix;
  for (const name in chip.primitive_s) primitive_s[name] = chip.primitive_s[name] / clock;
  const levels = chip.levels.map((level, i) => {
    const factor = (level.per_cycle ? clock : 1) * (i === 0 ? bandwidth : 1);
    return { ...level, read: level.read * factor, write: level.write * factor };
  });
  return { ...chip, clock_hz: chip.clock_hz * clock, macs_per_s, primitive_s, levels };
}
