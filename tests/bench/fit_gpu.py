"""Fits the constants of `hwmodels/library/calibration/tensor-core-gpu.yaml` to measured kernels, by the very formulas that the engines use.

    python tests/bench/fit_gpu.py [FOLDER]          # default: ../shared/measured; prints the constants and what is left

Rows: 16-bit GEMMs of aiconfigurator, vidur and llmservingsim_v0; lm_head of the composed Llama 3.2 3B, a kind of its own, as often as
that table has it; attention of aiconfigurator's vLLM rows (other libraries of the same board differ from them by 20 % either way);
element-wise and row-wise kernels of vidur and llmservingsim_v1. Loss: mean of |log error| and half its root mean square, errors beyond
50 % as 50 %, rows of at least 20 us of roofline with a larger weight; the two tables of element-wise kernels count alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from hwmodels import chip_names, load_chip
from hwmodels.chip import Chip
from hwmodels.formulas import gpu as formulas
from hwmodels.gpu import (
    Board,
    Heads,
    Product,
    ScoreBlocks,
    blocks_of,
    decode_attention_s,
    gemm_candidates_s,
    prefill_attention_s,
    score_blocks,
    stream_s,
)
from hwmodels.technology import AttentionConstants, GemmConstants, KernelConstants, StreamConstants, WarmConstants

FOLDER = Path(__file__).parents[3] / "shared" / "measured"
LARGE_S = 20e-6
US = 1e-6
Params = dict[str, float]

START: Params = {
    "energy.tensor-core-gpu-n7": 1.779,
    "energy.tensor-core-gpu-8nm": 2.861,
    "energy.tensor-core-gpu-n4": 0.786,
    "dram.HBM2e": 0.7749,
    "dram.HBM3": 0.881,
    "dram.ecc": 0.7907,
    "dram.other": 0.9231,
    "gemm.launch": 4.079,
    "gemm.l2_bytes": 39.87,
    "gemm.fill": 1.945,
    "gemm.split": 1.773,
    "gemm.p": 3.162,
    "attention.prefill_launch": 6.591,
    "attention.decode_launch": 16.17,
    "attention.split": 5.713,
    "attention.item": 3.562,
    "attention.softmax_ops": 7.713,
    "attention.overlap_p": 1.5,
    "attention.prefill_p": 1.553,
    "attention.decode_p": 2.245,
    "attention.partial_wave": 0.268,
    "stream.launch": 1.885,
    "stream.element_clocks": 0.4032,
    "stream.operation_clocks": 0.09359,
    "stream.row_clocks": 0.2443,
    "stream.l2_share": 0.2911,
    "warm.bytes": 21.85,
}
"""Times in us, energies in pJ per FLOP, bytes per clock and SM."""

LARGE_WEIGHT = {"gemm": 2.0, "prefill": 2.0, "decode": 8.0, "stream": 2.0}
"""Of rows of at least 20 us; those of decode are outnumbered by rows that find their cache in the L2, as no server does."""

STREAM_P = 4.0
UNLIMITED_PJ = 1e-9


def constants_of(p: Mapping[str, float]) -> KernelConstants:
    """The constants that a set of parameters stands for."""
    return KernelConstants(
        GemmConstants(p["gemm.launch"] * US, p["gemm.l2_bytes"], p["gemm.fill"], p["gemm.split"] * US, p["gemm.p"]),
        AttentionConstants(
            p["attention.prefill_launch"] * US,
            p["attention.decode_launch"] * US,
            p["attention.split"] * US,
            p["attention.item"] * US,
            16.0,
            p["attention.softmax_ops"],
            p["attention.overlap_p"],
            p["attention.prefill_p"],
            p["attention.decode_p"],
            p["attention.partial_wave"],
        ),
        StreamConstants(
            p["stream.launch"] * US,
            p["stream.element_clocks"],
            p["stream.operation_clocks"],
            p["stream.row_clocks"],
            p["stream.l2_share"],
            0.8,
            STREAM_P,
        ),
        WarmConstants(p["warm.bytes"], 0.5),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """Measured kernels of one kind: the chip of each, its datasheet columns, the shapes, and what was measured [s]."""

    kind: str
    frame: pd.DataFrame
    chips: list[Chip]
    board: Board
    measured_s: np.ndarray
    roofline_s: np.ndarray
    warm: np.ndarray
    shape: Any

    @property
    def large(self) -> np.ndarray:
        return (self.roofline_s >= LARGE_S) & ~self.warm

    @property
    def small(self) -> np.ndarray:
        return (self.roofline_s < LARGE_S) & ~self.warm

    def taken(self, mask: np.ndarray) -> Rows:
        """Those rows of a mask."""
        chips = [chip for chip, wanted in zip(self.chips, mask, strict=True) if wanted]
        board = Board(*(getattr(self.board, each.name)[mask] for each in fields(Board)))
        columns = self.measured_s[mask], self.roofline_s[mask], self.warm[mask]
        return Rows(self.kind, self.frame[mask], chips, board, *columns, _taken(self.shape, mask))


def _taken(shape: Any, mask: np.ndarray) -> Any:
    if isinstance(shape, np.ndarray):
        return shape[mask]
    if isinstance(shape, tuple):
        parts = [_taken(part, mask) for part in shape]
        return type(shape)(*parts) if hasattr(shape, "_fields") else tuple(parts)
    return shape


def chips_by_alias() -> dict[str, Chip]:
    """The library under the names of the tables."""
    return {alias: load_chip(name) for name in chip_names() for alias in load_chip(name).aliases}


def read_rows(folder: Path) -> dict[str, Rows]:
    """All rows that are fitted, by kind."""
    by_name = chips_by_alias()

    def table(name: str, keep: Callable[[pd.DataFrame], Any]) -> pd.DataFrame:
        frame = pd.read_csv(folder / name, comment="#")
        return frame[keep(frame) & frame.hardware.isin(list(by_name))].assign(table=name)

    def joined(*frames: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([frame.dropna(axis=1, how="all") for frame in frames], ignore_index=True)

    gemms = joined(
        table("aiconfigurator_gemm.csv", lambda f: f.op == "gemm"),
        table("vidur_mlp.csv", lambda f: f.op == "gemm"),
        table("llmservingsim_v0.csv", lambda f: f.op.isin(["gemm", "lm_head"])),
    )
    attention = "aiconfigurator_attention.csv"
    vectors = ["rmsnorm", "rope", "silu_mul", "add"]
    streams = joined(*(table(n, lambda f: f.op.isin(vectors)) for n in ("vidur_mlp.csv", "llmservingsim_v1_vector.csv")))
    heads = table("composed_llama32_layers.csv", lambda f: f.lm_head_est_us.notna() & (f.model == "Llama-3.2-3B"))
    heads = heads.assign(M=heads.batch, N=128256, K=3072, latency_us=heads.lm_head_est_us, notes="")
    return {
        "gemm": gemm_rows(gemms, by_name),
        "head": gemm_rows(heads, by_name),
        "prefill": attention_rows("prefill", table(attention, lambda f: f.op == "attn_prefill"), by_name),
        "decode": attention_rows("decode", table(attention, lambda f: f.op == "attn_decode"), by_name),
        "stream": _stream_rows(streams, by_name),
    }


def fitted_rows(rows: Mapping[str, Rows]) -> dict[str, Rows]:
    """Without attention of libraries other than vLLM's."""
    return {
        kind: each.taken(each.frame.kernel.str.startswith("vllm").to_numpy()) if kind in ("prefill", "decode") else each
        for kind, each in rows.items()
    }


