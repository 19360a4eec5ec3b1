"""Bytes that a group moves, counted on the tensors themselves while it is executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Literal, TypeAlias

import torch

from functional.formats import bits_of
from functional.qtensor import QTensor, bits_in_memory, weight_bytes
from functional.quantise import QCaptured
from hwmodels.chip import Chip, MemoryLevel
from sim.execute import Tally
from sim.execute.tally import Cargo, Traffic
from sim.mapping import AXES, chip_stages, levels_of
from sim.verification.counts import Counts, LevelBytes
from sim.verification.run import AttentionStep, LinearStep, Machine
from workloads.graph import OpGraph, OpNode

Destination: TypeAlias = Literal["in DRAM", "on the chip", "taken over"]
"""Where a product's result goes: `taken over` by element-wise ops of its group."""

_BETWEEN: tuple[Cargo, ...] = ("scores", "maxima", "exponentials", "probabilities")


def linear_counts(step: LinearStep, golden: QCaptured, tally: Tally, machine: Machine, output: Destination) -> Counts:
    """What one executed GEMM took, every tile in DRAM on bursts of its own; sizes are those of the tensors themselves.

    Raises ValueError where the mapping was made for others.
    """
    chip, (x, weight) = machine.chip, golden.inputs
    sums = machine.product(x, weight, golden.output.scale).arithmetic.sum_dtype
    bits: dict[Cargo, int] = {
        "activations": bits_in_memory(x),
        "weights": bits_in_memory(weight),
        "psums": 8 * torch.empty(0, dtype=sums).element_size(),
        "outputs": bits_in_memory(golden.output) if output != "taken over" else 0,
    }
    gemm = step.mapping.gemm
    planned = (gemm.a_bits, gemm.w_bits, gemm.acc_bits, gemm.out_bits)
    if planned != tuple(bits.values()):
        raise ValueError(f"the mapping is one of {planned} bits per element of {', '.join(bits)}; they have {tuple(bits.values())}")
    if gemm.out_in_dram != (output != "on the chip"):
        raise ValueError(f"the result is {output}; the mapping has it {'in DRAM' if gemm.out_in_dram else 'on the chip'}")
    name, burst = chip.dram.name, int(chip.dram.burst_bytes)
    through_dram = {cargo: each for cargo, each in bits.items() if cargo != "outputs" or output == "in DRAM"}
    dram = tally.moved_bytes(name, "read", through_dram, burst), tally.moved_bytes(name, "write", through_dram, burst)
    levels = {each.name: level_bytes(each.name, tally, bits) for each in chip.memory[1:]}
    keys = {f"{stage} {axis}": (stage, axis) for stage in range(len(chip_stages(chip))) for axis in AXES}
    tiles = [{name: counts[key] for name, key in keys.items()} for counts in (tally.turns, tally.longest)]
    busiest = tally.busiest_macs, tally.busiest_unit_macs, tally.busy_cores
    return Counts(tally.useful_macs, tally.issued_macs, *busiest, *dram, levels, *tiles)


