"""Predict how fast a language model runs on a chip, and what holds it back.

    from sim import predict
    timeline = predict("llama-3.2-1b", "edge-npu", phase="decode", context=1024)
    print(timeline.total_s, timeline.bound_shares)

Names are imported when they are first used, so that `import sim` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from functional.errors import BadInput, RooftileError
    from functional.sampling import Sampling
    from hwmodels import chip_names, load_chip, with_values
    from sim.api import predict, predict_graph, roofline_grid, trace_model
    from sim.evidence.calibrate import calibrate
    from sim.evidence.validate import validate
    from sim.explore.compare import compare
    from sim.explore.generation import Speculation, predict_generation
    from sim.explore.limits import limits
    from sim.explore.sensitivity import sensitivity
    from sim.explore.solve import solve
    from sim.explore.sweep import sweep, sweep_table
    from sim.present.dashboard import dashboard
    from sim.present.figures import breakdown_figure, roofline_figure, timeline_figure
    from sim.timeline import Timeline
    from sim.verification import verify
    from workloads.library import load_model, model_names

__all__ = [
    "BadInput",
    "RooftileError",
    "Sampling",
    "Speculation",
    "Timeline",
    "breakdown_figure",
    "calibrate",
    "chip_names",
    "compare",
    "dashboard",
    "limits",
    "load_chip",
    "load_model",
    "model_names",
    "predict",
    "predict_generation",
    "predict_graph",
    "roofline_figure",
    "roofline_grid",
    "sensitivity",
    "solve",
    "sweep",
    "sweep_table",
    "timeline_figure",
    "trace_model",
    "validate",
    "verify",
    "with_values",
]

_HOME = {
    "BadInput": "functional.errors",
    "RooftileError": "functional.errors",
    "Sampling": "functional.sampling",
    "Speculation": "sim.explore.generation",
    "Timeline": "sim.timeline",
    "breakdown_figure": "sim.present.figures",
    "calibrate": "sim.evidence.calibrate",
    "chip_names": "hwmodels",
    "compare": "sim.explore.compare",
    "dashboard": "sim.present.dashboard",
    "limits": "sim.explore.limits",
    "load_chip": "hwmodels",
    "load_model": "workloads.library",
    "model_names": "workloads.library",
    "predict": "sim.api",
    "predict_generation": "sim.explore.generation",
    "predict_graph": "sim.api",
    "roofline_figure": "sim.present.figures",
    "roofline_grid": "sim.api",
    "sensitivity": "sim.explore.sensitivity",
    "solve": "sim.explore.solve",
    "sweep": "sim.explore.sweep",
    "sweep_table": "sim.explore.sweep",
    "timeline_figure": "sim.present.figures",
    "trace_model": "sim.api",
    "validate": "sim.evidence.validate",
    "verify": "sim.verification",
    "with_values": "hwmodels",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sim' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
