"""Golden vectors for RTL verification: inputs, weights and outputs of chosen ops of a model, as NumPy archives and as `$readmemh` files.

Weights are random and seeded, token ids too (from the first `WORDS` words); the KV cache of a decode step is that of a real prefill.
Contractions of floats are computed in float64 and rounded once, so that no order of summation shows; vector ops in fp32 and rounded once;
int8 as `functional.quantise` defines it. The tolerance of an output says how far a correct implementation may be from it.
"""

from __future__ import annotations

import fnmatch
import inspect
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from functional.config import ModelConfig
from functional.errors import BadInput, Problem, UnknownName, did_you_mean
from functional.interpreters import Capture
from functional.llama import KVCache, Weights, forward
from functional.model import prefill
from functional.ops import OPS, Op
from functional.qtensor import QTensor, multiplier
from functional.quantise import Quantised, calibrate, quantise_cache, quantise_weights
from functional.weights import new_cache, random_weights
from functional.work import Mask
from sim.execute.arithmetic import Arithmetic
from sim.execute.judge import UNDERFLOW, UNIT_ROUNDOFF, gamma, gemm_bound
from workloads.graph import OpGraph, OpNode
from workloads.library import load_model
from workloads.scenario import Formats, Phase, Scenario
from workloads.trace import trace

FORMATS = ("bf16", "fp16", "fp32", "int8")
"""Formats in which vectors are written."""

WORDS = 1024
"""Token ids are below this (and the vocabulary), so that other ops give the same vectors whether or not the whole table is built."""

LARGE = ("embed_tokens", "lm_head")
"""Ops whose vectors are only written, and whose weights are only built, when a pattern names them."""

MANIFEST = "manifest.json"
ADDRESS_ORDER = "row-major: the last axis of `shape` varies fastest; line i holds the element of flat index i"
BIT_ORDER = "one element per line, highest digit first; floats as IEEE 754 bits (bf16: upper half of fp32), integers in two's complement"

_LARGEST_EXPONENT = 104
"""exp(-104) is 0 in fp32: no argument of a larger magnitude matters."""


@dataclass(frozen=True, slots=True, eq=False)
class _Port:
    """One tensor of an op: its values in their format, and their scale if they are int8."""

    name: str
    tensor: str
    role: str
    values: Tensor
    scale: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|found - golden| <= absolute + relative x |golden|; for int8 in units of the integer codes."""

    absolute: float
    relative: float
    why: str


def write_golden(
    model: str | Path | ModelConfig,
    out: str | Path,
    *,
    ops: Sequence[str] = (),
    number_format: str = "bf16",
    phase: Phase = "prefill",
    batch: int = 1,
    prompt: int = 16,
    context: int | None = None,
    layers: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Write golden vectors of the ops that any of the patterns (shell style, `layers.0.*`) names into a new folder; its manifest.

    Without patterns all ops but the embedding and lm_head. The folder appears whole or not at all. Raises `BadInput`: an unknown model,
    format, phase or op, lengths and layers that the model does not have, a folder that is not empty or cannot be written.
    """
    config = model if isinstance(model, ModelConfig) else load_model(model)
    folder = Path(out)
    _check(config, folder, number_format, phase, layers)
    config = replace(config, num_hidden_layers=layers)
    formats = Formats(number_format, number_format, number_format)
    tokens = prompt if phase == "prefill" or context is None else context
    scenario = Scenario.prefill(formats, batch, tokens) if phase == "prefill" else Scenario.decode(formats, batch, tokens)
    graph = trace(config, scenario)
    chosen = _chosen(graph, ops)
    if not set(chosen) & set(LARGE):
        config = replace(config, vocab_size=min(config.vocab_size, WORDS))
    compute = _int8_ports if number_format == "int8" else _float_ports
    ports = compute(config, graph, chosen, seed)
    header = {
        "rooftile": version("rooftile"),
        "model": graph.model,
        "format": number_format,
        "seed": seed,
        "layers": layers,
        "phase": phase,
        "batch": batch,
        "q_len": scenario.q_len,
        "context": scenario.context,
        "address_order": ADDRESS_ORDER,
        "hex": BIT_ORDER,
        "tolerance": "|found - golden| <= absolute + relative * |golden|; int8: in integer codes",
    }
    return _write_folder(folder, header, [op for op in graph.ops if op.name in ports], ports)


# What is asked for -----------------------------------------------------------------------------------------------------------------------