def thinned(rows: Mapping[str, Rows]) -> dict[str, Rows]:
    """For refits: of the many GEMMs two rows of five, all others whole."""
    return {kind: each.taken(np.arange(len(each.chips)) % 5 < 2) if kind == "gemm" else each for kind, each in rows.items()}


def _board(chips: Sequence[Chip]) -> Board:
    """Datasheet columns; what technologies add is filled in by `with_technology`."""
    return Board(
        sms=np.array([float(chip.cores) for chip in chips]),
        clock_hz=np.array([float(chip.clock_hz) for chip in chips]),
        headroom=np.full(len(chips), np.inf),
        flops_per_s=np.array([2 * float(chip.peak_macs_per_s("fp16")) for chip in chips]),
        lanes=np.array([float(chip.vector.lanes) for chip in chips]),
        l2_bytes=np.array([float(chip.memory[1].capacity_bytes) for chip in chips]),
        tile_l2_bytes=np.array([float(chip.memory[1].capacity_bytes) * (1 - float(chip.resident_share)) / 2 for chip in chips]),
        dram_bytes_per_s=np.array([float(chip.read_bytes_per_s(chip.dram)) for chip in chips]),
        asynchronous=np.array([chip.technology == "tensor-core-gpu-n4" for chip in chips]),
    )


def with_technology(rows: Rows, p: Mapping[str, float]) -> Board:
    """The boards of rows at the power and bandwidth that parameters let them have; an energy that is missing limits nothing."""
    energies = np.array([p.get(f"energy.{chip.technology}", UNLIMITED_PJ) for chip in rows.chips]) * 1e-12
    tdp_w = np.array([chip.tdp_w or np.inf for chip in rows.chips])
    names = ["dram.ecc" if chip.dram.ecc == "inline" else f"dram.{chip.dram.technology}" for chip in rows.chips]
    shares = np.array([p.get(name, p["dram.other"]) for name in names])
    board = rows.board
    headroom = formulas.power_headroom(board.clock_hz, board.flops_per_s, tdp_w, energies)
    return replace(board, headroom=headroom, dram_bytes_per_s=board.dram_bytes_per_s * shares)


