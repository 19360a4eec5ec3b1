"""`rooftile predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from functional.errors import BadInput, Problem
from sim.cli import flags
from sim.engines import check_engine

if TYPE_CHECKING:
    from rich.progress import Progress

    from hwmodels.chip import Chip
    from sim.explore.generation import Generation
    from sim.explore.sensitivity import Sensitivity
    from sim.explore.step import Step

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def predict(
    model: flags.Model,
    chip: flags.ChipOption,
    *,
    scenario: flags.Scenario,
    drawing: flags.Drawing,
    tokens: flags.Generate = None,
    chunk: flags.Chunk = None,
    drafting: flags.Drafting,
    execution: flags.Execution,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Add how latency answers to each number of the chip: what to buy, what is over-built.")
    ] = False,
    form: Annotated[Literal["table", "json", "csv", "md"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Predict how long prefill and decode take on a chip: per op, per layer and for lm_head, and what bounds each."""
    from hwmodels import load_chip

    if sensitivity and form == "csv":
        raise BadInput(Problem("a CSV file has one row per op", "use --format table, md or json", path="--sensitivity"))
    built = load_chip(chip)
    sampling, speculation = drawing.sampling(), drafting.speculation()
    if tokens is None and chunk is None and speculation is None:
        _emit_steps(flags.steps_of(model, scenario, execution, sampling), built, sensitivity, form, out)
        return
    others = {"--phase": scenario.phase, "--context": scenario.context, "--logits": scenario.logits != "last", "--sensitivity": sensitivity}
    flags.refuse(others, "a generation is the prompt and all that follows")
    check_engine(scenario.engine, not execution.no_prefetch)
    if speculation is not None and tokens is None:
        raise BadInput(Problem("a draft model proposes tokens after the first", "give --generate N", path="--draft"))
    asked = {**scenario.to_dict(), **execution.to_dict(), "sampling": sampling, "chunk": chunk, "speculation": speculation}
    for name in ("phase", "context", "logits", "prefetch"):
        del asked[name]
    from sim.present.generation_tables import emit_generation

    found = _generation(model, built, {**asked, "tokens": 1 if tokens is None else tokens})
    for note in _notes(found, built.tdp_w, scenario, execution, chunk):
        print(f"rooftile: warning: {note}", file=sys.stderr)
    emit_generation(found, form, out)


def _generation(model: str, chip: Chip, asked: Mapping[str, Any]) -> Generation:
    """A generation, with a bar on a terminal."""
    from sim.explore.generation import predict_generation

    with _bar() as bar:
        task = bar.add_task("contexts", total=None)
        return predict_generation(model, chip, **asked, progress=lambda done, of: bar.update(task, completed=done, total=of))


def _emit_steps(steps: Sequence[Step], chip: Chip, sensitivity: bool, form: str, out: Path | None) -> None:
    """Print what was predicted of each step, with its warnings on stderr."""
    from sim.present import text
    from sim.present.output import emit, emit_tables

    timelines = [step.timeline(chip) for step in steps]
    for timeline in timelines:
        for warning in text.step_warnings(timeline, chip.tdp_w):
            print(f"rooftile: warning: {warning}", file=sys.stderr)
    responses: list[tuple[Sensitivity, ...]] = []
    if sensitivity:
        responses = _responses(steps, chip)
    if form == "json":
        emit(text.predictions_json(timelines, [{"sensitivity": [row.to_dict() for row in rows]} for rows in responses]), out)
    elif form == "csv":
        emit(text.predictions_csv(timelines), out)
    else:
        from sim.present.tables import prediction_tables

        parts = [prediction_tables(timeline) for timeline in timelines]
        if sensitivity:
            from sim.present.explore_tables import sensitivity_tables

            parts = [[*part, *sensitivity_tables(rows)] for part, rows in zip(parts, responses, strict=True)]
        emit_tables([each for part in parts for each in part], out, form)


def _bar() -> Progress:
    """Progress on a terminal, on stderr; nothing where there is none."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(transient=True, disable=not sys.stderr.isatty(), console=Console(stderr=True))


def _responses(steps: Sequence[Step], chip: Chip) -> list[tuple[Sensitivity, ...]]:
    """The sensitivities of each step, with a bar on a terminal."""
    from sim.explore.sensitivity import sensitivity_of

    with _bar() as bar:
        tasks = [bar.add_task(f"{step.phase}, one number changed at a time", total=None) for step in steps]
        return [
            sensitivity_of(step, chip, lambda done, of, task=task: bar.update(task, completed=done, total=of))  # type: ignore[misc]
            for step, task in zip(steps, tasks, strict=True)
        ]


def _notes(
    found: Generation, tdp_w: float | None, scenario: flags.Scenario, execution: flags.Execution, chunk: int | None
) -> Iterator[str]:
    """What a generation does not do, though one might think so, and what no chip sustains."""
    from sim.present import text

    if chunk is not None and chunk >= found.prompt:
        yield f"--chunk {chunk} changes nothing: it takes the prompt of {found.prompt} tokens at once"
    if scenario.engine == "cycle" and not execution.no_prefetch:
        yield "the steps of a generation are timed without prefetch, as with --no-prefetch"
    if found.power_w is not None and tdp_w is not None and found.power_w > tdp_w:
        yield text.above_tdp(f"{found.model.name} with {found.tokens} new tokens", found.power_w, found.chip, tdp_w)
