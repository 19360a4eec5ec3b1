"""DRAM bytes that a group moves, counted on the tensors themselves while it is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import torch

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
    bits: dict[Cargo, int] = {
        "activations": 8 * x.values.element_size(),
        "weights": 8 * weight.values.element_size(),
        "psums": 8 * torch.empty(0, dtype=machine.arithmetic(torch.tensor(1.0)).sum_dtype).element_size(),
        "outputs": 8 * golden.output.values.element_size() if output_leaves else 0,
    }
    name, burst = chip.dram.name, int(chip.dram.burst_bytes)
    return tally.moved_bytes(name, "read", bits, burst), tally.moved_bytes(name, "write", bits, burst)


def attention_bytes(
    step: AttentionStep, ops: tuple[OpNode, ...], golden: QCaptured, tally: Tally, chip: Chip, resident: Set[str]
) -> tuple[int, int]:
    """DRAM bytes (read, written) of one executed attention, without the sides that stay on the chip."""
    attention = step.mapping.attention
    queries, keys = (8 * each.values.element_size() for each in golden.inputs)
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


def _size(captured: QCaptured, index: int | None = None) -> int:
    values = captured.output.values if index is None else captured.inputs[index].values
    return values.numel() * values.element_size()


def _read(ops: tuple[OpNode, ...], golden: Mapping[str, QCaptured], graph: OpGraph, resident: Set[str]) -> Iterator[int]:
    seen = {op.name for op in ops} | resident
    for op in ops:
        for index, use in enumerate(op.inputs):
            if use.tensor in seen:
                continue
            seen.add(use.tensor)
            role = graph.tensors[use.tensor].role
            # A GEMM tallies its own operands; a constant is held by its unit; a cache is only written into.
            if op.kind == "Linear" or role in ("constant", "kv_cache"):
                continue
            gathered = op.kind == "Embedding" and role == "weight"
            captured = golden[op.name]
            yield captured.output.values.numel() * captured.inputs[index].values.element_size() if gathered else _size(captured, index)


def _written(ops: tuple[OpNode, ...], golden: Mapping[str, QCaptured], graph: OpGraph, resident: Set[str]) -> Iterator[int]:
    mine = {op.name for op in ops}
    read_later = {use.tensor for op in graph.ops if op.name not in mine for use in op.inputs}
    for op in ops:
        if op.kind == "MemCopy":
            yield _size(golden[op.name], 1)
        elif len(ops) == 1 and op.kind == "Linear":
            continue
        elif op.name not in resident and (op.name in read_later or graph.tensors[op.name].role == "output"):
            yield _size(golden[op.name])
