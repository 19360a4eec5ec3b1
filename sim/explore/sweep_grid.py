"""The points of a sweep in boxes: contiguous runs of points that share chip, workload and choices, small enough for a processor's cache.

Points are numbered with the chip varying slowest, then workload, choices and numbers, the last of these fastest. Boxes depend on the sweep
alone, so that neither the size of a chunk nor the number of workers changes what is evaluated together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwmodels.chip import Chip
from hwmodels.paths import with_values
from hwmodels.technology import technology_of
from sim.explore.choices import with_choice
from sim.explore.many import parts_families
from sim.explore.step import Step
from sim.explore.sweep_file import Sweep

VECTOR_BOX = 2**16
"""Points of a box that is evaluated as arrays."""

FAMILY_BOX = 2**12
"""Points of a box whose chips share the search for their mappings."""

OF_A_FAMILY = 2**6
"""As many points as those that share nothing with others are counted: a point that an engine takes by itself is a family of its own."""


@dataclass(frozen=True, slots=True)
class Box:
    """Points `start` and following of a sweep: one chip, step and choice, and for each dimension of numbers a range of indices."""

    start: int
    chip_index: int
    step: Step
    choice: tuple[int, ...]
    ranges: tuple[range, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(each) for each in self.ranges)

    @property
    def points(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Grid:
    """How the points of a sweep fall into boxes."""

    sweep: Sweep

    @cached_property
    def outer(self) -> int:
        """Combinations of chip, workload and choices."""
        return len(self.sweep.chips) * len(self.sweep.steps) * math.prod(self._choice_lengths)

    @property
    def _choice_lengths(self) -> tuple[int, ...]:
        return tuple(len(dimension[0]) for dimension in self.sweep.choices)

    @cached_property
    def parts_families(self) -> tuple[bool, ...]:
        """Whether chips that differ along a dimension of numbers are timed apart from each other."""
        sweep = self.sweep
        if sweep.engine == "roofline":
            return (False,) * len(sweep.numbers)
        alone = sweep.engine != "tiled" or any(technology_of(chip) is not None for chip in sweep.chips)
        return tuple(alone or any(parts_families(axis.path) for axis in dimension) for dimension in sweep.numbers)

    @cached_property
    def _split(self) -> tuple[int, int]:
        """The dimension along which boxes are cut, and how many of its indices one box takes; all later dimensions are whole."""
        is_roofline, shape = self.sweep.engine == "roofline", self.sweep.shape
        most = VECTOR_BOX if is_roofline else FAMILY_BOX
        for axis in range(len(shape)):
            inside = math.prod(shape[axis + 1 :])
            families = 0 if is_roofline else OF_A_FAMILY * math.prod(
                length for length, parts in zip(shape[axis + 1 :], self.parts_families[axis + 1 :], strict=True) if parts
            )
            if max(inside, families) <= most:
                step = most // max(inside, families if self.parts_families[axis] else 1)
                return axis, min(shape[axis], max(1, step))
        return -1, 1

    @cached_property
    def boxes_per_outer(self) -> int:
        axis, step = self._split
        return 1 if axis < 0 else math.prod(self.sweep.shape[:axis]) * -(-self.sweep.shape[axis] // step)

    @property
    def boxes(self) -> int:
        return self.outer * self.boxes_per_outer

    @property
    def largest_box(self) -> int:
        axis, step = self._split
        return 1 if axis < 0 else step * math.prod(self.sweep.shape[axis + 1 :])

    def box(self, number: int) -> Box:
        """The box of that number."""
        outer, inner = divmod(number, self.boxes_per_outer)
        chip, step, *choice = np.unravel_index(outer, (len(self.sweep.chips), len(self.sweep.steps), *self._choice_lengths))
        shape = self.sweep.shape
        axis, size = self._split
        if axis < 0:
            ranges: tuple[range, ...] = ()
        else:
            *leading, piece = np.unravel_index(inner, (*shape[:axis], -(-shape[axis] // size)))
            cut = range(int(piece) * size, min(shape[axis], (int(piece) + 1) * size))
            ranges = (*(range(int(i), int(i) + 1) for i in leading), cut, *(range(length) for length in shape[axis + 1 :]))
        first = np.ravel_multi_index([each.start for each in ranges], shape) if ranges else 0
        start = outer * math.prod(shape) + int(first)
        return Box(start, int(chip), self.sweep.steps[int(step)], tuple(int(i) for i in choice), ranges)

    def chip(self, box: Box) -> Chip:
        """The box's chip with its choices made; raises `BadInput` for a number that no chip can have."""
        chip = self.sweep.chips[box.chip_index]
        for dimension, at in zip(self.sweep.choices, box.choice, strict=True):
            for axis in dimension:
                value = axis.values[at]
                if isinstance(axis.values, tuple):
                    chip = with_choice(chip, axis.path, value)  # type: ignore[arg-type]
                else:
                    chip = with_values(chip, {axis.path: float(value)})
        return chip
