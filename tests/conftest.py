"""Random tests draw the same examples in every run and on every machine, however slow it is; each process of a run computes on one core."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: threads of PyTorch and NumPy in each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")
