"""How far predictions are from measured hardware: the engine as it is, boards and generations left out of the fit, and what each physical
term buys.

    python -m tests.bench.bench_accuracy [FOLDER] [--skip-fits] [--readme README.md]      # default: ../shared/measured; some minutes

The first tables run the tiled engine through `rooftile validate`; the others refit the constants (`fit_gpu.py`) and use the same formulas
without the engine. Errors are median / 90th percentile of |error| (signed median) in percent. `--readme` puts the tables where they belong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwmodels.chip import Chip
from hwmodels.formulas import gpu as formulas
from hwmodels.gpu import stream_s
from sim.evidence.validate import Comparison, validate
from tests.bench import fit_gpu
from tests.bench.fit_gpu import FOLDER, START, UNLIMITED_PJ, Params, Rows, errors, figures, fit, fitted_rows, read_rows, thinned

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
EVALUATIONS = 300
"""Of a stage of a refit: it starts where all terms, on all boards, ended."""


FloatArray: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what is compared, what must be reached, which comparisons belong to it, and the kind of its rows in a fit
    without their board."""

    name: str
    goal: str
    holds: Callable[[str, Comparison], bool]
    kind: str = ""


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


def _random_head(table: str, each: Comparison) -> bool:
    """The products that lm_head of Llama 3.2 3B is estimated from, of the libraries that were measured on random weights (TensorRT-LLM,
    SGLang); vLLM's weights were left as memory had them (the collectors of github ai-dynamo/aiconfigurator)."""
    row, tokens = each.case.row, int(each.case.row.text("M") or 0)
    shaped = table == "aiconfigurator_gemm.csv" and (row.text("N"), row.text("K")) == ("65536", "3072") and tokens <= 2048
    return shaped and each.regime == "large" and not row.text("kernel").startswith("vllm")


def _gpt_fast(table: str, each: Comparison) -> bool:
    row = each.case.row
    return row.text("framework") == "gpt-fast" and row.text("batch") == "1"


