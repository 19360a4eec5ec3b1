"""`rooftile golden`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sim.cli import flags
from workloads.scenario import Phase

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
@flags.grouped
def golden(
    model: flags.Model,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Write into this folder, which must be new or empty.")],
    ops: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--ops", metavar="PATTERN", help="Ops by name, `*` for any text; may be repeated. [default: all but embed_tokens and lm_head]"
        ),
    ] = None,
    number_format: Annotated[
        str, typer.Option("--format", metavar="FMT", help="Format of weights, between ops and of the KV cache, unless said.")
    ] = "bf16",
    formats: flags.Formats,
    split: flags.Split = 1,
    phase: Annotated[Phase, typer.Option("--phase", help="The step to compute.")] = "prefill",
    batch: flags.Batch = 1,
    prompt: flags.SomePrompt = 16,
    context: flags.Context = None,
    built: flags.Built,
) -> None:
    """Write golden vectors for RTL verification: inputs, weights and outputs of ops, as .npz and $readmemh files with a manifest."""
    from sim.golden import MANIFEST, write_golden
    from sim.golden_step import GoldenModel

    flags.phases_of(phase, context)
    opened = GoldenModel.of(model)
    manifest = write_golden(
        opened,
        out,
        ops=ops or (),
        number_format=number_format,
        **formats.to_dict(),
        split=split,
        phase=phase,
        batch=batch,
        prompt=prompt,
        context=context,
        **built.to_dict(),
    )
    tensors, error = sum(len(op["tensors"]) for op in manifest["ops"]), manifest["error_against_fp32"]
    print(f"{out / MANIFEST}: {len(manifest['ops'])} ops, {tensors} tensors in {manifest['format']}, {opened.source.said(built.seed)}")
    print(
        f"logits against fp32: max error {error['max_error']:.3g}, RMS {error['rms_error']:.3g} of {error['fp32_rms']:.3g}, "
        f"top-1 agreement {error['top1_agreement']:.1%} of {error['tokens']} tokens"
    )
