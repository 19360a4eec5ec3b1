"""Published figures that come with the package: tidy tables whose rows cite where they were printed."""

from __future__ import annotations

from pathlib import Path

import hwmodels

_TABLES = Path(hwmodels.__file__).parent / "library" / "published"


def published_tables() -> list[Path]:
    """The tables, sorted by name."""
    return sorted(_TABLES.glob("*.csv"))
