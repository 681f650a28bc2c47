"""The engine thread: the only one that touches a model. Many jobs advance together, one step at a time.

Where the device runs out of memory, less is asked of it: in a step, the engine's budget is halved and the slots go on in smaller batches; in
``start``, jobs are begun one at a time, and one that has no room even so waits until those before it have left; in ``finish``, pictures are decoded
one at a time.
What does not fit even alone fails that one job.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import structlog

from api_schemas.errors import DeadlineExceeded, EngineFailed, OutfillError
from worker.engines.base import Engine, OutOfMemory, PaintRequest, Pixels, Slot, WarmUp
from worker.metrics import WorkerMetrics
from worker.scheduler import Batch, Scheduler, Task
from worker.stopwatch import Phase
from worker.tuning import TuningRefused
from worker.work import Work

_log = structlog.get_logger(__name__)
TURN_S = 30.0
"""Seconds by which the next job of a tenant stands back for each of its jobs that is painted already."""
_IDLE_S = 0.2
PREVIEW_STEPS = 4
"""Steps from one preview of a picture to the next."""


@dataclass(frozen=True)
class Ends:
    """Where a job goes from here."""

    painted: Callable[[Work], None]
    failed: Callable[[Work, OutfillError], None]
    canceled: Callable[[Work], None]
    given_back: Callable[[Work], None]


class Painter:
    """Warms the engines up, then takes prepared jobs from ``inbox`` and paints them: all in one thread.

    Plans, handles and graphs that CUDA's libraries keep belong to the thread that made them.
    """

    def __init__(
        self, engines: Mapping[str, Engine], ends: Ends, metrics: WorkerMetrics, *, previewed: Callable[[Work, Pixels], None]
    ) -> None:
        """``previewed`` is given small pictures of jobs that asked for them; it must return at once."""
        self.inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.warm_ups: dict[str, WarmUp] = {}
        """The findings of each engine's warm-up, once they are warm."""
        self._engines = engines
        self._ends = ends
        self._previewed = previewed
        self._metrics = metrics
        self._scheduler: Scheduler[Slot] = Scheduler({name: engine.budget for name, engine in engines.items()})
        self._settled = threading.Event()
        self._warm_up_error: Exception | None = None
        self._waiting: deque[Work] = deque()
        self._crowded: Work | None = None
        """The one of those waiting, always the first, that found no room beside what was being painted."""
        self._painting: dict[str, Work] = {}
        self._admitted: dict[str, float] = {}
        self._stopwatch = metrics.engines.stopwatch
        self._draining = self._abandoning = self._stopped = False
        metrics.engines.watch(engines)
        for name in engines:
            metrics.out_of_memory.labels(name)
            metrics.rows.labels(name)

    # -- told by other threads ----------------------------------------------------------------------------------------------------

    def drain(self, *, abandon: bool) -> None:
        """Begin no more jobs; with ``abandon`` give back those that were begun too."""
        self._draining = True
        self._abandoning |= abandon

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True

    def is_warm(self, *, wait_s: float = 0.0) -> bool:
        """Return whether jobs may come, after at most ``wait_s``. Raises the error of a warm-up that failed."""
        done = self._settled.wait(wait_s)
        if self._warm_up_error is not None:
            raise self._warm_up_error
        return done

    @property
    def is_settled(self) -> bool:
        """Whether the warm-up is over, well or not: from then on ``stop`` is heeded within a turn."""
        return self._settled.is_set()

    def stalled_s(self) -> float:
        """How long the current call of an engine has taken."""
        return self._stopwatch.call_s()

    # -- the thread ---------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Warm up, then paint until stopped. A warm-up that fails is the end; ``is_warm`` tells of it."""
        try:
            self._warm_up()
        except Exception as error:
            self._warm_up_error = error
            self._settled.set()
            return
        self._settled.set()
        while not self._stopped:
            self._turn()

    def _warm_up(self) -> None:
        """Let all engines measure what they may take, once the weights of all are on the device."""
        for name, engine in self._engines.items():
            with self._metrics.warm_up.labels(name).time():
                self.warm_ups[name] = _warmed_up(name, engine)
        budgets = {name: engine.budget for name, engine in self._engines.items()}
        self._scheduler = Scheduler(budgets)
        for name, budget in budgets.items():
            self._metrics.row_budget.labels(name).set(budget)

    def _turn(self) -> None:
        # A function of its own, so that no name in it keeps slots, and what they have on the device, beyond the turn.
        self._receive()
        self._drop()
        self._admit()
        batch = self._scheduler.next()
        if batch is not None:
            self._step(batch)
            self._show(batch)
        self._finish(self._scheduler.collect())

    def _receive(self) -> None:
        """Take in what has arrived; wait a little where there is nothing else to do."""
        while True:
            try:
                idle = not self._painting and not self._waiting
                self._waiting.append(self.inbox.get(timeout=_IDLE_S) if idle else self.inbox.get_nowait())
            except queue.Empty:
                return

    def _drop(self) -> None:
        """Take out what nobody wants any more; its neighbours go on."""
        for work in [*self._waiting, *self._painting.values()]:
            if work.canceled.is_set():
                self._leave(work, self._ends.canceled)
            elif work.overdue:
                self._leave(work, lambda work: self._ends.failed(work, _too_late()))
            elif self._abandoning or (self._draining and work.key not in self._painting and not work.begun):
                self._leave(work, self._ends.given_back)

    def _leave(self, work: Work, end: Callable[[Work], None]) -> None:
        if work.key in self._painting:
            self._scheduler.remove(work.key)
            del self._painting[work.key]
            work.release()
        else:
            self._waiting.remove(work)
        end(work)

    def _admit(self) -> None:
        """Begin those waiting, in turn. What found no room is first in turn, so that it does not wait for ever, and needs to be alone."""
        while self._waiting and not (self._waiting[0] is self._crowded and self._painting):
            first = self._waiting[0]
            alike = [work for work in self._waiting if work.spec.model == first.spec.model]
            self._begin([first] if first is self._crowded else alike)

    def _begin(self, works: Sequence[Work]) -> None:
        """Begin jobs of one model at once; where that fails, one after the other, so that it fails nobody but whose fault it is."""
        model = works[0].spec.model
        try:
            with self._watched(model, "encode"):
                slots = self._engines[model].start([prepared for work in works for prepared in work.prepared])
        except Exception as error:
            no_room, jobs = isinstance(error, OutOfMemory), [work.spec.id for work in works]
            if no_room:
                self._metrics.out_of_memory.labels(model).inc()
            # With a trace only where it is told of one job: what draws traces may hold what is in their frames, and that is what took the room.
            unexpected = error if len(works) == 1 and not no_room and not isinstance(error, OutfillError) else None
            _log.warning("start_failed", model=model, jobs=jobs, painting=len(self._painting), error=repr(error), exc_info=unexpected)
            if len(works) == 1:
                self._begin_failed(works[0], error)
                return
        else:
            for work in works:
                self._enter(work, slots[: len(work.prepared)])
                slots = slots[len(work.prepared) :]
                work.prepared = ()
            return
        for work in works:  # out of the handler: it would keep what the failed call had on the device
            self._begin([work])
            if work is self._crowded:  # those behind it wait with it
                return

    def _begin_failed(self, work: Work, error: Exception) -> None:
        if isinstance(error, OutOfMemory):
            if self._painting:
                self._crowded = work
                return
            error = _no_room(work.requests[0])
        failure = error if isinstance(error, OutfillError) else EngineFailed("the model could not take the picture")
        self._leave(work, lambda work: self._ends.failed(work, failure))

    def _enter(self, work: Work, slots: list[Slot]) -> None:
        self._waiting.remove(work)
        admitted_at = self._admitted_at(work.spec.tenant)
        self._painting[work.key] = work
        work.slots = slots
        for slot in slots:
            self._scheduler.add(Task(work.key, work.spec.model, work.spec.request.priority, admitted_at, slot))

    def _admitted_at(self, tenant: str) -> float:
        """Now, and later by ``TURN_S`` for each job that the tenant has here already: the first of another goes before them. Its own stay in order."""
        own = sum(work.spec.tenant == tenant for work in self._painting.values())
        since = self._admitted.get(tenant, 0.0) if own else 0.0
        self._admitted = {
            each: at for each, at in self._admitted.items() if any(work.spec.tenant == each for work in self._painting.values())
        }
        self._admitted[tenant] = max(time.monotonic() + TURN_S * own, since)
        return self._admitted[tenant]

    def _watched(self, model: str, phase: Phase) -> AbstractContextManager[None]:
        """Around every call of an engine, for the watchdog and the figures of where time goes."""
        return self._stopwatch.during(model, phase)

    # -- steps --------------------------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch[Slot]) -> None:
        self._metrics.batch.labels(batch.engine).observe(len(batch.slots))
        began = time.monotonic()
        try:
            self._call(self._engines[batch.engine], batch.slots)
        except OutOfMemory:
            budget = self._scheduler.ran_out(batch)
            _log.warning("step_out_of_memory", model=batch.engine, slots=len(batch.slots), cost=batch.cost, budget=budget)
        else:
            budget = self._scheduler.went_well(batch.engine)
            self._metrics.rows.labels(batch.engine).inc(batch.cost)
        self._metrics.row_budget.labels(batch.engine).set(budget)
        self._metrics.step.labels(batch.engine).observe(time.monotonic() - began)

    def _call(self, engine: Engine, slots: Sequence[Slot]) -> None:
        """Step ``slots``. Raises ``OutOfMemory`` where fewer of them might have room."""
        try:
            with self._watched(engine.card.id, "step"):
                engine.step(slots)
        except OutOfMemory:
            self._metrics.out_of_memory.labels(engine.card.id).inc()
            if len(slots) > 1:
                raise
            _log.warning("step_out_of_memory_alone", model=engine.card.id)
            slots[0].error = _no_room(slots[0].request)
            return
        except Exception as error:
            if len(slots) == 1:
                _log.exception("step_failed", model=engine.card.id)
                slots[0].error = error
                return
            _log.warning("batch_failed_stepping_alone", model=engine.card.id, slots=len(slots), error=repr(error))
        else:
            return
        for slot in slots:  # out of the handler: it would keep what the failed call had on the device
            self._call(engine, [slot])

    def _show(self, batch: Batch[Slot]) -> None:
        """Hand out a preview of the first picture that is not done, of each job that wants one, every few steps."""
        engine = self._engines[batch.engine]
        for task in batch.tasks:
            work, slot = self._painting[task.job_id], task.slot
            if not work.wants_previews or work.preview_under_way or slot is not work.first_unfinished or slot.position % PREVIEW_STEPS:
                continue
            try:
                with self._watched(batch.engine, "decode"):
                    pixels = engine.preview(slot)
            except Exception:
                work.wants_previews = False  # said once, and the job goes on without
                _log.exception("preview_failed", job=work.spec.id, model=batch.engine)
            else:
                if pixels is not None:
                    self._previewed(work, pixels)

    # -- ends ---------------------------------------------------------------------------------------------------------------------

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
            with self._watched(engine.card.id, "decode"):
                pictures = engine.finish([task.slot for task in tasks])
        except Exception as error:
            no_room = isinstance(error, OutOfMemory)
            if no_room:
                self._metrics.out_of_memory.labels(engine.card.id).inc()
            unexpected = None if no_room else error  # as of a start that failed
            _log.warning("decode_failed", model=engine.card.id, slots=len(tasks), error=repr(error), exc_info=unexpected)
            if len(tasks) == 1:
                tasks[0].slot.error = _no_room(tasks[0].slot.request) if no_room else error
                return
        else:
            self._keep(tasks, pictures)
            return
        for task in tasks:  # out of the handler: it would keep what the failed call had on the device
            self._decode(engine, [task])

    def _keep(self, tasks: Sequence[Task[Slot]], pictures: Sequence[Pixels]) -> None:
        for task, pixels in zip(tasks, pictures, strict=True):
            if task.slot.error is None:
                work = self._painting[task.job_id]
                work.painted[work.slots.index(task.slot)] = pixels


def _warmed_up(name: str, engine: Engine) -> WarmUp:
    try:
        return engine.warm_up()
    except OutOfMemory as error:
        raise TuningRefused(f"{name}: the device has no room for one picture: {error}") from error


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed while the job was being worked on")


def _no_room(request: PaintRequest) -> EngineFailed:
    height, width = request.mask.shape
    return EngineFailed(f"the device has no room for one picture of {width}×{height} pixels; the same request would fail again")
