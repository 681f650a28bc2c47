"""Figures that one item has found so far, and the time that it has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

UNITS = ("ms", "s", "us", "gib", "mib", "share", "ratio", "count", "tflop", "error", "levels", "percent", "per_s", "bool", "bytes")
"""Ends of figures' names."""


class Refused(Exception):
    """A measurement that this machine cannot make; the message says what is missing."""


class DeadlineOver(Exception):
    """The time of an item is over. What it has found until then stands."""


class Deadline:
    """So many seconds from now on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began = clock()

    @property
    def spent_s(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began

    @property
    def left_s(self) -> float:
        """Seconds left; negative where it is over."""
        return self.seconds - self.spent_s

    def check(self) -> None:
        """Raise ``DeadlineOver`` where it is over."""
        if self.left_s <= 0:
            raise DeadlineOver(f"its {self.seconds:.0f} s were over")


class Findings:
    """Figures as they come. A CUDA call cannot be interrupted, so the deadline is looked at after each figure."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.figures: dict[str, float | None] = {}
        self.words: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.faults: dict[str, str] = {}

    def add(self, name: str, value: float) -> None:
        """Note a figure, whose name ends with its unit. Raises ``DeadlineOver``, with the figure noted, and ``ValueError`` without a unit.

        What is not finite is noted as ``None``: JSON has no word for it.
        """
        self.add_all({name: value})

    def add_all(self, figures: Mapping[str, float]) -> None:
        """Note figures that came at once. As ``add``."""
        for name, value in figures.items():
            if not name.endswith(tuple(f"_{unit}" for unit in UNITS)):
                raise ValueError(f"{name} does not end with a unit: {', '.join(UNITS)}")
            self.figures[name] = round(float(value), 6) if math.isfinite(value) else None
        self.deadline.check()

    def say(self, name: str, words: str) -> None:
        """Note what is no number: the name of a kernel, the words of an error."""
        self.words[name] = " ".join(words.split())[:400]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around a part whose failure is no reason to leave the others out."""
        self.deadline.check()
        try:
            yield
        except DeadlineOver:
            raise
        except Refused as refusal:
            self.refused[name] = str(refusal)
        except ModuleNotFoundError as missing:
            self.refused[name] = f"the package {missing.name} is not installed"
        except Exception as error:
            if is_fatal(error):
                raise
            self.faults[name] = said(error)

    def details(self, *, rehearsal: bool) -> dict[str, Any]:
        """For the answer. In a rehearsal no figure is claimed: what was computed stands under another name."""
        noted: Mapping[str, Any] = {
            "rehearsed" if rehearsal else "figures": dict(self.figures),
            "words": dict(self.words),
            "refused": dict(self.refused),
            "faults": dict(self.faults),
        }
        return {name: value for name, value in noted.items() if value} | {"seconds": round(self.deadline.spent_s, 2)}


def is_fatal(error: BaseException) -> bool:
    """True for an error after which the device answers no call of this process (torch's ``AcceleratorError``)."""
    return type(error).__name__ in ("AcceleratorError", "DeviceBroken") and "out of memory" not in str(error)


def said(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]
