"""Runs items one after another, each under its own deadline, and answers for every one that it began."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from scripts.gpu_facts.answers import CUT, Answers
from scripts.gpu_facts.findings import Deadline, DeadlineOver, Findings, Refused, is_fatal, said

S = TypeVar("S")
GO_ON = 75
"""Exit status: this process could not be used any further; the next one goes on with the next item."""
GRACE_S = 10.0
"""Beyond its deadline that an item gets to come out of a call, before its process is ended."""


@dataclass(frozen=True)
class Item(Generic[S]):
    """One question to the device. ``run`` is given the stage and notes what it finds."""

    number: int
    name: str
    seconds: float
    """Expected. With less of the budget left it is not begun."""
    decides: str
    run: Callable[[S, Findings], None]

    @property
    def deadline_s(self) -> float:
        """Seconds after which it is stopped."""
        return 1.5 * self.seconds + 5.0


class Stage(Protocol):
    """The ground of items, as far as the runner is concerned."""

    rehearsal: bool

    def release(self) -> None:
        """Let go of what an item left behind."""
        ...


T = TypeVar("T", bound=Stage)


class Runner(Generic[T]):
    """Runs the items of one process. Told to stop by its budget, by the last item, or by an item that breaks the device."""

    def __init__(
        self,
        stage: T,
        answers: Answers,
        *,
        budget_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], object] = os._exit,
        grace_s: float = GRACE_S,
    ) -> None:
        """``end`` is how the watchdog ends the process."""
        self._stage, self._answers = stage, answers
        self._budget = Deadline(budget_s, clock) if budget_s is not None else None
        self._clock, self._end, self._grace_s = clock, end, grace_s

    def run(self, items: Sequence[Item[T]]) -> int:
        """Run those that have no answer yet; the exit status: 0, or ``GO_ON`` where another process must run the rest."""
        for item in items:
            if self._answers.has_answer(item.number):
                continue
            if self._budget is not None and self._budget.left_s < item.seconds:
                left_s = max(self._budget.left_s, 0.0)
                print(f"item {item.number} is not begun: {left_s:.0f} s of the budget are left, it takes {item.seconds:.0f}", flush=True)
                continue
            if self._answers.begin(item.number, item.name) and not self._run(item):
                return GO_ON
        return 0

    def _run(self, item: Item[T]) -> bool:
        """Run one item and answer for it; false where the device cannot be used any more."""
        findings = Findings(self._deadline(item))
        print(f"item {item.number}, {item.name}: up to {findings.deadline.seconds:.0f} s", flush=True)
        usable = True
        with self._watched(item, findings):
            try:
                item.run(self._stage, findings)
            except DeadlineOver as over:
                self._answer(item, findings, _stopped(item, findings), str(over))
            except Refused as refusal:
                self._answer(item, findings, "refused", str(refusal))
            except ModuleNotFoundError as missing:
                self._answer(item, findings, "refused", f"the package {missing.name} is not installed")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                usable = not is_fatal(error)
                self._answer(item, findings, "failed", said(error))
            else:
                self._answer(item, findings, *_verdict(findings))
        return usable and self._released()

    def _deadline(self, item: Item[T]) -> Deadline:
        """Its own, or what is left of the budget."""
        left_s = self._budget.left_s if self._budget is not None else item.deadline_s
        return Deadline(min(item.deadline_s, left_s), self._clock)

    def _released(self) -> bool:
        """False where the device does not let go of what the item left behind."""
        try:
            self._stage.release()
        except Exception as error:
            print(f"the device cannot be used any more: {said(error)}", flush=True)
            return False
        return True

    def _answer(self, item: Item[T], findings: Findings, answer: str, reason: str | None = None) -> None:
        details = ({"reason": reason} if reason else {}) | findings.details(rehearsal=self._stage.rehearsal)
        if self._answers.answer(item.number, item.name, answer, details):
            print(f"item {item.number}: {answer}{f', {reason}' if reason else ''} ({details['seconds']} s)", flush=True)

    @contextmanager
    def _watched(self, item: Item[T], findings: Findings) -> Iterator[None]:
        """The last resort: an item that does not come back loses its process, not what it has found."""
        over = threading.Event()

        def watch() -> None:
            if not over.wait(findings.deadline.seconds + self._grace_s):
                self._answer(item, findings, _stopped(item, findings), "it did not come back, and its process was ended")
                self._end(GO_ON)

        thread = threading.Thread(target=watch, name=f"watchdog of item {item.number}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _stopped(item: Item[T], findings: Findings) -> str:
    """The answer of an item whose time was over: ``CUT`` where that was the budget's."""
    return CUT if findings.deadline.seconds < item.deadline_s else "deadline"


def _verdict(findings: Findings) -> tuple[str, str | None]:
    """Of an item that ran through: measured where it has figures, else refused or failed for the reasons of its parts."""
    if findings.figures or findings.words:
        return "measured", None
    if findings.faults:
        return "failed", "; ".join(f"{name}: {reason}" for name, reason in findings.faults.items())
    return "refused", "; ".join(f"{name}: {reason}" for name, reason in findings.refused.items()) or "it found nothing to measure"