def _check(config: ModelConfig, folder: Path, number_format: str, phase: str, layers: int) -> None:
    """All mistakes at once, before anything is computed."""
    problems = []
    if number_format not in FORMATS:
        problems.append(Problem(f"no golden vectors in '{number_format}'", did_you_mean(number_format, FORMATS), path="--format"))
    if phase not in get_args(Phase):
        problems.append(Problem(f"unknown phase '{phase}'", did_you_mean(phase, get_args(Phase)), path="--phase"))
    if not 1 <= layers <= config.num_hidden_layers:
        cure = f"{config.name} has 1 to {config.num_hidden_layers}"
        problems.append(Problem(f"cannot build {layers} layers", cure, path="--layers"))
    if folder.exists() and not folder.is_dir():
        problems.append(Problem("is a file", "name a folder that is not there yet", path=str(folder)))
    elif folder.is_dir() and any(folder.iterdir()):
        problems.append(Problem("the folder is not empty", "name another one, or empty it first", path=str(folder)))
    elif not folder.absolute().parent.is_dir():
        problems.append(Problem("the folder above it is not there", f"make {folder.absolute().parent} first", path=str(folder)))
    if problems:
        raise BadInput(problems)


def _chosen(graph: OpGraph, patterns: Iterable[str]) -> list[str]:
    """Names of ops in the order of the graph; `UnknownName` for patterns that name none."""
    names = [op.name for op in graph.ops]
    patterns = list(patterns)
    if not patterns:
        return [name for name in names if name not in LARGE]
    unknown = [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]
    if unknown:
        raise UnknownName(Problem(f"no op is named '{pattern}'", _cure(pattern, names), path="--ops") for pattern in unknown)
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _cure(pattern: str, names: list[str]) -> str:
    """A close name, also where only the last part of the path was given; else some names."""
    last_parts = {f"*.{name.rpartition('.')[2]}" for name in names if "." in name}
    hint = did_you_mean(f"*.{pattern}", sorted(last_parts)) if "." not in pattern else did_you_mean(pattern, names)
    if not hint.startswith("known"):
        return hint
    return f"there are {len(names)} ops, such as {', '.join(names[:: max(len(names) // 6, 1)])}; * stands for any text"


# What the vectors hold -------------------------------------------------------------------------------------------------------------------


def seeded_ids(config: ModelConfig, scenario: Scenario, seed: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, context] that are in the cache, and [B, q_len] of the step."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} ids".encode()))
    shape = (int(scenario.batch), int(scenario.kv_len))
    ids = torch.randint(min(config.vocab_size, WORDS), shape, generator=generator, dtype=torch.int32)
    return ids[:, : int(scenario.context)], ids[:, int(scenario.context) :]


def filled_cache(config: ModelConfig, weights: Weights[Tensor], before: Tensor, capacity: int, dtype: str) -> KVCache[Tensor]:
    """A cache with room for the whole step that holds the tokens before it."""
    cache = new_cache(config, before.shape[0], capacity, dtype)
    if before.shape[1]:
        prefill(config, weights, before, cache)
    return cache


def _ports_of(op: OpNode, table_op: Op, inputs: Sequence[Tensor | QTensor], output: Tensor | QTensor, graph: OpGraph) -> list[_Port]:
    """The tensors of one op under the names of the op table (x, weight) and of the graph (layers.0.self_attn.q_proj.weight)."""
    positional = [name for name, each in inspect.signature(table_op.compute).parameters.items() if each.kind is not each.KEYWORD_ONLY]
    named = [
        (name, use.tensor, graph.tensors[use.tensor].role, tensor)
        for name, use, tensor in zip(positional, op.inputs, inputs, strict=True)
    ]
    named.append(("output", op.name, "output", output))
    return [
        _Port(name, tensor, role if role in ("weight", "output") and (role != "output" or name == "output") else "input", *_raw(value))
        for name, tensor, role, value in named
    ]


def _raw(value: Tensor | QTensor) -> tuple[Tensor, Tensor | None]:
    return (value.values, value.scale) if isinstance(value, QTensor) else (value, None)


@torch.no_grad()
def _float_ports(config: ModelConfig, graph: OpGraph, chosen: Iterable[str], seed: int) -> dict[str, list[_Port]]:
    scenario, wanted = graph.scenario, set(chosen)
    weights = random_weights(config, seed, scenario.formats.activations)
    before, ids = seeded_ids(config, scenario, seed)
    cache = filled_cache(config, weights, before, int(scenario.kv_len), scenario.formats.kv)
    capture = Capture(wanted.__contains__)
    forward(capture, config, weights, ids, cache, int(scenario.context), int(scenario.q_len), scenario.logits)
    ports = {}
    for op in graph.ops:
        if op.name in wanted:
            each = capture.captured[op.name]
            output = _rounded_once(op.kind, each.op, each.inputs, each.attrs, each.output)
            ports[op.name] = _ports_of(op, each.op, each.inputs, output, graph)
    return ports


