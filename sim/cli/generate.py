"""`rooftile generate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def generate(
    directory: Annotated[Path, typer.Argument(metavar="CHECKPOINT_DIR", help="A checkpoint of Hugging Face's layout, or of Meta's.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="The text to go on from; several are one batch.")],
    max_new_tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--max-new-tokens", metavar="N", help="Tokens to generate at most. [default: 128, or what the context has room for]"),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="B", help="Sequences for each prompt.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="0 is greedy.")] = 0.0,
    top_k: Annotated[Optional[int], typer.Option("--top-k", metavar="K", help="Draw from the K most likely tokens only.")] = None,  # noqa: UP045
    top_p: Annotated[float, typer.Option("--top-p", metavar="P", help="Draw from the most likely tokens that make up P.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Of the draws; the same seed gives the same text.")] = 0,
) -> None:
    """Run the model for real: print the text that follows the prompt, as it comes; several texts one after the other."""
    from functional.checkpoint import open_checkpoint
    from functional.generate import generate_text
    from functional.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, seed)
    if sampling.is_greedy and (top_k is not None or top_p < 1):
        print("rooftile: warning: temperature 0 is greedy: top-k and top-p change nothing; give --temperature", file=sys.stderr)
    pieces = generate_text(open_checkpoint(directory), prompts, max_new_tokens, sampling, batch)
    for piece in _one_after_the_other(pieces):
        print(piece, end="", flush=True)


def _one_after_the_other(pieces: Iterable[tuple[int, str]]) -> Iterator[str]:
    """The first text as it comes; each of the others waits for its turn, and begins a line."""
    waiting: dict[int, str] = {}
    turn, begun, ended = 0, {0}, set()
    for i, piece in pieces:
        waiting[i] = waiting.get(i, "") + (piece if i in begun else f"\n{piece}")
        begun.add(i)
        if not piece:
            ended.add(i)
        while turn in waiting:
            yield waiting.pop(turn)
            if turn in ended:
                turn += 1
