"""How far predictions are from measured hardware: the engine as it is, boards left out of the fit, and what each physical term buys.

    python tests/bench/bench_accuracy.py [FOLDER] [--skip-fits]      # default: ../shared/measured

The first table runs the tiled engine through `rooftile validate`. The others refit the constants (`fit_gpu.py`), which takes minutes, and
use the same formulas without the engine. Errors are median / 90th percentile (signed median) in percent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hwmodels.formulas import gpu as formulas
from sim.evidence.validate import Comparison, validate
from tests.bench import fit_gpu
from tests.bench.fit_gpu import FOLDER, START, UNLIMITED_PJ, Params, Rows, errors, figures, fit, fitted_rows, read_rows

TABLES = (
    "aiconfigurator_gemm.csv",
    "vidur_mlp.csv",
    "aiconfigurator_attention.csv",
    "llmservingsim_v1_vector.csv",
    "composed_llama32_layers.csv",
    "e2e_llm.csv",
    "llmservingsim_v0.csv",
    "llmcompass.csv",
)
GEMMS = TABLES[:2]
VECTORS = {"vidur_mlp.csv": ("rmsnorm", "rope", "silu_mul"), "llmservingsim_v1_vector.csv": ("rmsnorm", "rope", "silu_mul")}
EVALUATIONS = 700


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what is compared, what must be reached, and which comparisons belong to it."""

    name: str
    goal: str
    holds: Callable[[str, Comparison], bool]


def _kernel(tables: tuple[str, ...], ops: tuple[str, ...], regime: str, library: str = "") -> Callable[[str, Comparison], bool]:
    def holds(table: str, each: Comparison) -> bool:
        named = each.case.row.text("kernel").startswith(library)
        return table in tables and each.case.op in ops and each.regime == regime and named

    return holds


def _vector(regime: str) -> Callable[[str, Comparison], bool]:
    return lambda table, each: each.case.op in VECTORS.get(table, ()) and each.regime == regime


def _composed(op: str, regime: str, model: str) -> Callable[[str, Comparison], bool]:
    def holds(table: str, each: Comparison) -> bool:
        row = each.case.row
        return table == "composed_llama32_layers.csv" and each.case.op == op and each.regime == regime and row.text("model") == model

    return holds


def _gpt_fast(table: str, each: Comparison) -> bool:
    row = each.case.row
    return row.text("framework") == "gpt-fast" and row.text("batch") == "1"


