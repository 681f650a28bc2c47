"""Which slots step next. Pure logic: no torch, no clock, no threads.

    while batch := scheduler.next():
        engines[batch.engine].step(batch.slots)
        done = scheduler.collect()

Every task is ranked once, by the time it was admitted less the head start of its priority, and the lowest rank goes first. So a bulk task
is overtaken only by tasks admitted within the head start after it, a finite number: nobody starves, and what has begun is finished before
what came later. The first in rank chooses the batch; those that may share its model call fill what is left of the budget. No batch waits
to be filled.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Generic, Protocol, TypeVar

from api_schemas.requests import Priority

HEAD_START_S: Mapping[Priority, float] = {Priority.INTERACTIVE: 120.0, Priority.STANDARD: 30.0, Priority.BULK: 0.0}


class Steppable(Protocol):
    """What the scheduler looks at in a slot."""

    @property
    def batch_key(self) -> Hashable:
        """Slots of one engine with equal keys may share a model call."""
        ...

    @property
    def done(self) -> bool:
        """Whether no step is left to run."""
        ...


S = TypeVar("S", bound=Steppable)


@dataclass(frozen=True, eq=False)
class Task(Generic[S]):
    """A slot and what ranks it. One job may have several, one for each picture."""

    job_id: str
    """What its tasks are dropped by: one job's, or one execution's of it."""
    engine: str
    """The name of the engine that the slot belongs to."""
    priority: Priority
    admitted_at: float
    """When this worker took it, in seconds of any clock that all tasks share. Not when the caller asked: the jobs of a long bulk backlog
    would all be old, and outrank every new interactive job."""
    slot: S


@dataclass(frozen=True, eq=False)
class Batch(Generic[S]):
    """The next model call: at least one slot of one engine, all with one batch key, in rank order."""

    engine: str
    tasks: tuple[Task[S], ...]

    @property
    def slots(self) -> list[S]:
        """The slots, as ``Engine.step`` takes them."""
        return [task.slot for task in self.tasks]


class Scheduler(Generic[S]):
    """The tasks in flight, and whose turn it is. Used by the engine thread alone."""

    def __init__(self, budgets: Mapping[str, int], *, head_start_s: Mapping[Priority, float] = HEAD_START_S) -> None:
        """``budgets``: for each engine by name, the slots that one step may take (``Engine.max_rows``)."""
        self._budgets: dict[str, int] = {}
        self._head_start_s = head_start_s
        self._ranks: dict[Task[S], tuple[float, int]] = {}
        self._arrivals = count()
        for engine, rows in budgets.items():
            self.set_budget(engine, rows)

    def __len__(self) -> int:
        """Tasks in flight."""
        return len(self._ranks)

    def set_budget(self, engine: str, rows: int) -> None:
        """Let one step of ``engine`` take at most ``rows`` slots, from the next batch on. Raises ``ValueError`` below 1."""
        if rows < 1:
            raise ValueError(f"{engine}: a budget of {rows} slots would never step")
        self._budgets[engine] = rows

    def room(self, engine: str) -> int:
        """Slots that could be added for ``engine`` and step at once if they shared its batch key; 0 where it has all it can take."""
        return max(self._budgets[engine] - sum(task.engine == engine for task in self._ranks), 0)

    def add(self, task: Task[S]) -> None:
        """Take in ``task``: it may be in the very next batch. Raises ``KeyError`` for an engine without a budget."""
        if task.engine not in self._budgets:
            raise KeyError(task.engine)
        self._ranks[task] = (task.admitted_at - self._head_start_s[task.priority], next(self._arrivals))

    def remove(self, job_id: str) -> list[Task[S]]:
        """Drop the tasks of ``job_id`` and return them; none if it has finished or was never added."""
        return self._take([task for task in self._ranks if task.job_id == job_id])

    def next(self) -> Batch[S] | None:
        """The batch to step now, or ``None`` if no task has a step left."""
        ready = sorted((task for task in self._ranks if not task.slot.done), key=self._ranks.__getitem__)
        if not ready:
            return None
        first = ready[0]
        mates = [task for task in ready if task.engine == first.engine and task.slot.batch_key == first.slot.batch_key]
        return Batch(first.engine, tuple(mates[: self._budgets[first.engine]]))

    def collect(self) -> list[Task[S]]:
        """Drop the tasks whose slots are done, failed ones too, and return them in rank order."""
        return self._take(sorted((task for task in self._ranks if task.slot.done), key=self._ranks.__getitem__))

    def _take(self, tasks: list[Task[S]]) -> list[Task[S]]:
        for task in tasks:
            del self._ranks[task]
        return tasks
