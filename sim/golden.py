"""Golden vectors for RTL verification: inputs, weights and outputs of chosen ops of a model, as NumPy archives and as `$readmemh` files.

Weights, token ids and KV cache are those of `sim.golden_step`. Contractions of floats are computed in float64 and rounded once, so that no
order of summation shows; vector ops in fp32 and rounded once; int8 and mixed formats as `functional.quantise` defines them. The tolerance
of an output says how far a correct implementation may be from it; the manifest says besides how far the formats themselves are from fp32.
"""

from __future__ import annotations

import fnmatch
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from functional.config import ModelConfig
from functional.errors import BadInput, Problem, UnknownName, did_you_mean
from functional.formats import bits_of, check_default, group_of, is_integer
from functional.ops import OPS
from functional.qtensor import QTensor, common_format, requantise
from functional.quantise import (
    QCaptured,
    Quantised,
    product_factor,
    scales_in_pieces,
)
from functional.work import Mask
from sim.execute.judge import UNDERFLOW, UNIT_ROUNDOFF, gamma, magnitudes
from sim.golden_step import WORDS, GoldenModel, SeededStep, seeded_error, seeded_step
from workloads.graph import OpGraph, OpNode
from workloads.scenario import Formats, Phase, Scenario
from workloads.split import parts_of, pieces
from workloads.split import split as in_pieces
from workloads.trace import trace

LARGE = ("embed_tokens", "lm_head")
"""Ops whose vectors are only written, and whose weights are only built, when a pattern names them."""

PRODUCTS = ("Linear", "MatMul")
"""Ops that are contractions."""

MANIFEST = "manifest.json"
ADDRESS_ORDER = "row-major: the last axis of `shape` varies fastest; line i holds the element of flat index i"
BIT_ORDER = "one element per line, highest digit first; floats as IEEE 754 bits (bf16: upper half of fp32), integers in two's complement"
DEQUANTISE = (
    "value = scale * (code - zero_point); of a product's operands that of the narrower format is rounded to the wider one first; "
    "two integer operands are multiplied as they are and the int32 sum is scaled once"
)

_LARGEST_EXPONENT = 104
"""exp(-104) is 0 in fp32: no argument of a larger magnitude matters."""


@dataclass(frozen=True, slots=True, eq=False)
class _Port:
    """One tensor of an op, with its scale and zero points where its format has them."""

    name: str
    tensor: str
    role: str
    data: QTensor


@dataclass(frozen=True, slots=True)
class Tolerance:
    """|found - golden| <= absolute + relative x |golden|; for scaled formats in units of the codes."""

    absolute: float
    relative: float
    why: str


