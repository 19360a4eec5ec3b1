"""Small products of matrices on one thread: a search makes thousands of them, each too short to share. On two threads a sweep over arrays
takes half as long again, and the widest GEMMs twice as long."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

_Asked = ParamSpec("_Asked")
_Found = TypeVar("_Found")


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    """Of the libraries that are loaded when it is first asked for, NumPy's among them; finding them takes a millisecond."""
    return ThreadpoolController()


def on_one_thread(function: Callable[_Asked, _Found]) -> Callable[_Asked, _Found]:
    """A function while which NumPy's products run on one thread; threads that others asked for are theirs again after it."""

    @wraps(function)
    def run(*args: _Asked.args, **kwargs: _Asked.kwargs) -> _Found:
        with _controller().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return run
