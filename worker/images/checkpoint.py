"""Points in long work on a picture at which it can be stopped: its job is canceled or late, or has taken more than its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_wanted: ContextVar[Callable[[], None] | None] = ContextVar("wanted", default=None)


def checkpoint() -> None:
    """Raise what says that the work of this thread is not wanted any more; between steps that take a good part of a second."""
    if (wanted := _wanted.get()) is not None:
        wanted()


@contextmanager
def stopped_by(wanted: Callable[[], None]) -> Iterator[None]:
    """Let ``wanted`` raise at the checkpoints of this thread meanwhile."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)