def write_golden(
    model: str | Path | ModelConfig | GoldenModel,
    out: str | Path,
    *,
    ops: Sequence[str] = (),
    number_format: str = "bf16",
    weights: str | None = None,
    activations: str | None = None,
    kv: str | None = None,
    split: int = 1,
    phase: Phase = "prefill",
    batch: int = 1,
    prompt: int = 16,
    context: int | None = None,
    layers: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Write golden vectors of the ops that any of the patterns (shell style, `layers.0.*`) names into a new folder; its manifest.

    Without patterns all ops but the embedding and lm_head. `number_format` is that of weights, of what is between ops and of the KV cache,
    unless said. Every linear is in `split` pieces. The folder appears whole or not at all. Raises `BadInput`: an unknown model, format,
    phase or op, lengths and layers that the model does not have, linears that do not part, a folder that is not empty or cannot be written.
    """
    opened = GoldenModel.of(model)
    config, folder = opened.config, Path(out)
    _check(config, folder, number_format, activations, phase, layers)
    formats = Formats.of(number_format, weights, activations, kv)
    config = replace(config, num_hidden_layers=layers)
    tokens = prompt if phase == "prefill" or context is None else context
    scenario = Scenario.prefill(formats, batch, tokens) if phase == "prefill" else Scenario.decode(formats, batch, tokens)
    graph = in_pieces(trace(config, scenario), split)
    chosen = _chosen(graph, ops)
    if not any(name.startswith(LARGE) for name in chosen):
        config = replace(config, vocab_size=min(config.vocab_size, WORDS))
    step = seeded_step(config, scenario, seed, opened.source)
    ports = _ports(graph, step, chosen)
    header = {
        "rooftile": version("rooftile"),
        "model": graph.model,
        "format": formats.activations,
        "weights": formats.weights,
        "kv": formats.kv,
        "error_against_fp32": asdict(seeded_error(config, scenario, seed, opened.source)),
        "weights_source": opened.source.name,
        "seed": seed,
        "layers": layers,
        "split": split,
        "phase": phase,
        "batch": batch,
        "q_len": scenario.q_len,
        "context": scenario.context,
        "address_order": ADDRESS_ORDER,
        "hex": BIT_ORDER,
        "dequantise": DEQUANTISE,
        "tolerance": "|found - golden| <= absolute + relative * |golden|; of int8 and fp8 in codes, before the scale",
    }
    return _write_folder(folder, header, [op for op in graph.ops if op.name in ports], ports)


# What is asked for -----------------------------------------------------------------------------------------------------------------------


def _check(config: ModelConfig, folder: Path, number_format: str, activations: str | None, phase: str, layers: int) -> None:
    """All mistakes at once, before anything is computed."""
    problems = check_default(number_format, "--format", activations)
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
        return [name for name in names if not name.startswith(LARGE)]
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


def _ports(graph: OpGraph, step: SeededStep, chosen: Iterable[str]) -> dict[str, list[_Port]]:
    """The tensors of each op under the names of the op table (x, weight) and of the graph (layers.0.self_attn.q_proj.weight)."""
    scales = scales_in_pieces(step.scales, pieces(graph))
    quantised = Quantised(scales, set(chosen).__contains__, step.scenario.formats.activations)
    with torch.no_grad():
        step.interpreted(quantised, parts_of(graph))
    ports = {}
    for op in graph.ops:
        if op.name in quantised.captured:
            each = quantised.captured.pop(op.name)
            ports[op.name] = [*_ports_of(op, replace(each, output=_rounded_once(each)), graph), *_factor(each)]
    return ports


def _ports_of(op: OpNode, captured: QCaptured, graph: OpGraph) -> list[_Port]:
    parameters = inspect.signature(captured.op.compute).parameters
    positional = [name for name, each in parameters.items() if each.kind is not each.KEYWORD_ONLY]
    if op.kind == "Concat":
        positional = [f"piece_{i}" for i in range(len(op.inputs))]
    roles = ["weight" if graph.tensors[use.tensor].role == "weight" else "input" for use in op.inputs]
    rows = op.name.rpartition(".slice_")[2] if op.kind == "Linear" and ".slice_" in op.name else ""
    named = [f"{use.tensor}.slice_{rows}" if rows and role == "weight" else use.tensor for use, role in zip(op.inputs, roles, strict=True)]
    inputs = zip(positional, named, roles, captured.inputs, strict=True)
    return [*(_Port(name, tensor, role, data) for name, tensor, role, data in inputs), _Port("output", op.name, "output", captured.output)]


def _rounded_once(captured: QCaptured) -> QTensor:
    """A floating-point contraction without the errors of any order of summation; other outputs as they are."""
    op, output = captured.op, captured.output
    if op.kind not in PRODUCTS:
        return output
    wanted, a, b = common_format(*captured.inputs)
    if is_integer(wanted):
        return output
    if op.kind == "Linear":
        exact, _ = magnitudes(a.values.reshape(-1, a.values.shape[-1]), b.values.T)
        exact = exact.view(output.values.shape)
    else:
        exact = op.compute(a.values.double(), b.values.double(), **captured.attrs)
    if output.scale is None:
        return QTensor(exact.to(output.values.dtype), None)
    return output.with_values(requantise((exact * product_factor(a, b, output.scale).double()).float(), torch.ones(()), output.format))


def _factor(captured: QCaptured) -> list[_Port]:
    """The fp32 multiplier from sums to the output's codes, which hardware would store beside the weights."""
    if captured.op.kind not in PRODUCTS or captured.output.scale is None:
        return []
    _, a, b = common_format(*captured.inputs)
    return [_Port("factor", "", "parameter", QTensor(product_factor(a, b, captured.output.scale), None))]


# How far a correct implementation may be off ---------------------------------------------------------------------------------------------


def tolerance(
    kind: str, inputs: Sequence[Tensor], output: Tensor, attrs: dict[str, Any], factor: Tensor | None = None, converts: bool = False
) -> Tolerance:
    """How far a correct implementation of one op may be from its golden output, by kind, format and lengths.

    Floats are two values of which each was rounded to the output format once (2 u_out), after fp32 arithmetic whose error is counted in
    roundings of u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 3). Inputs of a product are in its compute
    format, and sums of products of codes are multiplied by `factor`; `converts`: an op that only moves changes the format on the way.
    """
    if kind == "ReduceMax" or (kind in ("MemCopy", "Embedding") and not converts):
        return Tolerance(0.0, 0.0, "values are only moved or compared")
    if output.dtype == torch.int8:
        if kind in PRODUCTS and all(each.dtype == torch.int8 for each in inputs):
            return Tolerance(0.0, 0.0, "integer sums are exact and rounded once, half to even")
        return Tolerance(1.0, 0.0, "fp32 arithmetic may end on the other side of a rounding boundary")
    u, u_out = UNIT_ROUNDOFF["fp32"], UNIT_ROUNDOFF[_format_of(output)]
    if output.dtype == torch.float8_e4m3fn and kind not in PRODUCTS:
        return Tolerance(2 * UNDERFLOW["fp8"], 2 * u_out, "fp32 arithmetic may end on the other side of a rounding boundary")
    twice = 2 * u_out * (1 + 2 * u_out)
    underflow = 2 * UNDERFLOW[_format_of(output)]
    match kind:
        case "Linear" | "MatMul":
            depth, magnitude = _sum_of_products(kind, inputs, attrs)
            magnitude *= 1.0 if factor is None else float(factor.max())
            why = f"{depth} products summed in fp32 in any order, one rounding to the output"
            return Tolerance(gamma(depth, u) * magnitude * (1 + u_out) ** 2 + underflow, twice, why)
        case "RoPETable":
            angle = (attrs["first"] + attrs["length"]) * float(inputs[0].abs().max())
            return Tolerance(u * angle + 4 * u, 0.0, "an angle rounded to fp32, cosine and sine within four roundings")
        case "RoPE":
            largest = float(inputs[0].abs().max())
            return Tolerance(gamma(3, u) * 2 * largest + underflow, twice, "two products and a sum in fp32, one rounding to the output")
    roundings = {
        "Embedding": 1,
        "MemCopy": 1,
        "RMSNorm": inputs[0].shape[-1] + 8,
        "Normalize": inputs[0].shape[-1] + 4,
        "ElementwiseExp": 2 * _LARGEST_EXPONENT + 4,
        "SiLU": 8,
        "Mul": 1,
        "Add": 1,
        "Concat": 0,
    }[kind]
    return Tolerance(underflow, twice + gamma(roundings, u), f"{roundings} roundings in fp32, one to the output")


def _sum_of_products(kind: str, inputs: Sequence[Tensor], attrs: dict[str, Any]) -> tuple[int, float]:
    """Length of the sums and the largest sum of magnitudes."""
    a, b = inputs
    if kind == "Linear":
        rows = a.reshape(-1, a.shape[-1]).float().abs()
        # By rows of the weight in pieces: the fp32 copy of a whole vocabulary would not be small.
        return a.shape[-1], max(float((rows @ piece.float().abs().T).max()) for piece in torch.split(b, WORDS)) * (1 + 1e-3)
    return a.shape[-1], float(OPS[kind].compute(a.double().abs(), b.double().abs(), **attrs).max())


# Files -----------------------------------------------------------------------------------------------------------------------------------


def _format_of(tensor: Tensor) -> str:
    return QTensor(tensor, None).format


def to_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as it is stored in an archive: bf16 and fp8, which NumPy lacks, as their bits in uint16 and uint8."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_hex(tensor: Tensor, bits: int = 8) -> str:
    """A tensor as `$readmemh` reads it: one element per line, in row-major order; codes of four bits are one digit."""
    array = to_array(tensor)
    text = array.astype(array.dtype.newbyteorder(">")).tobytes().hex("\n", array.itemsize) + "\n"
    return text if bits != 4 else "".join(line[1:] for line in text.splitlines(keepends=True))


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
    arrays: dict[str, NDArray[Any]] = {}

    def written(name: str, tensor: Tensor, number_format: str) -> dict[str, str]:
        arrays[name] = to_array(tensor)
        return {"array": name, "hex": _write_hex(folder, op.name, name, tensor, number_format)}

    entries = []
    for port in ports:
        data, group = port.data, group_of(port.data.format)
        entry: dict[str, Any] = {
            "name": port.name,
            "tensor": port.tensor,
            "role": port.role,
            "shape": list(data.values.shape),
            "format": data.format,
            **written(port.name, data.values, data.format),
            "scale": None,
            "zero_point": None,
            "tolerance": None,
        }
        entry["dtype"] = str(arrays[port.name].dtype)
        if data.scale is not None:
            place = {"axis": 0} if group is None else {"axis": 1, "group": group}
            is_one = data.scale.ndim == 0
            entry["scale"] = float(data.scale) if is_one else {**written(f"{port.name}_scale", data.scale, _format_of(data.scale)), **place}
        if data.zero is not None:
            entry["zero_point"] = written(f"{port.name}_zero_point", data.zero, data.format)
        if port.name == "output":
            entry["tolerance"] = asdict(_allowed(op, ports))
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


def _allowed(op: OpNode, ports: Sequence[_Port]) -> Tolerance:
    """The tolerance of an op's output, from all that is written of it."""
    found = {port.name: port.data for port in ports}
    output, factor = found.pop("output"), found.pop("factor", None)
    inputs = list(found.values())
    converts = (op.kind == "MemCopy" and inputs[0].format != inputs[1].format) or (
        op.kind == "Embedding" and (inputs[1].scale is not None or inputs[1].format != output.format)
    )
    if op.kind in PRODUCTS:
        inputs = list(common_format(*inputs)[1:])
    values = [each.values for each in inputs]
    return tolerance(op.kind, values, output.values, dict(op.attrs), None if factor is None else factor.values, converts)


def _write_hex(folder: Path, op: str, port: str, tensor: Tensor, number_format: str) -> str:
    file = f"{op}.{port}.hex"
    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    text = to_hex(tensor, bits_of(number_format))
    (folder / file).write_text(f"// {op} {port}: {shape} of {number_format}, row-major\n{text}", encoding="ascii")
    return file


def _plain(value: Any) -> Any:
    return {"offset": int(value.offset), "window": value.window} if isinstance(value, Mask) else value
