"""DRAM bytes that a group moves, counted on the tensors themselves while it is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import torch

from functional.qtensor import QTensor, bits_in_memory, weight_bytes
from functional.quantise import QCaptured
from hwmodels.chip import Chip
from sim.execute import Tally
from sim.execute.tally import Cargo
from sim.verification.run import AttentionStep, Machine
from workloads.graph import OpGraph, OpNode

_SIDES: tuple[Cargo, ...] = ("queries", "keys", "values", "outputs")
_BETWEEN: tuple[Cargo, ...] = ("scores", "maxima", "exponentials", "probabilities")


def linear_bytes(golden: QCaptured, tally: Tally, machine: Machine, output_leaves: bool) -> tuple[int, int]:
    """DRAM bytes (read, written) of one executed GEMM, every tile on bursts of its own; sizes are those of the tensors themselves."""
    chip, (x, weight) = machine.chip, golden.inputs
    sums = machine.product(x, weight, golden.output.scale).arithmetic.sum_dtype
    bits: dict[Cargo, int] = {
        "activations": bits_in_memory(x),
        "weights": bits_in_memory(weight),
        "psums": 8 * torch.empty(0, dtype=sums).element_size(),
        "outputs": bits_in_memory(golden.output) if output_leaves else 0,
    }
    name, burst = chip.dram.name, int(chip.dram.burst_bytes)
    return tally.moved_bytes(name, "read", bits, burst), tally.moved_bytes(name, "write", bits, burst)


def attention_bytes(
    step: AttentionStep, ops: tuple[OpNode, ...], golden: QCaptured, tally: Tally, chip: Chip, resident: Set[str]
) -> tuple[int, int]:
    """DRAM bytes (read, written) of one executed attention, without the sides that stay on the chip."""
    attention = step.mapping.attention
    queries, keys = map(bits_in_memory, golden.inputs)
    bits: dict[Cargo, int] = dict.fromkeys(_SIDES, queries)
    bits["keys"] = bits["values"] = keys
    if ops[0].inputs[0].tensor in resident:
        del bits["queries"]
    if ops[0].inputs[1].tensor in resident and attention.kv_len == attention.q_len:
        del bits["keys"], bits["values"]
    if ops[-1].name in resident:
        del bits["outputs"]
    between: dict[Cargo, int] = dict.fromkeys(_BETWEEN, queries)
    name, burst = chip.dram.name, int(chip.dram.burst_bytes)
    read = tally.moved_bytes(name, "read", bits, burst) + tally.moved_bytes(name, "read", between, 1)
    return read, tally.moved_bytes(name, "write", bits, burst) + tally.moved_bytes(name, "write", between, 1)


def streamed_bytes(
    ops: tuple[OpNode, ...], golden: Mapping[str, QCaptured], graph: OpGraph, chip: Chip, resident: Set[str]
) -> tuple[int, int]:
    """DRAM bytes (read, written) of tensors that pass once beside a group's GEMM, each on bursts of its own."""
    burst = int(chip.dram.burst_bytes)

    def packed(sizes: Iterator[int]) -> int:
        return sum(-(-size // burst) * burst for size in sizes)

    return packed(_read(ops, golden, graph, resident)), packed(_written(ops, golden, graph, resident))


def _size(tensor: QTensor, elements: int | None = None) -> int:
    """Bytes of a tensor, or of so many elements like those of it."""
    return -(-(tensor.values.numel() if elements is None else elements) * bits_in_memory(tensor) // 8)


def _read(ops: tuple[OpNode, ...], golden: Mapping[str, QCaptured], graph: OpGraph, resident: Set[str]) -> Iterator[int]:
    seen = {op.name for op in ops} | resident
    for op in ops:
        for index, use in enumerate(op.inputs):
            if use.tensor in seen:
                continue
            seen.add(use.tensor)
            role = graph.tensors[use.tensor].role
            tensor = golden[op.name].inputs[index]
            if op.kind == "Embedding" and role == "weight":
                yield sum(weight_bytes(tensor.gathered(golden[op.name].inputs[0].values)))
            elif op.kind == "Linear" and role == "weight":  # a GEMM tallies its own operands, but not their scales
                yield weight_bytes(tensor)[1]
            elif op.kind != "Linear" and role not in ("constant", "kv_cache"):  # a unit holds constants; a cache is only written into
                yield _size(tensor)


def _written(ops: tuple[OpNode, ...], golden: Mapping[str, QCaptured], graph: OpGraph, resident: Set[str]) -> Iterator[int]:
    mine = {op.name for op in ops}
    read_later = {use.tensor for op in graph.ops if op.name not in mine for use in op.inputs}
    for op in ops:
        if op.kind == "MemCopy":
            cache, new = golden[op.name].inputs
            yield _size(cache, new.values.numel())
        elif len(ops) == 1 and op.kind == "Linear":
            continue
        elif op.name not in resident and (op.name in read_later or graph.tensors[op.name].role == "output"):
            yield _size(golden[op.name].output)