ATTENTION = ("aiconfigurator_attention.csv",)
BIG = "Llama-3.2-3B"
FIGURES = (
    Figure("GEMM, from 20 us of roofline on", "6.5 / 15", _kernel(GEMMS, ("gemm",), "large"), "gemm"),
    Figure("GEMM, smaller", "15", _kernel(GEMMS, ("gemm",), "small")),
    Figure("GEMM, served from L2", "15", _kernel(GEMMS, ("gemm",), "l2")),
    Figure("prefill attention of vLLM", "5 / 15", _kernel(ATTENTION, ("attn_prefill",), "large", "vllm"), "prefill"),
    Figure("prefill attention of vLLM, smaller", "15", _kernel(ATTENTION, ("attn_prefill",), "small", "vllm")),
    Figure("prefill attention of three libraries", "", _kernel(ATTENTION, ("attn_prefill",), "large")),
    Figure("decode attention of vLLM", "5.5 / 13", _kernel(ATTENTION, ("attn_decode",), "large", "vllm"), "decode"),
    Figure("decode attention of vLLM, served from L2", "15", _kernel(ATTENTION, ("attn_decode",), "l2", "vllm")),
    Figure("decode attention of three libraries", "", _kernel(ATTENTION, ("attn_decode",), "large")),
    Figure("decode attention of three libraries, served from L2", "15", _kernel(ATTENTION, ("attn_decode",), "l2")),
    Figure("RMSNorm, RoPE, SiLU x Mul", "15 / 40", _vector("large")),
    Figure("RMSNorm, RoPE, SiLU x Mul, smaller", "15", _vector("small")),
    Figure("layers of Llama 3.2 3B, A100 and H100", "5 / 10", _composed("layer", "large", BIG), "composed"),
    Figure("layers of Llama 3.2 3B, cache in L2", "15", _composed("layer", "l2", BIG)),
    Figure("lm_head of Llama 3.2 3B", "5 / 10", _composed("lm_head", "large", BIG), "head"),
    Figure("its products, by libraries that were given random weights", "", _random_head),
    Figure("gpt-fast, one A100, batch 1: bf16, int8, int4:g32", "10", _gpt_fast),
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--skip-fits", action="store_true", help="the engine's tables alone")
    parser.add_argument("--readme", type=Path, help="put the tables between the marks of this file, too")
    asked = parser.parse_args()
    if asked.skip_fits and asked.readme:
        parser.error("--readme needs the fits")
    found = compared(asked.folder)
    left_out: LeftOut = {}
    tables: dict[str, list[str]] = {}
    if not asked.skip_fits:
        rows = fitted_rows(read_rows(asked.folder))
        fitted = fit(thinned(rows), evaluations=EVALUATIONS)
        left_out = without_each(rows, fitted, asked.folder)
        tables["ablation"] = list(ablation_table(rows, fitted, asked.folder))
        tables["boards"] = list(left_out_table(left_out))
    tables = {"accuracy": list(engine_table(found, left_out)), **tables}
    tables |= {"libraries": list(library_table(asked.folder)), "rows": list(detailed_table(found))}
    tables["lm_head"] = list(head_table(asked.folder, found))
    tables["eager"] = list(eager_table(asked.folder, found))
    for lines in tables.values():
        print("\n".join(lines), end="\n\n", flush=True)
    if asked.readme:
        text = asked.readme.read_text(encoding="utf-8")
        asked.readme.write_text(with_tables(text, {name: tables[name] for name in ("accuracy", "ablation")}), encoding="utf-8")


def with_tables(text: str, tables: Mapping[str, Sequence[str]]) -> str:
    """A text with each table between `<!-- NAME -->` and `<!-- end of NAME -->`; raises `ValueError` where the marks are not there."""
    for name, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        if not begin or not end:
            raise ValueError(f"no marks for the table '{name}'")
        text = before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after
    return text


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table."""
    for cells in (head, ["---"] * len(head), *lines):
        yield f"| {' | '.join(cells)} |"


def compared(folder: Path) -> list[tuple[str, Comparison]]:
    """All rows of all tables, predicted by the tiled engine."""
    return [(table, each) for table in TABLES for each in validate([folder / table]).comparisons]


def engine_table(found: Sequence[tuple[str, Comparison]], left_out: LeftOut) -> Iterator[str]:
    """The tiled engine against what must be reached, and the formulas fitted without the board that they predict."""

    def cells(figure: Figure) -> Iterator[str]:
        error = np.array([each.error for table, each in found if figure.holds(table, each)])
        yield from (figure.name, figure.goal, str(len(error)), figures(error))
        yield figures(pooled(left_out, figure.kind, BOARD)) if figure.kind and left_out else ""

    return markdown(("kernels, 16 bit", "goal", "rows", "error", "board left out of the fit"), (list(cells(each)) for each in FIGURES))


def detailed_table(found: Sequence[tuple[str, Comparison]]) -> Iterator[str]:
    """By table, hardware, op and regime."""
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for table, each in found:
        groups.setdefault((table, each.case.row.text("hardware"), each.case.op, each.regime), []).append(each.error)
    lines = ((*key, str(len(some)), figures(np.array(some))) for key, some in sorted(groups.items()))
    return markdown(("table", "hardware", "op", "regime", "rows", "error"), lines)


SHAPE = ["hardware", "batch", "heads", "kv_heads", "q_len", "kv_len", "head_dim"]


def library_table(folder: Path) -> Iterator[str]:
    """How far libraries are from each other: what a prediction that is right for one of them, or in the middle of all, misses of the
    others on the same board and shape. No model that is not told the library does better."""
    frame = pd.read_csv(folder / ATTENTION[0], comment="#")
    frame = frame.assign(library=frame.kernel.str.partition("-")[0])

    def lines() -> Iterator[list[str]]:
        for op, rows in frame[frame.notes.isna()].groupby("op"):
            times = rows.pivot_table(index=SHAPE, columns="library", values="latency_us", aggfunc="median")
            times = times[times.count(axis=1) > 1]
            for name, known in (("vLLM's time", times["vllm"]), ("the median of the libraries", times.median(axis=1))):
                error = (known.to_numpy()[:, None] / times.to_numpy() - 1).ravel()
                error = error[~np.isnan(error)]
                yield [str(op), name, str(len(error)), figures(error)]

    return markdown(("libraries on the same board and shape", "if predicted were", "rows", "error"), lines())


def head_table(folder: Path, found: Sequence[tuple[str, Comparison]]) -> Iterator[str]:
    """Every shape of lm_head of Llama 3.2 3B: its time, which the table estimates as 128256 / 65536 of that of 65,536 columns by vLLM, the
    error, how often the table repeats it, and the rates [TFLOP/s] of the product it is estimated from, by library."""
    frame = pd.read_csv(folder / "aiconfigurator_gemm.csv", comment="#")
    frame = frame[(frame.N == 65536) & (frame.K == 3072)]
    frame = frame.assign(library=frame.kernel.str.partition("-")[0], rate=2e-6 * frame.M * frame.N * frame.K / frame.latency_us)
    rates = frame.pivot_table(index=["hardware", "M"], columns="library", values="rate")
    shapes: dict[tuple[str, int], list[Comparison]] = {}
    for table, each in found:
        if _composed("lm_head", "large", BIG)(table, each):
            shapes.setdefault((each.case.row.text("hardware"), int(each.case.row.text("batch"))), []).append(each)
    lines = []
    for (board, tokens), same in sorted(shapes.items()):
        measured_s, predicted_s = same[0].case.measured_s, same[0].predicted_s
        times = f"{1e6 * measured_s:.1f}", f"{1e6 * predicted_s:.1f}", f"{100 * same[0].error:+.1f}"
        lines.append([board, str(tokens), *times, str(len(same)), *(f"{rate:.0f}" for rate in rates.loc[(board, tokens)])])
    yield from markdown(("hardware", "tokens", "lm_head [us]", "predicted", "error %", "rows", *rates.columns), lines)


EAGER: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "rmsnorm": ((1, 6, 0), (1, 8, 1), (1, 4, 1), (0, 0, 0), (0, 0, 0), (1, 8, 1), (1, 6, 0), (1, 4, 1)),
    "rope": tuple((share, *kernel) for share in (0.8, 0.2) for kernel in ((4, 1), (2, 0.5), (4, 0), (4, 1), (6, 1))),
    "silu": ((1, 4, 4), (1, 6, 1)),
}
"""Modules of transformers as PyTorch runs them, kernel by kernel: the share of the elements, and per element bytes moved and operations.
RMSNorm: to fp32, square, mean, + epsilon, root, times, to 16 bit, times weights. RoPE of queries, and of keys, a quarter as many: times
cosine, minus a half, both halves joined, times sine, added. SiLU, and the product that its rows must hold too, for they take the
time of both."""


def eager_table(folder: Path, found: Sequence[tuple[str, Comparison]]) -> Iterator[str]:
    """Unfused modules: as the one kernel that the engine predicts, and as the kernels that PyTorch launches for them, by the constants of
    the library. The rest of what is far off in the tables of rows is told below."""
    name = "llmservingsim_v0.csv"
    frame = pd.read_csv(folder / name, comment="#")
    boards = fit_gpu.chips_by_alias()
    frame = frame[frame.hardware.isin(list(boards))]

    def lines() -> Iterator[list[str]]:
        for op, kernels in EAGER.items():
            mine = [each for table, each in found if table == name and each.case.op == op]
            error = eager_errors(frame[frame.op == op], kernels, boards)
            for regime in ("large", "small"):
                fused = np.array([each.error for each in mine if each.regime == regime])
                yield [op, regime, str(len(fused)), figures(fused), str(len(kernels)), figures(error[regime])]

    yield from markdown(("module", "regime", "rows", "as one kernel", "kernels", "as these"), lines())
    yield from ("", *SPECIAL)


SPECIAL = (
    "embedding: PyTorch's index_select before its vectorised gather (github pytorch/pytorch#151612: 3.7 times a gather's time) moves",
    "an element per thread, at a fifth to three fifths of DRAM's rate, and up to 16 rows one after the other, 0.2 to 0.8 us each. The",
    "RTX 4090's rows come faster than DRAM could: from the L2, as where dummy tokens are alike. Below 1 % of a step: not modelled.",
    "llmservingsim_v0: a token's attention takes 48 us per 1,024 keys, as where one block of threads per head visits all of them,",
    "which FlashAttention splits. llmcompass: times of the host, 20 to 45 us of launch and synchronisation included; softmax is not",
    "fitted at all.",
)
"""Why rows of the tables above are far off."""


def eager_errors(
    frame: pd.DataFrame, kernels: Sequence[tuple[float, float, float]], boards: Mapping[str, Chip]
) -> dict[str, FloatArray]:
    """Relative errors, by regime, of modules as kernels one after the other, each (share of the elements, bytes, operations)."""
    rows = fit_gpu.element_rows(frame, boards)
    elements, constants = rows.shape, fit_gpu.constants_of(START)
    board = fit_gpu.with_technology(rows, START)
    seconds = sum(
        stream_s(share * elements, share * operations * elements, board, constants, share * moved_bytes * elements)
        + constants.stream.launch_s
        for share, moved_bytes, operations in kernels
    )
    error = np.asarray(seconds / rows.measured_s - 1)
    return {"large": error[rows.large], "small": error[rows.small]}


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


BOARD, GENERATION = "board", "generation"
KINDS = ("gemm", "head", "prefill", "decode", "composed")
LeftOut: TypeAlias = dict[tuple[str, str], dict[str, FloatArray]]
"""By (board or generation, its name) the errors of its large rows, by kind, of constants that were fitted without it."""


def without_each(rows: dict[str, Rows], fitted: Params, folder: Path) -> LeftOut:
    """Each board, and all boards of each generation, predicted by constants that were fitted without them.

    What no other board can tell takes what is known of it: the energy that of its kind of technology is unknown, so that 85 % of the rate
    is sustained where TDP / peak is below 1.5 W per TFLOP/s; the DRAM's share is that of all others.
    """
    found: LeftOut = {}
    for by in (BOARD, GENERATION):
        names = {_name_of(each, by) for kind in ("gemm", "decode") for each in _rows_of(rows[kind])}
        for name in sorted(names):
            found[by, name] = _without(rows, fitted, folder, lambda each, by=by, name=name: _name_of(each, by) == name)
    return found


def _rows_of(rows: Rows) -> Iterator[tuple[str, Chip]]:
    return zip(rows.frame.hardware, rows.chips, strict=True)


def _name_of(row: tuple[str, Chip], by: str) -> str:
    return row[0] if by == BOARD else row[1].technology


def _without(
    rows: dict[str, Rows], fitted: Params, folder: Path, is_out: Callable[[tuple[str, Chip]], bool]
) -> dict[str, FloatArray]:
    outside = {kind: np.array([is_out(each) for each in _rows_of(some)], bool) for kind, some in rows.items()}
    others = {kind: each.taken(~outside[kind]) for kind, each in rows.items()}
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
    p = fit(thinned(others), start, held, EVALUATIONS)
    found = {kind: errors(rows[kind], p)[outside[kind] & rows[kind].large] for kind in ("gemm", "head", "prefill", "decode")}
    by_alias = fit_gpu.chips_by_alias()
    hardware, error = composed_errors(folder, p)
    return found | {"composed": error[np.array([is_out((name, by_alias[name])) for name in hardware])]}


def pooled(left_out: LeftOut, kind: str, by: str) -> FloatArray:
    """Errors of one kind of all boards, or generations, each left out."""
    return np.concatenate([each[kind] for (what, _), each in left_out.items() if what == by])


def left_out_table(left_out: LeftOut) -> Iterator[str]:
    """Each board, each generation, and all of them."""
    lines = [[f"{by} {name}", *(figures(each[kind]) for kind in KINDS)] for (by, name), each in left_out.items()]
    lines += [[f"all, each {by} left out", *(figures(pooled(left_out, kind, by)) for kind in KINDS)] for by in (BOARD, GENERATION)]
    return markdown(("left out of the fit", *KINDS), lines)


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
    ("DRAM share by technology", "gemm", {"dram.HBM2e": -1, "dram.HBM3": -1, "dram.ecc": -1}),
    ("operands through the L2", "gemm", {"gemm.l2_bytes": FAR}),
    ("filling and emptying of a tile", "gemm", {"gemm.fill": 1e-9}),
    ("launch", "gemm", {"gemm.launch": 1e-9}),
    ("split of k", "gemm", {"gemm.split": FAR}),
    ("soft maximum", "gemm", {"gemm.p": 20.0}),
    ("softmax beside the products", "prefill", {"attention.softmax_ops": 1e-9}),
    ("asynchronous overlap", "prefill", {"attention.overlap_p": 1.0}),
    ("cost per work item", "prefill", {"attention.item": 1e-9}),
    ("soft maximum", "prefill", {"attention.prefill_p": 20.0}),
    ("cost per work item", "decode", {"attention.item": 1e-9}),
    ("adding up split keys", "decode", {"attention.split": 1e-9}),
    ("last wave", "decode", {"attention.partial_wave": 1e-9}),
    ("soft maximum", "decode", {"attention.decode_p": 20.0}),
    ("operations", "stream", {"stream.operation_clocks": 1e-9}),
    ("row by one block of threads", "stream", {"stream.row_clocks": 1e-9}),
    ("what the L2 keeps", "stream", {"stream.l2_share": 1e-9}),
)
"""Term, kind of rows on which it shows, and the constants that take it away (-1: as all others)."""

NAMES = {"gemm": "GEMM", "prefill": "prefill attention", "decode": "decode attention", "stream": "vector"}


def ablation_table(rows: dict[str, Rows], fitted: Params, folder: Path) -> Iterator[str]:
    """Each term off and everything else refitted, against all on; small rows of decode are those that L2 serves."""
    all_on = {kind: errors(each, fitted) for kind, each in rows.items()}

    def cells(name: str, kind: str, p: Params, some: dict[str, Rows]) -> list[str]:
        error = all_on[kind] if p is fitted else errors(some[kind], p)
        each = rows[kind]
        return [name, figures(error[each.large]), figures(error[each.warm if kind == "decode" else each.small])]

    def lines() -> Iterator[list[str]]:
        for kind in NAMES:
            yield cells(f"**{NAMES[kind]}**", kind, fitted, rows)
            for name, of, off in ABLATIONS:
                if of == kind:
                    start = {key: off.get(key, value) for key, value in fitted.items() if off.get(key) != -1}
                    p = fit(thinned(_only(rows, kind)), start, list(off), EVALUATIONS)
                    yield cells(f"without {name}", kind, p, rows)
            if kind == "gemm":
                yield cells("with one tile, 128 x 128", kind, *_one_tile(rows, fitted, folder))

    return markdown(("fitted kernels", "from 20 us of roofline on", "smaller"), lines())


def _one_tile(rows: dict[str, Rows], fitted: Params, folder: Path) -> tuple[Params, dict[str, Rows]]:
    tiles = formulas.GEMM_TILES
    try:
        formulas.GEMM_TILES = ((128, 128),)  # type: ignore[assignment]
        some = fitted_rows(read_rows(folder))
        p = fit(thinned(_only(some, "gemm")), fitted, (), EVALUATIONS)
        return p, some
    finally:
        formulas.GEMM_TILES = tiles


def _only(rows: dict[str, Rows], kind: str) -> dict[str, Rows]:
    """Of all kinds but this one, and lm_head among the GEMMs, no rows."""
    alike = (kind, "head") if kind == "gemm" else (kind,)
    return {name: each if name in alike else each.taken(np.zeros(len(each.chips), bool)) for name, each in rows.items()}


if __name__ == "__main__":
    main()
