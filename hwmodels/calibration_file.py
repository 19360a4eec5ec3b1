"""The calibration file as pydantic models; only `hwmodels.technology` imports this module, when it reads a file."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from annotated_types import Ge, Gt, Le, MinLen

from hwmodels.chip import Provenance
from hwmodels.schema import Fields, Quantity
from hwmodels.technology import (
    AttentionConstants,
    Calibration,
    GemmConstants,
    Generation,
    KernelConstants,
    StreamConstants,
    WarmConstants,
)

Value = TypeVar("Value")
Seconds = Annotated[float, Quantity("time", may_be_zero=True)]
Joules = Annotated[float, Quantity("energy")]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Gt(0), Le(1)]
Exponent = Annotated[float, Ge(1)]


class Constant(Fields, Generic[Value]):
    """A number that is not the file's own fit, with its source."""

    value: Value
    source: Annotated[str, MinLen(1)]
    standing: Literal["fitted", "assumed", "datasheet", "measured"]


class GenerationFields(Fields):
    """Tensor cores of one generation and process."""

    energy: Constant[Joules]
    asynchronous: bool


class DramFields(Fields):
    """Share of the datasheet's bandwidth that kernels reach: as it is, and where ECC lies inline."""

    sustained: Constant[Share] | None = None
    sustained_inline_ecc: Constant[Share] | None = None


class GemmFields(Fields):
    """See `GemmConstants`."""

    launch: Seconds
    l2_bytes_per_clock: Positive
    fill: Positive
    split: Seconds
    p: Exponent


class AttentionFields(Fields):
    """See `AttentionConstants`."""

    prefill_launch: Seconds
    decode_launch: Seconds
    split: Seconds
    item: Seconds
    exponentials_per_clock: Constant[Positive]
    softmax_ops: Positive
    overlap_p: Exponent
    prefill_p: Exponent
    decode_p: Exponent
    partial_wave: Positive


class StreamFields(Fields):
    """See `StreamConstants`."""

    launch: Seconds
    element_clocks: Positive
    operation_clocks: Positive
    row_clocks: Positive
    l2_share: Share
    dequantise_ops: Positive
    p: Exponent


class WarmFields(Fields):
    """See `WarmConstants`."""

    bytes_per_clock: Positive
    l2_share: Share


class CalibrationFile(Fields):
    """Numbers without a source of their own were fitted on `data` on `date`; `residual` says how well, per kind of kernel."""

    name: Annotated[str, MinLen(1)]
    data: Annotated[list[str], MinLen(1)]
    date: Annotated[str, MinLen(1)]
    residual: Annotated[dict[str, str], MinLen(1)]
    generations: Annotated[dict[str, GenerationFields], MinLen(1)]
    dram: Annotated[dict[str, DramFields], MinLen(1)]
    gemm: GemmFields
    attention: AttentionFields
    stream: StreamFields
    warm: WarmFields

    def build(self) -> Calibration:
        """The constants as plain dataclasses."""
        g, a, s, w = self.gemm, self.attention, self.stream, self.warm
        kernels = KernelConstants(
            GemmConstants(g.launch, g.l2_bytes_per_clock, g.fill, g.split, g.p),
            AttentionConstants(
                a.prefill_launch,
                a.decode_launch,
                a.split,
                a.item,
                a.exponentials_per_clock.value,
                a.softmax_ops,
                a.overlap_p,
                a.prefill_p,
                a.decode_p,
                a.partial_wave,
            ),
            StreamConstants(s.launch, s.element_clocks, s.operation_clocks, s.row_clocks, s.l2_share, s.dequantise_ops, s.p),
            WarmConstants(w.bytes_per_clock, w.l2_share),
        )
        generations = {name: Generation(each.energy.value, each.asynchronous) for name, each in self.generations.items()}
        dram: dict[tuple[str, bool], float] = {}
        provenance = {f"generations.{name}.energy": _source(each.energy) for name, each in self.generations.items()}
        for name, each in self.dram.items():
            for inline, field, share in ((False, "sustained", each.sustained), (True, "sustained_inline_ecc", each.sustained_inline_ecc)):
                if share is not None:
                    dram[name, inline] = share.value
                    provenance[f"dram.{name}.{field}"] = _source(share)
        fit = Provenance(f"fitted {self.date} on {'; '.join(self.data)}", "fitted")
        for section in ("gemm", "attention", "stream", "warm"):
            for field, value in getattr(self, section):
                provenance[f"{section}.{field}"] = _source(value) if isinstance(value, Constant) else fit
        return Calibration(generations, dram, kernels, provenance)


def _source(constant: Constant[Any]) -> Provenance:
    return Provenance(constant.source, constant.standing)