def _rows(kind: str, frame: pd.DataFrame, by_name: Mapping[str, Chip], shape: Callable[[Board], Any], work: Any, moved: Any) -> Rows:
    chips = [by_name[name] for name in frame.hardware]
    board = _board(chips)
    roofline_s = np.maximum(work / board.flops_per_s, moved / board.dram_bytes_per_s)
    warm = frame.notes.fillna("").str.contains("fits?_L2").to_numpy()
    return Rows(kind, frame, chips, board, frame.latency_us.to_numpy() * US, roofline_s, warm, shape(board))


def gemm_rows(frame: pd.DataFrame, by_name: Mapping[str, Chip]) -> Rows:
    m, n, k = (frame[name].to_numpy(float) for name in "MNK")
    product = Product(m, n, k)

    def shape(board: Board) -> tuple[Product, np.ndarray]:
        return product, blocks_of(product, board).dram_bytes

    return _rows("gemm", frame, by_name, shape, 2 * m * n * k, 2 * (m * n + m * k + n * k))


def attention_rows(kind: str, frame: pd.DataFrame, by_name: Mapping[str, Chip]) -> Rows:
    heads = Heads(*(frame[name].to_numpy(float) for name in ("batch", "heads", "kv_heads", "q_len", "kv_len", "head_dim")))
    known: dict[Any, ScoreBlocks] = {}

    def shape(board: Board) -> tuple[Heads, ScoreBlocks]:
        cuts = []
        columns = heads.heads, heads.kv_heads, heads.queries, heads.keys, heads.head_dim, board.asynchronous
        for h, g, q, s, d, wide in zip(*columns, strict=True):
            key = int(h), int(g), int(q), int(s), int(s - q), None, int(d), bool(wide)
            if key not in known:
                known[key] = score_blocks(*key)
            cuts.append(known[key])
        return heads, ScoreBlocks(*(np.array(column, float) for column in zip(*cuts, strict=True)))

    pairs = heads.queries * (heads.keys - heads.queries) + heads.queries * (heads.queries + 1) / 2
    work = 4 * heads.batch * heads.heads * heads.head_dim * pairs
    return _rows(kind, frame, by_name, shape, work, attention_bytes(heads))


def attention_bytes(heads: Heads) -> Any:
    """Keys and values, queries and outputs."""
    return heads.cache_bytes + 2 * heads.batch * heads.heads * heads.queries * heads.head_dim * heads.act_bytes


STREAMS = {"rmsnorm": (1, 4, 4), "rope": (1, 3, 4), "silu_mul": (1, 6, 6), "add": (1, 1, 6)}
"""Elements, operations and bytes per element of the output, as the op table counts them."""


def element_rows(frame: pd.DataFrame, by_name: Mapping[str, Chip]) -> Rows:
    """Element-wise and row-wise modules of any number of kernels: `shape` is their elements, which are read and written once at least."""
    elements = _elements(frame)
    return _rows("elements", frame, by_name, lambda _: elements, 0.0, 4 * elements)


def _elements(frame: pd.DataFrame) -> np.ndarray:
    """Of the output: of a rotation, queries and keys."""
    rope = (frame.op == "rope").to_numpy()
    heads = (frame.heads + frame.kv_heads).fillna(0).to_numpy()
    return np.asarray(frame.M.to_numpy(float) * np.where(rope, heads * frame.head_dim.fillna(0).to_numpy(), frame.N.to_numpy(float)))


def _stream_rows(frame: pd.DataFrame, by_name: Mapping[str, Chip]) -> Rows:
    elements = _elements(frame)
    per_element = np.array([STREAMS[op] for op in frame.op], float).T
    columns = (*(elements * each for each in per_element), elements / frame.M.to_numpy(float))
    return _rows("stream", frame, by_name, lambda _: columns, 0.0, columns[2])