def scale_bytes(weights: Sequence[QTensor], tally: Tally, chip: Chip) -> int:
    """DRAM bytes of scales and zero points that came with the tiles of weights, on bursts of their own."""
    burst = int(chip.dram.burst_bytes)
    fetched = tally.elements[Traffic(chip.dram.name, "weights", "read")]
    elements = sum(weight.values.numel() for weight in weights)
    sizes = (-(-weight_bytes(weight)[1] * fetched // elements) for weight in weights)
    return sum(-(-size // burst) * burst for size in sizes)


def level_bytes(level: str, tally: Tally, bits: Mapping[Cargo, int]) -> LevelBytes:
    """Tiles that pass an on-chip level, and what the matrix units exchange with it."""
    moved_bits = dict.fromkeys(("read", "write"), 0)
    for movement, elements in tally.elements.items():
        if movement.level == level:
            moved_bits[movement.direction] += elements * bits[movement.cargo]
    read = moved_bits["read"] + tally.exchanged_bits(level, "read", bits)
    written = moved_bits["write"] + tally.exchanged_bits(level, "write", bits)
    return LevelBytes(-(-read // 8), -(-written // 8), -(-tally.level_bits(level) // 8))


def attention_counts(
    step: AttentionStep, ops: tuple[OpNode, ...], golden: QCaptured, tally: Tally, chip: Chip, resident: Set[str]
) -> Counts:
    """What one executed attention took; DRAM bytes without the sides that stay on the chip.

    Raises ValueError where the mapping was made for other formats.
    """
    attention = step.mapping.attention
    queries, keys = map(bits_in_memory, golden.inputs)
    planned = attention.act_bits, attention.kv_bits, attention.acc_bits
    found = queries, keys, bits_of(chip.matrix.accumulate[attention.compute])
    if planned != found:
        raise ValueError(f"the mapping is one of {planned} bits per element of queries, keys and sums; they have {found}")
    staying: set[Cargo] = {"queries"} if ops[0].inputs[0].tensor in resident else set()
    if {op.inputs[1].tensor for op in ops if op.kind == "MatMul"} <= resident and attention.kv_len == attention.q_len:
        staying |= {"keys", "values"}
    if ops[-1].name in resident:
        staying.add("outputs")
    sides: dict[Cargo, int] = {"queries": queries, "keys": keys, "values": keys, "outputs": queries}
    bits = {cargo: each for cargo, each in sides.items() if cargo not in staying}
    name, burst, levels = chip.dram.name, int(chip.dram.burst_bytes), attention_levels(tally, chip, found, staying)
    between: dict[Cargo, int] = dict.fromkeys(_BETWEEN, queries)
    read = tally.moved_bytes(name, "read", bits, burst) + tally.moved_bytes(name, "read", between, 1)
    written = tally.moved_bytes(name, "write", bits, burst) + tally.moved_bytes(name, "write", between, 1)
    busiest = tally.busiest_macs, tally.busiest_unit_macs, tally.busy_cores
    return Counts(tally.useful_macs, tally.issued_macs, *busiest, read, written, levels, {"softmax": tally.softmaxes})


def attention_levels(tally: Tally, chip: Chip, bits: tuple[int, int, int], staying: Set[Cargo]) -> dict[str, LevelBytes]:
    """What passes each on-chip level, where tiles lie on bursts as in DRAM, and the room that it needs; bits per element of queries, keys
    and sums. Sides that stay on the chip lie in the outermost level that holds activations: they do not come there, nor leave it."""
    act_bits, kv_bits, acc_bits = bits
    between: dict[Cargo, int] = dict.fromkeys(_BETWEEN, act_bits)
    sides: dict[Cargo, int] = {"queries": act_bits, "keys": kv_bits, "values": kv_bits, "outputs": act_bits}
    exchanged: dict[Cargo, int] = {"activations": act_bits, "keys": kv_bits, "psums": acc_bits, **between}
    burst, home = int(chip.dram.burst_bytes), levels_of(chip, "activations")[0]

    def passed(level: MemoryLevel, direction: Literal["read", "write"], crossing: Set[Cargo]) -> int:
        own = {cargo: each for cargo, each in sides.items() if level is not home or cargo not in staying & crossing}
        whole = tally.moved_bytes(level.name, direction, own, burst) + tally.moved_bytes(level.name, direction, between, 1)
        return whole + -(-tally.exchanged_bits(level.name, direction, exchanged) // 8)

    def counted(level: MemoryLevel) -> LevelBytes:
        read, written = passed(level, "read", {"outputs"}), passed(level, "write", {"queries", "keys", "values"})
        return LevelBytes(read, written, -(-tally.level_bits(level.name) // 8))

    return {level.name: counted(level) for level in chip.memory[1:]}


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
            role = graph.tensors[use.tensor].role
            if use.tensor in seen and not (op.kind == "Linear" and role == "weight"):  # pieces of a linear read parts of one weight
                continue
            seen.add(use.tensor)
            tensor = golden[op.name].inputs[index]
            if op.kind == "Embedding" and role == "weight":
                yield sum(weight_bytes(tensor.gathered(golden[op.name].inputs[0].values)))
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
