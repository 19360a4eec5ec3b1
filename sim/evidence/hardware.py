"""Which chip a table of measurements means: names as laboratories write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from hwmodels import chip_names, load_chip, with_values
from hwmodels.chip import Chip

_POWER_LIMIT = re.compile(r"(?P<board>.+?)\s*\((?P<watts>[0-9]+(?:\.[0-9]+)?) W power limit\)")


def plain(name: str) -> str:
    """A name without what laboratories write differently: case, spaces, `-`, `_` and a leading NVIDIA."""
    return re.sub(r"[\s_-]", "", name).casefold().removeprefix("nvidia")


class Hardware:
    """Chips by their names and aliases: those of the library, and before them `more` (names or files of one's own).

    Raises `BadInput` for a chip of `more` that cannot be loaded.
    """

    def __init__(self, more: Iterable[str | Path | Chip] = ()) -> None:
        own = [each if isinstance(each, Chip) else load_chip(each) for each in more]
        self._chips = {plain(name): chip for chip in (*library(), *reversed(own)) for name in (chip.name, *chip.aliases)}

    def find(self, name: str) -> Chip | None:
        """The chip of that name; `NAME (330 W power limit)` is that board with another TDP."""
        chip = self._chips.get(plain(name))
        limited = _POWER_LIMIT.fullmatch(name.strip())
        if chip is None and limited is not None:
            board = self._chips.get(plain(limited["board"]))
            if board is not None and board.tdp_w is not None:
                return with_values(board, {"tdp": float(limited["watts"])})
        return chip


@lru_cache(maxsize=1)
def library() -> tuple[Chip, ...]:
    """All chips of the library."""
    return tuple(load_chip(name) for name in chip_names())
