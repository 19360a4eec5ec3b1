"""The dashboard: one HTML file that holds predictions, the browser's own roofline, and every view of them; it works offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from functional.errors import BadInput, Problem
from functional.llama import Logits
from sim.engines import DEFAULT_ENGINE
from workloads.scenario import PHASES, Phase

if TYPE_CHECKING:
    from hwmodels.chip import Chip


def dashboard(
    models: str | Sequence[str],
    chips: str | Path | Chip | Sequence[str | Path | Chip],
    *,
    phase: Phase | None = None,
    batch: int = 1,
    prompt: int | None = None,
    context: int | None = None,
    engine: str = DEFAULT_ENGINE,
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    logits: Logits = "last",
    split: int = 1,
    fused: bool = True,
    prefetch: bool = True,
    sweep: str | Path | None = None,
) -> str:
    """A page of every model on every chip, of prefill and decode or one `phase`; `sweep` is a Parquet file that `rooftile sweep` wrote.

    Raises `BadInput` for all that `predict` refuses, for a model or a chip given twice, for a file that is no sweep, and where plotly is
    missing.
    """
    from hwmodels import Chip, load_chip
    from sim.explore.step import Step
    from sim.present.dashboard.data import page_data
    from sim.present.dashboard.page import page
    from sim.present.dashboard.plotly import plotly_js

    plotly = plotly_js(("bar", "icicle") if sweep is None else ("bar", "icicle", "scattergl"))
    named = [models] if isinstance(models, str) else list(models)
    given = [chips] if isinstance(chips, str | Path | Chip) else list(chips)
    built = [chip if isinstance(chip, Chip) else load_chip(chip) for chip in given]
    _given_once(named, "MODEL")
    _given_once([chip.name for chip in built], "--chip")
    rest = (weights, activations, kv, logits, fused, engine)
    phases = PHASES if phase is None else (phase,)
    asked = Step(named[0], phases[0], batch, prompt, context, *rest, prefetch=prefetch, split=split)
    data = page_data(named, built, asked, phases)
    if sweep is not None:
        from sim.present.dashboard.sweep import sweep_data

        data["sweep"] = sweep_data(Path(sweep))
    return page(data, plotly)


def _given_once(names: Sequence[str], path: str) -> None:
    """Raise `BadInput` for a name that stands for two things in the page."""
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise BadInput(Problem(f"'{twice}' is given twice", "give each once, and chips that differ different names", path=path))
