"""The engine thread: the only one that touches a model. Many jobs advance together, one step at a time."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from api_schemas.errors import DeadlineExceeded, EngineFailed, OutfillError
from worker.engines.base import Engine, Slot
from worker.metrics import WorkerMetrics
from worker.scheduler import Batch, Scheduler, Task
from worker.work import Work

_log = structlog.get_logger(__name__)
_IDLE_S = 0.2


@dataclass(frozen=True)
class Ends:
    """Where a job goes from here."""

    painted: Callable[[Work], None]
    failed: Callable[[Work, OutfillError], None]
    canceled: Callable[[Work], None]
    given_back: Callable[[Work], None]


class Painter:
    """Takes prepared jobs from ``inbox`` and paints them."""

    def __init__(self, engines: Mapping[str, Engine], ends: Ends, metrics: WorkerMetrics) -> None:
        self.inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._engines = engines
        self._ends = ends
        self._metrics = metrics
        self._scheduler: Scheduler[Slot] = Scheduler({name: engine.max_rows for name, engine in engines.items()})
        self._painting: dict[str, Work] = {}
        self._step_began: float | None = None
        self._draining = self._abandoning = self._stopped = False

    # -- told by other threads ----------------------------------------------------------------------------------------------------

    def drain(self, *, abandon: bool) -> None:
        """Begin no more jobs; with ``abandon`` give back those that are being painted too."""
        self._draining = True
        self._abandoning |= abandon

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True

    def stalled_s(self) -> float:
        """How long the current model call has taken."""
        began = self._step_began
        return time.monotonic() - began if began is not None else 0.0

    # -- the thread ---------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Paint until stopped."""
        while not self._stopped:
            self._admit()
            self._drop()
            batch = self._scheduler.next()
            if batch is not None:
                self._step(batch)
            self._finish(self._scheduler.collect())

    def _admit(self) -> None:
        """Take in what has arrived; wait a little where there is nothing else to do."""
        while True:
            try:
                work = self.inbox.get_nowait() if self._painting else self.inbox.get(timeout=_IDLE_S)
            except queue.Empty:
                return
            if self._draining:
                self._ends.given_back(work)
            elif work.canceled.is_set():
                self._ends.canceled(work)
            elif work.overdue:
                self._ends.failed(work, _too_late())
            else:
                self._begin(work)

    def _begin(self, work: Work) -> None:
        engine = self._engines[work.spec.model]
        if work.plan is None:
            raise ValueError("a job is planned before it is painted")
        try:
            work.slots = [engine.prepare(request) for request in work.plan.requests]
        except Exception as error:
            _log.exception("prepare_failed", job=work.spec.id, model=work.spec.model)
            self._ends.failed(work, error if isinstance(error, OutfillError) else EngineFailed("the model could not take the picture"))
            return
        self._painting[work.key] = work
        for slot in work.slots:
            self._scheduler.add(Task(work.key, work.spec.model, work.spec.request.priority, time.monotonic(), slot))

    def _drop(self) -> None:
        """Take out what nobody wants any more; its neighbours go on."""
        for work in list(self._painting.values()):
            if work.canceled.is_set():
                self._leave(work, self._ends.canceled)
            elif work.overdue:
                self._leave(work, lambda work: self._ends.failed(work, _too_late()))
            elif self._abandoning:
                self._leave(work, self._ends.given_back)

    def _leave(self, work: Work, end: Callable[[Work], None]) -> None:
        self._scheduler.remove(work.key)
        del self._painting[work.key]
        end(work)

    def _step(self, batch: Batch[Slot]) -> None:
        self._metrics.batch.labels(batch.engine).observe(len(batch.slots))
        began = self._step_began = time.monotonic()
        try:
            self._call(self._engines[batch.engine], batch.slots)
        finally:
            self._step_began = None
        self._metrics.step.labels(batch.engine).observe(time.monotonic() - began)

    def _call(self, engine: Engine, slots: Sequence[Slot]) -> None:
        try:
            engine.step(slots)
        except Exception as error:
            if len(slots) == 1:
                _log.exception("step_failed", model=engine.card.id)
                slots[0].error = error
                return
            _log.warning("batch_failed_stepping_alone", model=engine.card.id, slots=len(slots), error=repr(error))
            for slot in slots:
                self._call(engine, [slot])

    def _finish(self, tasks: Sequence[Task[Slot]]) -> None:
        """Decode what is done and pass on the jobs whose pictures are all there."""
        for name, engine in self._engines.items():
            done = [task for task in tasks if task.engine == name and task.job_id in self._painting]
            self._decode(engine, [task for task in done if task.slot.error is None])
            for task in done:
                if task.slot.error is not None and (work := self._painting.get(task.job_id)) is not None:
                    error = task.slot.error
                    failure = error if isinstance(error, OutfillError) else EngineFailed("the model failed on this picture")
                    self._leave(work, lambda work, failure=failure: self._ends.failed(work, failure))  # type: ignore[misc]
        for work in list(self._painting.values()):
            if len(work.painted) == len(work.slots):
                self._leave(work, self._ends.painted)

    def _decode(self, engine: Engine, tasks: Sequence[Task[Slot]]) -> None:
        if not tasks:
            return
        try:
            pictures = engine.finish([task.slot for task in tasks])
        except Exception as error:
            if len(tasks) == 1:
                _log.exception("decode_failed", model=engine.card.id)
                tasks[0].slot.error = error
                return
            for task in tasks:
                self._decode(engine, [task])
            return
        for task, pixels in zip(tasks, pictures, strict=True):
            if task.slot.error is None:
                work = self._painting[task.job_id]
                work.painted[work.slots.index(task.slot)] = pixels


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the job was being worked on")
