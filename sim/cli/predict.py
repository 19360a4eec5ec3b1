"""`rooftile predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from functional.errors import BadInput, Problem
from sim.cli import flags
from sim.engines import DEFAULT_ENGINE, check_engine

if TYPE_CHECKING:
    from rich.progress import Progress

    from hwmodels.chip import Chip
    from sim.explore.generation import Speculation
    from sim.explore.sensitivity import Sensitivity
    from sim.explore.step import Step

app = typer.Typer(rich_markup_mode=None)


@app.command()
def predict(
    model: flags.Model,
    chip: flags.ChipOption,
    phase: flags.Phase = None,
    batch: flags.Batch = 1,
    prompt: flags.Prompt = None,
    context: flags.Context = None,
    engine: flags.Engine = DEFAULT_ENGINE,
    weights: flags.Weights = None,
    activations: flags.Activations = None,
    kv: flags.Kv = None,
    logits: flags.Logits = "last",
    temperature: flags.Temperature = None,
    top_k: flags.TopK = None,
    top_p: flags.TopP = None,
    tokens: flags.Generate = None,
    chunk: flags.Chunk = None,
    draft: flags.Draft = None,
    draft_tokens: flags.DraftTokens = None,
    acceptance: flags.Acceptance = None,
    draft_weights: flags.DraftWeights = None,
    split: flags.Split = 1,
    no_fuse: flags.NoFuse = False,
    no_prefetch: flags.NoPrefetch = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Add how latency answers to each number of the chip: what to buy, what is over-built.")
    ] = False,
    form: Annotated[Literal["table", "json", "csv", "md"], typer.Option("--format", help="How to print.")] = "table",
    out: flags.Out = None,
) -> None:
    """Predict how long prefill and decode take on a chip: per op, per layer and for lm_head, and what bounds each."""
    from hwmodels import load_chip
    from sim.explore.step import Step

    if sensitivity and form == "csv":
        raise BadInput(Problem("a CSV file has one row per op", "use --format table, md or json", path="--sensitivity"))
    built = load_chip(chip)
    sampling = flags.sampling_of(temperature, top_k, top_p)
    speculation = _speculation(draft, draft_tokens, acceptance, draft_weights)
    if tokens is not None or chunk is not None or speculation is not None:
        others = {"--phase": phase, "--context": context, "--logits": logits != "last", "--sensitivity": sensitivity}
        _refuse(others, "a generation is the prompt and all that follows")
        check_engine(engine, not no_prefetch)
        from sim.explore.generation import predict_generation
        from sim.present.generation_tables import emit_generation

        if speculation is not None and tokens is None:
            raise BadInput(Problem("a draft model proposes tokens after the first", "give --generate N", path="--draft"))
        with _bar() as bar:
            task = bar.add_task("contexts", total=None)
            found = predict_generation(
                model,
                built,
                tokens=1 if tokens is None else tokens,
                prompt=prompt,
                batch=batch,
                engine=engine,
                weights=weights,
                activations=activations,
                kv=kv,
                sampling=sampling,
                chunk=chunk,
                speculation=speculation,
                fused=not no_fuse,
                split=split,
                progress=lambda done, of: bar.update(task, completed=done, total=of),
            )
        for note in _notes(found.prompt, chunk, engine, no_prefetch):
            print(f"rooftile: warning: {note}", file=sys.stderr)
        if found.power_w is not None and built.tdp_w is not None and found.power_w > built.tdp_w:
            from sim.present import text

            what = f"{found.model.name} with {found.tokens} new tokens"
            print(f"rooftile: warning: {text.above_tdp(what, found.power_w, found.chip, built.tdp_w)}", file=sys.stderr)
        emit_generation(found, form, out)
        return
    phases = flags.phases_of(phase, context, logits)
    rest = (weights, activations, kv, logits, not no_fuse, engine, sampling, not no_prefetch, split)
    steps = [Step(model, each, batch, prompt, context, *rest) for each in phases]
    _emit_steps(steps, built, sensitivity, form, out)


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


def _notes(prompt: int, chunk: int | None, engine: str, no_prefetch: bool) -> Iterator[str]:
    """What a generation does not do, though one might think so."""
    if chunk is not None and chunk >= prompt:
        yield f"--chunk {chunk} changes nothing: it takes the prompt of {prompt} tokens at once"
    if engine == "cycle" and not no_prefetch:
        yield "the steps of a generation are timed without prefetch, as with --no-prefetch"


def _speculation(draft: str | None, draft_tokens: int | None, acceptance: float | None, weights: str | None) -> Speculation | None:
    given = {"draft_tokens": draft_tokens, "acceptance": acceptance, "weights": weights}
    if draft is None:
        named = {"--draft-tokens": draft_tokens, "--acceptance": acceptance, "--draft-weights": weights}
        _refuse({flag: value is not None for flag, value in named.items()}, "no draft model is given")
        return None
    from sim.explore.generation import Speculation

    return Speculation(draft, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Raise `BadInput` for flags that would be ignored."""
    problems = [Problem(f"has no part in this: {why}", "leave it out", path=flag) for flag, value in given.items() if value]
    if problems:
        raise BadInput(problems)
