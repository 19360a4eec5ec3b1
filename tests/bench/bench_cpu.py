"""The CPU at hand, measured and predicted side by side: describe it, fit what it sustains to 30 ops, predict prefill and decode.

    python tests/bench/bench_cpu.py [--model llama-3.2-1b] [--layers L] [--folder FOLDER]

Weights are fp32. The fit sees single ops only, never a whole step. Goals: decode within 10 %, prefill within 15 %.
Run it on an idle machine: the times of a busy one are those of its other work. The folder keeps table and chip files.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from sim.evidence.calibrate import calibrate, steps
from sim.evidence.describe import chip_yaml
from sim.evidence.measure import measure
from sim.present.evidence_tables import calibration_tables
from sim.present.output import emit_tables

PROMPTS, CONTEXTS = (32, 128, 512), (64, 1024)
GOALS = {"decode": 0.10, "prefill": 0.15}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-3.2-1b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()

    folder = given.folder or Path(tempfile.mkdtemp(prefix="bench_cpu_"))
    folder.mkdir(parents=True, exist_ok=True)
    table, described, fitted = folder / "cpu.csv", folder / "cpu.yaml", folder / "cpu-calibrated.yaml"
    found = measure(given.model, layers=given.layers, prompts=PROMPTS, contexts=CONTEXTS)
    table.write_text(found.to_csv())
    described.write_text(chip_yaml(found))
    calibration = calibrate(described, [table])
    fitted.write_text(calibration.to_yaml(fitted))

    print(f"{found.hardware}, {found.threads} threads, {found.date}; {folder}")
    emit_tables(calibration_tables(calibration), None)
    for phase, goal in GOALS.items():
        errors = [new.error for _, new in steps(calibration) if new.case.op == f"e2e_{phase}"]
        worst = max(errors, key=abs)
        print(f"{phase}: worst {worst:+.1%}, goal {goal:.0%}: {'reached' if abs(worst) <= goal else 'MISSED'}")


if __name__ == "__main__":
    main()
