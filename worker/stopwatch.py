"""The time of one thread by phase: at any moment it is in exactly one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

Phase = Literal["encode", "step", "decode"]
"""The phases of an engine's work. All else that the thread does, waiting for work included, is idle."""
Doing: TypeAlias = tuple[str, str]
"""A model and a phase."""
IDLE: Doing = ("", "idle")


class Stopwatch:
    """Seconds by model and phase, of one thread; any thread may read them.

    The seconds of all phases add up to the time since it began.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._spent: dict[Doing, float] = {}
        self._doing, self._since = IDLE, clock()

    @contextmanager
    def during(self, model: str, phase: Phase) -> Iterator[None]:
        """Around a call of an engine: its time is that of ``phase``, and no longer idle."""
        before = self._doing
        self._turn_to((model, phase))
        try:
            yield
        finally:
            self._turn_to(before)

    def seconds(self) -> dict[Doing, float]:
        """The seconds so far, those of what is being done now included."""
        with self._lock:
            return self._spent_until(self._clock())

    def call_s(self) -> float:
        """The age of the engine call that is under way; 0 where there is none."""
        with self._lock:
            return 0.0 if self._doing == IDLE else self._clock() - self._since

    def _turn_to(self, doing: Doing) -> None:
        with self._lock:
            now = self._clock()
            self._spent = self._spent_until(now)
            self._doing, self._since = doing, now

    def _spent_until(self, now: float) -> dict[Doing, float]:
        return {**self._spent, self._doing: self._spent.get(self._doing, 0.0) + now - self._since}