def _rounded_once(kind: str, op: Op, inputs: Sequence[Tensor], attrs: dict[str, Any], output: Tensor) -> Tensor:
    """A contraction without the errors of any order of summation; other ops as they are."""
    if kind == "Linear":
        x, weight = inputs
        arithmetic = Arithmetic(_format_of(x), "fp32", _format_of(output))
        exact, _ = gemm_bound(x.reshape(-1, x.shape[-1]), weight.T, arithmetic)
        return exact.to(output.dtype).view(output.shape)
    if kind == "MatMul":
        return op.compute(*(each.double() for each in inputs), **attrs).to(output.dtype)
    return output


@torch.no_grad()
def _int8_ports(config: ModelConfig, graph: OpGraph, chosen: Iterable[str], seed: int) -> dict[str, list[_Port]]:
    scenario, wanted = graph.scenario, set(chosen)
    weights = random_weights(config, seed)
    before, ids = seeded_ids(config, scenario, seed)
    cache = filled_cache(config, weights, before, int(scenario.kv_len), "fp32")
    scales = calibrate(config, weights, ids, cache, int(scenario.context), scenario.logits)
    quantised = Quantised(scales, wanted.__contains__)
    position, length = int(scenario.context), int(scenario.q_len)
    small_cache = quantise_cache(cache, scales)
    forward(quantised, config, quantise_weights(weights), QTensor(ids, None), small_cache, position, length, scenario.logits)
    ports = {}
    for op in graph.ops:
        if op.name in wanted:
            each = quantised.captured[op.name]
            ports[op.name] = [*_ports_of(op, each.op, each.inputs, each.output, graph), *_factor(op.kind, each.inputs, each.output)]
    return ports


def _factor(kind: str, inputs: Sequence[QTensor], output: QTensor) -> list[_Port]:
    """The fp32 multiplier from sums to the output's integers, which hardware would store beside the weights."""
    if kind not in ("Linear", "MatMul"):
        return []
    a, b = inputs
    assert a.scale is not None
    assert b.scale is not None
    assert output.scale is not None
    return [_Port("factor", "", "parameter", multiplier(a.scale, b.scale, output.scale))]


# How far a correct implementation may be off ---------------------------------------------------------------------------------------------


def tolerance(kind: str, inputs: Sequence[Tensor], output: Tensor, attrs: dict[str, Any]) -> Tolerance:
    """How far a correct implementation of one op may be from its golden output, by kind, format and lengths.

    Floats are two values of which each was rounded to the output format once (2 u_out), after fp32 arithmetic whose error is counted in
    roundings of u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 3).
    """
    if kind in ("MemCopy", "ReduceMax") or (kind == "Embedding" and output.dtype != torch.int8):
        return Tolerance(0.0, 0.0, "values are only moved or compared")
    if output.dtype == torch.int8:
        if kind in ("Linear", "MatMul"):
            return Tolerance(0.0, 0.0, "integer sums are exact and rounded once, half to even")
        return Tolerance(1.0, 0.0, "fp32 arithmetic may end on the other side of a rounding boundary")
    u, u_out = UNIT_ROUNDOFF["fp32"], UNIT_ROUNDOFF[_format_of(output)]
    twice = 2 * u_out * (1 + 2 * u_out)
    underflow = 2 * UNDERFLOW[_format_of(output)]
    match kind:
        case "Linear" | "MatMul":
            depth, magnitude = _sum_of_products(kind, inputs, attrs)
            why = f"{depth} products summed in fp32 in any order, one rounding to the output"
            return Tolerance(gamma(depth, u) * magnitude * (1 + u_out) ** 2 + underflow, twice, why)
        case "RoPETable":
            angle = (attrs["first"] + attrs["length"]) * float(inputs[0].abs().max())
            return Tolerance(u * angle + 4 * u, 0.0, "an angle rounded to fp32, cosine and sine within four roundings")
        case "RoPE":
            largest = float(inputs[0].abs().max())
            return Tolerance(gamma(3, u) * 2 * largest + underflow, twice, "two products and a sum in fp32, one rounding to the output")
    roundings = {
        "RMSNorm": inputs[0].shape[-1] + 8,
        "Normalize": inputs[0].shape[-1] + 4,
        "ElementwiseExp": 2 * _LARGEST_EXPONENT + 4,
        "SiLU": 8,
        "Mul": 1,
        "Add": 1,
    }[kind]
    return Tolerance(underflow, twice + gamma(roundings, u), f"{roundings} roundings in fp32, one to the output")