def predicted_s(rows: Rows, p: Mapping[str, float]) -> np.ndarray:
    """What the formulas say of rows."""
    board, kernels = with_technology(rows, p), constants_of(p)
    if rows.kind == "gemm":
        product, moved = rows.shape
        everything = moved.min(-1)
        cold, hot = np.where(rows.warm[:, None], 0.0, moved), np.where(rows.warm, everything, 0.0)
        times = gemm_candidates_s(product, board, kernels, cold, hot)
        return np.asarray(times.reshape(len(times), -1).min(-1) + kernels.gemm.launch_s)
    if rows.kind == "stream":
        elements, operations, moved, row = rows.shape
        floor_s = formulas.missed_bytes(moved, rows.board.l2_bytes) / rows.board.dram_bytes_per_s
        work_s = stream_s(elements, operations, board, kernels, moved, row_elements=row)
        return np.asarray(np.maximum(work_s + kernels.stream.launch_s, floor_s))
    heads, cut = rows.shape
    if rows.kind == "prefill":
        return np.asarray(prefill_attention_s(heads, cut, board, kernels, attention_bytes(heads)) + kernels.attention.prefill_launch_s)
    moved = attention_bytes(heads)
    kept = np.where(rows.warm, np.minimum(1, kernels.warm.l2_share * board.l2_bytes / moved), 0.0)
    launch_s = formulas.latency_s(kernels.attention.decode_launch_s, board.clock_hz)
    return np.asarray(decode_attention_s(heads, board, kernels, moved * (1 - kept), moved * kept) + launch_s)


def errors(rows: Rows, p: Mapping[str, float]) -> np.ndarray:
    """Signed relative errors."""
    return predicted_s(rows, p) / rows.measured_s - 1


def loss(rows: Rows, p: Mapping[str, float]) -> float:
    """Mean of |log error|, large rows weighted, and half the root of its mean square; tables of element-wise kernels, of libraries of
    different age, count alike."""
    error = np.minimum(np.abs(np.log(predicted_s(rows, p) / rows.measured_s)), 0.5)
    weight = np.where(rows.large, LARGE_WEIGHT[rows.kind], 1.0)
    if rows.kind == "stream":
        weight = weight / rows.frame.groupby("table").table.transform("size").to_numpy()
    return float(np.average(error, weights=weight) + 0.5 * np.sqrt(np.average(error**2, weights=weight)))


STAGES = (
    (("gemm", "head", "decode"), ("energy.", "dram.", "gemm.", "warm.")),
    (("prefill", "decode"), ("attention.",)),
    (("stream",), ("stream.",)),
)
"""Kinds of rows, and the parameters that are fitted to them, in turn."""


def fit(
    rows: Mapping[str, Rows], start: Mapping[str, float] = START, held: Sequence[str] = (), evaluations: int = 1200, rounds: int = 1
) -> Params:
    """All parameters but those `held`, stage by stage, and that some `rounds` over; each stage by Nelder and Mead's simplex over
    logarithms."""
    p = dict(start)
    for kinds, prefixes in STAGES * rounds:
        names = [name for name in p if name.startswith(prefixes) and name not in held]
        some = [rows[kind] for kind in kinds if len(rows[kind].chips)]
        if not some or not names:
            continue

        def at(x: np.ndarray, names: Sequence[str] = names) -> Params:
            return p | dict(zip(names, np.exp(x).tolist(), strict=True))  # noqa: B023

        def value(x: np.ndarray, some: Sequence[Rows] = some, at: Callable[[np.ndarray], Params] = at) -> float:
            trial = at(x)
            shares, exponents = (n for n in trial if n.startswith("dram.")), (n for n in trial if n.endswith("p"))
            impossible = any(trial[n] > 1 for n in shares) or any(trial[n] < 1 for n in exponents)
            return 10.0 if impossible else sum(loss(each, trial) for each in some)

        first = np.log([p[name] for name in names])
        options = {"maxfev": evaluations, "xatol": 1e-3, "fatol": 1e-5, "adaptive": True}
        p = at(minimize(value, first, method="Nelder-Mead", options=options).x)
    return p


def figures(error: np.ndarray) -> str:
    """Median and 90th percentile of |error|, signed median, in percent."""
    if not len(error):
        return "-"
    middle, tail = np.percentile(np.abs(error), (50, 90)) * 100
    return f"{middle:.1f} / {tail:.1f} ({np.median(error) * 100:+.1f})"


def main() -> None:
    """Fit, print the parameters and the errors."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    everything = read_rows(folder)
    rows = fitted_rows(everything)
    p = fit(rows, rounds=2)
    for name, number in p.items():
        print(f"{name:32} {number:.4g}")
    for kind, each in rows.items():
        error = errors(each, p)
        regimes = (("large", each.large), ("small", each.small), ("l2", each.warm))
        print(kind, *(f"{regime} {figures(error[mask])}" for regime, mask in regimes))
        for board in sorted(set(each.frame.hardware)):
            mine = (each.frame.hardware == board).to_numpy()
            print("   ", board, figures(error[mine & each.large]))
    for kind in ("prefill", "decode"):
        error = errors(everything[kind], p)
        print(kind, "all libraries", figures(error[everything[kind].large]), "l2", figures(error[everything[kind].warm]))


if __name__ == "__main__":
    main()
