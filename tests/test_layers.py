"""Truth defended: imports point left only, a prediction loads nothing heavy, and the public API is the list that is promised."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = ("functional", "workloads", "hwmodels", "sim")

IN_SIM = (
    "intervals",
    "timeline",
    "plan",
    "mapping",
    "attention_mapping",
    "array",
    "mapper",
    "engines",
    "execute",
    "api",
    "gemm",
    "golden_step",
    "golden",
    "verification",
    "explore",
    "evidence",
    "profiling",
    "present",
    "cli",
)
"""Modules and packages of `sim`, left to right."""

HEAVY = ("torch", "pandas", "plotly", "scipy", "networkx", "transformers", "pyarrow", "dask", "safetensors")

PUBLIC = [
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

FILES = sorted(file for layer in LAYERS for file in (ROOT / layer).rglob("*.py"))


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Every import of a file, wherever it stands, with its line: `sim.engines.roofline`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import hides the layer"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_all_layers_are_there() -> None:
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(LAYERS)
    assert len(FILES) > 40


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_to_the_left_only(layer: str) -> None:
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in FILES
        if file.relative_to(ROOT).parts[0] == layer
        for line, name in imports(file)
        if name.partition(".")[0] in LAYERS and name.partition(".")[0] not in allowed
    ]
    assert wrong == []


def test_modules_of_sim_import_to_the_left_only() -> None:
    wrong = []
    for file in (ROOT / "sim").rglob("*.py"):
        place = file.relative_to(ROOT / "sim").parts[0].removesuffix(".py")
        if place == "__init__":
            continue  # the facade names what it hands out
        assert place in IN_SIM, f"{file}: give {place} its place in IN_SIM"
        for line, name in imports(file):
            head, *rest = name.split(".")
            if head == "sim" and (not rest or (rest[0] in IN_SIM and IN_SIM.index(rest[0]) > IN_SIM.index(place))):
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {name}")
    assert wrong == []


def test_an_import_to_the_right_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from sim.cli import main\n    import hwmodels.chip\n")
    assert (2, "sim.cli") in list(imports(file))
    assert (3, "hwmodels.chip") in list(imports(file))


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running some code."""
    code += "\nimport sys\nprint('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return set(result.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_predicting_on_the_command_line_loads_nothing_heavy(form: str) -> None:
    command = ["rooftile", "predict", "stories15m", "--chip", "edge-npu", "--prompt", "16", "--engine", "roofline", "--format", form]
    loaded = loaded_by(f"import sys\nsys.argv = {command}\nfrom sim.cli import main\ntry:\n    main()\nexcept SystemExit: pass")
    assert {"functional", "workloads", "hwmodels", "sim", "numpy", "typer"} <= loaded
    assert not loaded & set(HEAVY)


def test_tracing_and_the_roofline_load_nothing_heavy() -> None:
    loaded = loaded_by("from sim import *\npredict('stories15m', 'edge-npu', prompt=16, engine='roofline')")
    assert "sim" in loaded
    assert not loaded & {*HEAVY, "typer", "rich"}


def test_importing_sim_costs_nothing() -> None:
    assert not loaded_by("import sim") & {*HEAVY, "numpy", "yaml", "pydantic", "typer", "rich"}


def test_the_public_api_is_the_promised_list() -> None:
    sim = import_module("sim")
    assert sim.__all__ == PUBLIC
    assert all(getattr(sim, name) is not None for name in sim.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        sim.no_such_name  # noqa: B018