def _sum_of_products(kind: str, inputs: Sequence[Tensor], attrs: dict[str, Any]) -> tuple[int, float]:
    """Length of the sums and the largest sum of magnitudes."""
    a, b = inputs
    if kind == "Linear":
        rows = a.reshape(-1, a.shape[-1]).abs()
        # By rows of the weight in pieces: the fp32 copy of a whole vocabulary would not be small.
        return a.shape[-1], max(float((rows.float() @ piece.abs().float().T).max()) for piece in torch.split(b, WORDS)) * (1 + 1e-3)
    return a.shape[-1], float(OPS[kind].compute(a.double().abs(), b.double().abs(), **attrs).max())


# Files -----------------------------------------------------------------------------------------------------------------------------------


def _format_of(tensor: Tensor) -> str:
    return {
        torch.bfloat16: "bf16",
        torch.float16: "fp16",
        torch.float32: "fp32",
        torch.int8: "int8",
        torch.int32: "int32",
    }[tensor.dtype]


def to_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as it is stored in an archive: bf16, which NumPy lacks, as its bits in uint16."""
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_hex(tensor: Tensor) -> str:
    """A tensor as `$readmemh` reads it: one element per line, in row-major order."""
    array = to_array(tensor)
    return array.astype(array.dtype.newbyteorder(">")).tobytes().hex("\n", array.itemsize) + "\n"


def _write_folder(folder: Path, header: dict[str, Any], ops: Sequence[OpNode], ports: dict[str, list[_Port]]) -> dict[str, Any]:
    """Everything into a sibling folder that is renamed when it is complete."""
    try:
        building = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
        try:
            manifest = {**header, "ops": [_write_op(building, op, ports[op.name]) for op in ops]}
            (building / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            building.chmod(0o755)
            os.replace(building, folder.absolute())
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    except OSError as error:
        cure = "choose a folder that can be made and has room"
        raise BadInput(Problem(f"cannot write: {error.strerror}", cure, path=str(folder))) from error
    return manifest


def _write_op(folder: Path, op: OpNode, ports: Sequence[_Port]) -> dict[str, Any]:
    """One archive and one hex file per tensor; the op's entry in the manifest."""
    arrays = {port.name: to_array(port.values) for port in ports}
    entries = []
    for port in ports:
        entry: dict[str, Any] = {
            "name": port.name,
            "tensor": port.tensor,
            "role": port.role,
            "shape": list(port.values.shape),
            "format": _format_of(port.values),
            "array": port.name,
            "dtype": str(arrays[port.name].dtype),
            "hex": _write_hex(folder, op.name, port.name, port.values),
            "scale": None,
            "tolerance": None,
        }
        if port.scale is not None:
            entry["scale"] = float(port.scale) if port.scale.ndim == 0 else {"array": f"{port.name}_scale", "axis": 0}
        if port.scale is not None and port.scale.ndim:
            arrays[f"{port.name}_scale"] = to_array(port.scale)
            entry["scale"]["hex"] = _write_hex(folder, op.name, f"{port.name}_scale", port.scale)
        if port.name == "output":
            inputs = [each.values for each in ports if each.name not in ("output", "factor")]
            allowed = tolerance(op.kind, inputs, port.values, dict(op.attrs))
            entry["tolerance"] = {"absolute": allowed.absolute, "relative": allowed.relative, "why": allowed.why}
        entries.append(entry)
    np.savez(folder / f"{op.name}.npz", **arrays)  # type: ignore[arg-type]  # a name is never "allow_pickle"
    return {
        "name": op.name,
        "kind": op.kind,
        "component": op.component,
        "attributes": {name: _plain(value) for name, value in op.attrs.items()},
        "npz": f"{op.name}.npz",
        "tensors": entries,
    }


def _write_hex(folder: Path, op: str, port: str, tensor: Tensor) -> str:
    file = f"{op}.{port}.hex"
    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    (folder / file).write_text(f"// {op} {port}: {shape} of {_format_of(tensor)}, row-major\n{to_hex(tensor)}", encoding="ascii")
    return file


def _plain(value: Any) -> Any:
    return {"offset": int(value.offset), "window": value.window} if isinstance(value, Mask) else value
