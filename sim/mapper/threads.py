"""Small products of matrices on one thread: a search makes thousands of them, each too short to share. On two threads a sweep over arrays
takes half as long again, and the widest GEMMs twice as long. And memory that is freed is kept for the next of thousands of arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import numpy as np
from threadpoolctl import LibController, ThreadpoolController

_Asked = ParamSpec("_Asked")
_Found = TypeVar("_Found")


@lru_cache(maxsize=1)
def _libraries() -> list[LibController]:
    """Those for linear algebra that are loaded when it is first asked for, NumPy's among them; finding them takes a millisecond."""
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Free one large block, which is never touched. glibc gives larger ones than it has seen freed back to the system (mallopt(3), on
    M_MMAP_THRESHOLD), and first touches of their pages, array after array, took a twentieth of the searches for a model's GEMMs."""
    np.empty(2**24, dtype=np.uint8)


def on_one_thread(function: Callable[_Asked, _Found]) -> Callable[_Asked, _Found]:
    """A function while which NumPy's products run on one thread; threads that others asked for are theirs again after it."""

    @wraps(function)
    def run(*args: _Asked.args, **kwargs: _Asked.kwargs) -> _Found:
        _keep_freed_memory()
        before = [(library, library.get_num_threads()) for library in _libraries()]
        several = [(library, threads) for library, threads in before if threads != 1]
        for library, _ in several:
            library.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            for library, threads in several:
                library.set_num_threads(threads)

    return run
