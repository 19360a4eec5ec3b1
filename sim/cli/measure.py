"""`rooftile measure`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from sim.cli import flags

if TYPE_CHECKING:
    from sim.evidence.sampling import Progress

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_EVERY_S = 5.0


@app.command()
def measure(
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="A library model, or a config.json or params.json.")],
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="What to measure.")] = "cpu",
    layers: Annotated[Optional[int], typer.Option("--layers", metavar="L", help="Decoder layers to build. [default: all]")] = None,  # noqa: UP045
    batch: Annotated[list[int], typer.Option("--batch", metavar="B", help="Sequences at a time; may be repeated.")] = [1],  # noqa: B006
    prompt: Annotated[list[int], typer.Option("--prompt", metavar="N", help="Tokens of a prefill; may be repeated.")] = [128],  # noqa: B006
    context: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option("--context", metavar="N", help="Tokens in the cache before a decode step; may be repeated. [default: the prompts]"),
    ] = None,
    dtype: Annotated[Literal["fp32", "bf16"], typer.Option("--dtype", help="Number format of everything.")] = "fp32",
    runs: Annotated[int, typer.Option("--runs", metavar="R", help="Runs of each, at most; at least 3 are made.")] = 15,
    patience: Annotated[
        float, typer.Option("--patience", metavar="SECONDS", help="How long, in all, to wait for the machine's best rate and time again.")
    ] = 120.0,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Seed of weights, inputs and caches.")] = 0,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--name", metavar="NAME", help="What to call the hardware. [default: its own name]"),
    ] = None,
    chip_out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--chip-out", metavar="YAML", help="Describe the CPU as a chip, from what was measured, and write that here."),
    ] = None,
    clock: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--clock", metavar="F", help="The clock of that chip, e.g. '2.5 GHz'. [default: /proc/cpuinfo]"),
    ] = None,
    out: flags.Out = None,
) -> None:
    """Time bandwidth, GEMMs, a model's ops and whole steps on this machine, as a tidy table that `validate` and `calibrate` read."""
    from functional.errors import BadInput, Problem
    from sim.evidence.describe import check_clock, chip_yaml
    from sim.evidence.measure import measure as measure_machine
    from sim.present.evidence_tables import slow_rows
    from sim.present.output import emit, write_whole

    if clock is not None and chip_out is None:
        raise BadInput(Problem("only a described chip has a clock", "give --chip-out too", path="--clock"))
    if chip_out is not None and device != "cpu":
        cure = "take a chip of the library, or leave --chip-out away"
        raise BadInput(Problem("a GPU is described by its datasheet", cure, path="--chip-out"))
    check_clock(clock)
    found = measure_machine(
        model,
        device=device,
        layers=layers,
        batches=batch,
        prompts=prompt,
        contexts=context or (),
        dtype=dtype,
        runs=runs,
        patience_s=patience,
        seed=seed,
        name=name,
        tell=Told(),
    )
    described = None if chip_out is None else chip_yaml(found, clock)
    emit(found.to_csv().rstrip("\n"), out)
    if chip_out is not None and described is not None:
        write_whole(chip_out, described)
    if found.slow:
        print(f"rooftile: warning: {slow_rows(found)}", file=sys.stderr)


class Told:
    """Prints on stderr how far a measurement is, every now and then."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def __call__(self, now: Progress) -> None:
        if time.monotonic() >= self._next_s:
            print(f"rooftile: {now}", file=sys.stderr)
            self._next_s = time.monotonic() + _EVERY_S