ATTENTION = ("aiconfigurator_attention.csv",)
FIGURES = (
    Figure("GEMM, large", "6.5 / 15", _kernel(GEMMS, ("gemm",), "large")),
    Figure("GEMM, small", "15", _kernel(GEMMS, ("gemm",), "small")),
    Figure("GEMM, l2", "15", _kernel(GEMMS, ("gemm",), "l2")),
    Figure("prefill attention, large, vLLM", "5 / 15", _kernel(ATTENTION, ("attn_prefill",), "large", "vllm")),
    Figure("prefill attention, large, all libraries", "", _kernel(ATTENTION, ("attn_prefill",), "large")),
    Figure("prefill attention, small, all libraries", "15", _kernel(ATTENTION, ("attn_prefill",), "small")),
    Figure("decode attention, large, vLLM", "5.5 / 13", _kernel(ATTENTION, ("attn_decode",), "large", "vllm")),
    Figure("decode attention, large, all libraries", "", _kernel(ATTENTION, ("attn_decode",), "large")),
    Figure("decode attention, l2, all libraries", "15", _kernel(ATTENTION, ("attn_decode",), "l2")),
    Figure("norm, RoPE, SiLU, large", "15 / 40", _vector("large")),
    Figure("norm, RoPE, SiLU, small", "15", _vector("small")),
    Figure("Llama 3.2 3B layers, large", "5 / 10", _composed("layer", "large", "Llama-3.2-3B")),
    Figure("Llama 3.2 3B layers, l2", "15", _composed("layer", "l2", "Llama-3.2-3B")),
    Figure("Llama 3.2 3B lm_head", "5 / 10", _composed("lm_head", "large", "Llama-3.2-3B")),
    Figure("Llama 3.2 1B layers, large", "", _composed("layer", "large", "Llama-3.2-1B")),
    Figure("gpt-fast, one GPU, batch 1", "10", _gpt_fast),
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--skip-fits", action="store_true")
    asked = parser.parse_args()
    for line in engine_table(asked.folder):
        print(line, flush=True)
    if asked.skip_fits:
        return
    rows = fitted_rows(read_rows(asked.folder))
    fitted = fit(rows, evaluations=EVALUATIONS)
    for line in (*left_out_table(rows, fitted, asked.folder), *ablation_table(rows, fitted, asked.folder)):
        print(line, flush=True)


def engine_table(folder: Path) -> Iterator[str]:
    """The tiled engine against all tables."""
    found: list[tuple[str, Comparison]] = []
    for table in TABLES:
        found += [(table, each) for each in validate([folder / table]).comparisons]
    yield "tiled engine | goal | rows | error"
    for figure in FIGURES:
        error = np.array([each.error for table, each in found if figure.holds(table, each)])
        yield f"{figure.name} | {figure.goal} | {len(error)} | {figures(error)}"
    yield "by table, hardware, op and regime | | rows | error"
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for table, each in found:
        groups.setdefault((table, each.case.row.text("hardware"), each.case.op, each.regime), []).append(each.error)
    for key, some in sorted(groups.items()):
        yield f"{', '.join(key)} | | {len(some)} | {figures(np.array(some))}"


def composed_rows(folder: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Composed layers that DRAM serves, and their kernels as rows of their own, in the same order."""
    frame = pd.read_csv(folder / "composed_llama32_layers.csv", comment="#")
    frame = frame[frame.notes.isna()].reset_index(drop=True)
    big = frame.model == "Llama-3.2-3B"
    hidden, inner, heads = np.where(big, 3072, 2048), 8192, np.where(big, 24, 32)
    head_dim = np.where(big, 128, 64)
    tokens = frame.batch * frame.q_len
    shapes = {
        "qkv": ((heads + 16) * head_dim, hidden),
        "o": (hidden, heads * head_dim),
        "gate_up": (2 * inner + 0 * hidden, hidden),
        "down": (hidden, inner + 0 * hidden),
    }
    common = {"hardware": frame.hardware, "latency_us": 1.0, "notes": "", "kernel": "vllm"}
    kernels = {name: pd.DataFrame({**common, "M": tokens, "N": n, "K": k}) for name, (n, k) in shapes.items()}
    sizes = {"batch": frame.batch, "heads": heads, "kv_heads": 8, "q_len": frame.q_len, "kv_len": frame.kv_len, "head_dim": head_dim}
    kernels["attention"] = pd.DataFrame({**common, **sizes})
    return frame, kernels


def composed_errors(folder: Path, p: Params) -> tuple[np.ndarray, np.ndarray]:
    """(hardware, relative errors) of composed layers: each kernel by the formulas."""
    frame, kernels = composed_rows(folder)
    by_name = fit_gpu.chips_by_alias()
    total = np.zeros(len(frame))
    for name, some in kernels.items():
        if name != "attention":
            total += fit_gpu.predicted_s(fit_gpu.gemm_rows(some, by_name), p)
            continue
        decode = (frame.phase == "decode").to_numpy()
        for kind, mask in (("decode", decode), ("prefill", ~decode)):
            total[mask] += fit_gpu.predicted_s(fit_gpu.attention_rows(kind, some[mask], by_name), p)
    return frame.hardware.to_numpy(), total / (frame.layer_sum_us.to_numpy() * 1e-6) - 1


def left_out_table(rows: dict[str, Rows], fitted: Params, folder: Path) -> Iterator[str]:
    """Each board predicted by constants that were fitted without it.

    What no other board can tell takes what is known of it: the energy that of its kind of technology is unknown, so that 85 % of the rate
    is sustained where TDP / peak is below 1.5 W per TFLOP/s; the DRAM's share is that of all others.
    """
    yield "left out of the fit | GEMM | prefill attention | decode attention | composed layers"
    pooled: dict[str, list[np.ndarray]] = {"gemm": [], "prefill": [], "decode": [], "composed": []}
    boards = sorted(set(rows["gemm"].frame.hardware) | set(rows["decode"].frame.hardware))
    for board in boards:
        others = {kind: each.taken((each.frame.hardware != board).to_numpy()) for kind, each in rows.items()}
        seen = {chip.technology for each in others.values() for chip in each.chips}
        memories = {chip.dram.technology for each in others.values() for chip in each.chips}
        start = dict(fitted)
        for name in list(start):
            area, _, technology = name.partition(".")
            if area == "energy" and technology not in seen:
                start[name] = _unknown_energy(rows, technology)
            if area == "dram" and technology.startswith("HBM") and technology not in memories:
                del start[name]
        held = [name for name in start if name.startswith("energy.") and name.partition(".")[2] not in seen]
        p = fit(others, start, held, EVALUATIONS)
        cells = [board]
        for kind in ("gemm", "prefill", "decode"):
            mine = (rows[kind].frame.hardware == board).to_numpy() & rows[kind].large
            error = errors(rows[kind], p)[mine]
            pooled[kind].append(error)
            cells.append(figures(error))
        hardware, error = composed_errors(folder, p)
        pooled["composed"].append(error[hardware == board])
        yield " | ".join([*cells, figures(error[hardware == board])])
    yield " | ".join(["all boards, each left out", *(figures(np.concatenate(each)) for each in pooled.values())])


def _unknown_energy(rows: dict[str, Rows], technology: str) -> float:
    """pJ per FLOP at which boards of a technology that is not fitted sustain 85 % of their rate, or all of it."""
    chip = next(chip for each in rows.values() for chip in each.chips if chip.technology == technology)
    assert chip.tdp_w is not None
    watts_per_tflops = chip.tdp_w / (2 * float(chip.peak_macs_per_s("fp16")) / 1e12)
    if watts_per_tflops >= 1.5:
        return UNLIMITED_PJ
    return watts_per_tflops / 0.85**2 / (float(chip.clock_hz) / formulas.REFERENCE_CLOCK_HZ)


FAR = 1e9
ABLATIONS: tuple[tuple[str, str, dict[str, float]], ...] = (
    ("power limit", "gemm", {name: UNLIMITED_PJ for name in START if name.startswith("energy.")}),
    ("DRAM share by technology", "gemm", {"dram.HBM2e": -1, "dram.ecc": -1}),
    ("operands through the L2", "gemm", {"gemm.l2_bytes": FAR}),
    ("prologue of a tile", "gemm", {"gemm.prologue_k": 1e-9}),
    ("launch of a GEMM", "gemm", {"gemm.launch": 1e-9}),
    ("split of k", "gemm", {"gemm.split": FAR}),
    ("soft maxima of a GEMM", "gemm", {"gemm.p": 40.0}),
    ("softmax beside the products", "prefill", {"attention.softmax_ops": 1e-9}),
    ("asynchronous overlap", "prefill", {"attention.overlap_p": 1.0}),
    ("cost per work item (prefill)", "prefill", {"attention.item": 1e-9}),
    ("writing the cache", "prefill", {"attention.copy_bytes": FAR}),
    ("spread of prefill", "prefill", {"attention.spread_p": 40.0}),
    ("cost per work item (decode)", "decode", {"attention.item": 1e-9}),
    ("adding up split keys", "decode", {"attention.split": 1e-9}),
    ("operations of a stream", "stream", {"stream.operation_clocks": 1e-9}),
    ("L2 before a stream", "stream", {"stream.l2_share": 1e-9}),
)
"""Term, kind of rows on which it shows, and the constants that take it away (-1: as all others)."""


def ablation_table(rows: dict[str, Rows], fitted: Params, folder: Path) -> Iterator[str]:
    """Each term off and everything else refitted, against all on."""
    yield "term off, the rest refitted | rows | with | without"

    def line(name: str, kind: str, p: Params, some: dict[str, Rows]) -> str:
        with_it, without = (errors(each[kind], q)[each[kind].large] for each, q in ((rows, fitted), (some, p)))
        return f"{name} | {kind} | {figures(with_it)} | {figures(without)}"

    for name, kind, off in ABLATIONS:
        start = {key: off.get(key, value) for key, value in fitted.items() if off.get(key) != -1}
        yield line(name, kind, fit({kind: rows[kind]} | _empty(rows, kind), start, list(off), EVALUATIONS), rows)
    tiles = formulas.GEMM_TILES
    try:
        formulas.GEMM_TILES = ((128, 128),)  # type: ignore[assignment]
        single = fitted_rows(read_rows(folder))
        yield line("choice of tiles", "gemm", fit({"gemm": single["gemm"]} | _empty(rows, "gemm"), fitted, (), EVALUATIONS), single)
    finally:
        formulas.GEMM_TILES = tiles


def _empty(rows: dict[str, Rows], but: str) -> dict[str, Rows]:
    return {kind: each.taken(np.zeros(len(each.chips), bool)) for kind, each in rows.items() if kind != but}


if __name__ == "__main__":
    main()
