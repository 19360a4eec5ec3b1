"""The CPU at hand, measured and predicted side by side: describe it, fit what it sustains to 30 ops, predict steps that the fit never saw.

    python -m tests.bench.bench_cpu [--model llama-3.2-1b] [--layers L] [--patience SECONDS] [--folder FOLDER]

Weights are fp32. The fit sees microbenchmarks and single ops of a prefill of 32 and of 256 tokens and of a decode step after 256; judged
are whole steps of other lengths. Goals: decode within 10 %, prefill within 15 %. A step that was timed while the machine was below its best
rate is shown with that, and not judged. Some five minutes, up to eight on a machine that is often disturbed; `OMP_NUM_THREADS` says on how
many threads. The folder keeps tables and chip files.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sim.cli.measure import Told
from sim.evidence.calibrate import UNSTEADY, calibrate, predicted_s
from sim.evidence.describe import chip_yaml
from sim.evidence.measure import Measured, Measurement, measure
from sim.evidence.tidy import is_slow, read_tidy
from sim.evidence.validate import ENGINE, Comparison, Validation, validate_rows
from sim.present.evidence_tables import calibration_tables, slow_rows, validation_tables
from sim.present.output import emit_tables

FITTED_PROMPTS, FITTED_CONTEXTS = (32, 256), (256,)
PROMPTS, CONTEXTS = (50, 200, 400), (100, 1000)
GOALS = {"decode": 0.10, "prefill": 0.15}
PATIENCE_S = 150.0


def is_unseen(row: Measured) -> bool:
    """Whether a row has a length that the fit has not: every whole step counts as one."""
    cells = row.cells
    is_new = cells.get("M") in PROMPTS or cells.get("q_len") in PROMPTS or (cells.get("q_len") == 1 and cells.get("kv_len") != 257)
    return is_new or str(cells["op"]).startswith("e2e_")


def part(found: Measurement, unseen: bool) -> Measurement:
    return replace(found, rows=tuple(row for row in found.rows if is_unseen(row) == unseen))


def state() -> str:
    """What the operating system says of the load."""
    return f"load {', '.join(f'{each:.1f}' for each in os.getloadavg())} over 1, 5, 15 minutes"


def lines(before: Sequence[Comparison], after: Sequence[Comparison]) -> Iterator[str]:
    """A Markdown table of whole steps."""
    yield "| step | measured | described | calibrated | machine |"
    yield "|---|---|---|---|---|"
    for old, new in zip(before, after, strict=True):
        row = new.case.row
        length = f"of {row.text('q_len')} tokens" if row.text("phase") == "prefill" else f"after {row.whole('kv_len') - 1} tokens"
        seen = int(row.text("q_len")) in FITTED_PROMPTS or int(row.text("kv_len")) - 1 in FITTED_CONTEXTS
        what = f"{row.text('phase')} {length}" + (", its ops in the fit" if seen else "")
        machine = row.text("notes").partition("; machine ")[2] or "at its best rate"
        figures = [f"{1e3 * new.case.measured_s:.1f} ms"] + [f"{1e3 * each.predicted_s:.1f} ms, {each.error:+.1%}" for each in (old, new)]
        yield f"| {what} | {' | '.join(figures)} | {machine} |"


def verdicts(after: Sequence[Comparison]) -> Iterator[str]:
    for phase, goal in GOALS.items():
        steps = [each for each in after if each.case.row.text("phase") == phase and not is_slow(each.case.row)]
        judged = [each for each in steps if each.case.row.whole("q_len") in PROMPTS or each.case.row.whole("kv_len") - 1 in CONTEXTS]
        if judged:
            worst = max((each.error for each in judged), key=abs)
            verdict = "reached" if abs(worst) <= goal else "MISSED"
            yield f"{phase}: worst {worst:+.1%} of {len(judged)} unseen lengths, goal {goal:.0%}: {verdict}"
        else:
            yield f"{phase}: no unseen length was timed at the machine's best rate"


def compared(table: Path, chip: Path) -> tuple[Validation, list[Comparison]]:
    """Every row of a table, and the whole steps among them."""
    validation = validate_rows(read_tidy(table), (ENGINE,), [chip], predicted_s)
    return validation, [each for each in validation.comparisons if each.case.op.startswith("e2e_")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-3.2-1b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--patience", type=float, default=PATIENCE_S)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()

    folder = given.folder or Path(tempfile.mkdtemp(prefix="bench_cpu_"))
    folder.mkdir(parents=True, exist_ok=True)
    table, unseen, described, fitted = (folder / name for name in ("cpu.csv", "unseen.csv", "cpu.yaml", "cpu-calibrated.yaml"))
    begin_s = time.perf_counter()
    prompts, contexts = (*FITTED_PROMPTS, *PROMPTS), (*FITTED_CONTEXTS, *CONTEXTS)
    print(f"before: {state()}")
    found = measure(given.model, layers=given.layers, prompts=prompts, contexts=contexts, patience_s=given.patience, tell=Told())
    measured_s = time.perf_counter() - begin_s
    table.write_text(part(found, unseen=False).to_csv())
    unseen.write_text(part(found, unseen=True).to_csv())
    described.write_text(chip_yaml(found))
    print(f"{found.hardware}, {found.threads} threads, {found.date}; {folder}\nafter: {state()}; measured in {measured_s:.0f} s")
    if found.slow:
        print(slow_rows(found))
    calibration = calibrate(described, [table])
    fitted.write_text(calibration.to_yaml(fitted))
    if not calibration.is_steady:
        print(f"{UNSTEADY} while most rows were measured: the fit is to those too")
    print(f"calibrated in {time.perf_counter() - begin_s - measured_s:.0f} s")
    emit_tables(calibration_tables(calibration), None)
    _, before = compared(unseen, described)
    validation, after = compared(unseen, fitted)
    print("ops and steps that are not in the fit")
    emit_tables(validation_tables(validation), None)
    print("\n".join([*lines(before, after), "", *verdicts(after)]))


if __name__ == "__main__":
    main()
