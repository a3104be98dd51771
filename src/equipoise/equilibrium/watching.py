"""Telling an observer how a solve goes, for a display of progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Seen(NamedTuple):
    """A solve after one of its evaluations.

    Attributes
    ----------
    evaluations
        Number of network evaluations so far; 1 begins another solve.
    bound
        The largest bound of the samples that still iterate; infinite where none is known.
    rtol
        The bound that ends the solve.
    """

    evaluations: int
    bound: float
    rtol: float


Observer = Callable[[Seen], None]

_OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def watched(observer: Observer) -> Iterator[None]:
    """Tell an observer of every evaluation of the solves in a block."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def observer_of_solves() -> Observer | None:
    """The observer of the block that is running; None outside such a block."""
    return _OBSERVER.get()
