"""The engine thread: one row's fault is one job's fault."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conftest import eventually
from queueing import spec_of

from api_schemas.errors import OutfillError
from api_schemas.jobs import utc_now
from api_schemas.models import BACKDROP
from api_schemas.requests import Scheduler
from worker import scheduler
from worker.claims import Lease
from worker.engines.base import DeviceBroken, OutOfMemory, PaintRequest, Pixels, Prepared, Reading, Sampling, Slot, WarmUp
from worker.engines.registry import build_engine, discover
from worker.metrics import WorkerMetrics
from worker.painter import Ends, Painter
from worker.rounds import Rounds
from worker.work import Work

EXECUTIONS = count()


@dataclass(eq=False)
class ScriptedSlot(Slot):
    """Can be referred to weakly, to see when it is gone."""


class Scripted:
    """An engine whose rows do what their seed says.

    12 cannot be started, 13 fails its row, 14 breaks the whole call, 15 cannot be decoded, 16 never ends, 17 cannot be previewed,
    19 breaks the device. Each call has room for as many slots as ``room`` says; ``start`` counts those that are alive.
    """

    card = BACKDROP
    reentrant = False
    dtype: str | None = None
    max_rows = 4
    budget = 4.0

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.started: list[int] = []
        self.calls: Counter[str] = Counter()
        self.room = {"start": 100, "step": 100, "finish": 100}
        self.alive: weakref.WeakSet[Slot] = weakref.WeakSet()
        self.meanwhile: Callable[[Sequence[Slot]], None] = lambda _: None
        """Called in every step, before the slots move."""
        self.previewed: list[int] = []

    def warm_up(self) -> WarmUp:
        return WarmUp(row_s=0.5)

    def read(self, _prompt: str, *, names_product: bool) -> Reading:  # noqa: ARG002 - the protocol's
        return Reading()

    def prepare(self, request: PaintRequest) -> Prepared:
        return Prepared(request)

    def start(self, prepared: Sequence[Prepared]) -> list[Slot]:
        self.started.append(len(prepared))
        if len(self.alive) + len(prepared) > self.room["start"]:
            raise OutOfMemory
        if any(each.request.seed == 12 for each in prepared):
            raise ValueError("cannot be started")
        slots: list[Slot] = [ScriptedSlot(each.request, steps={16: 10**9, 17: 9, 18: 9}.get(each.request.seed, 3)) for each in prepared]
        self.alive.update(slots)
        return slots

    def step(self, slots: Sequence[Slot]) -> None:
        self.batches.append(len(slots))
        self.calls["eager"] += 1
        self.meanwhile(slots)
        if len(slots) > self.room["step"]:
            raise OutOfMemory
        if any(slot.request.seed == 14 for slot in slots):
            raise RuntimeError("the call broke")
        if any(slot.request.seed == 19 for slot in slots):
            raise DeviceBroken("an illegal access")
        for slot in slots:
            slot.position += 1
            if slot.request.seed == 13:
                slot.error = ValueError("not finite")

    def finish(self, slots: Sequence[Slot]) -> list[Pixels]:
        if len(slots) > self.room["finish"]:
            raise OutOfMemory
        for slot in slots:
            if slot.request.seed == 15:
                slot.error = ValueError("not finite")
        return [np.full_like(slot.request.image, slot.request.seed) for slot in slots]

    def preview(self, slot: Slot) -> Pixels | None:
        self.previewed.append(slot.position)
        if slot.request.seed == 17:
            raise RuntimeError("no preview")
        return np.full((2, 2, 3), slot.position, np.uint8)


class Ended:
    """Where jobs went."""

    def __init__(self) -> None:
        self.painted: dict[str, list[int]] = {}
        self.failed: dict[str, OutfillError] = {}
        self.canceled: set[str] = set()
        self.given_back: set[str] = set()
        self.previews: list[tuple[str, int]] = []

    def ends(self) -> Ends:
        return Ends(
            painted=lambda work: self.painted.update({work.spec.id: [int(work.painted[n].max()) for n in sorted(work.painted)]}),
            failed=lambda work, error: self.failed.update({work.spec.id: error}),
            canceled=lambda work: self.canceled.add(work.spec.id),
            given_back=lambda work: self.given_back.add(work.spec.id),
        )

    def previewed(self, work: Work, pixels: Pixels) -> None:
        self.previews.append((work.spec.id, int(pixels.max())))


def work_of(*seeds: int, previews: bool = False, **spec: Any) -> Work:
    """A prepared job that paints one picture for each seed."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    mask = np.full((4, 4), 255, np.uint8)
    requests = tuple(PaintRequest(pixels, mask, seed) for seed in seeds)
    job = spec_of(**spec)
    job = job.model_copy(update={"request": job.request.model_copy(update={"previews": previews})})
    member = SimpleNamespace(composite_key=f"{job.id}:{next(EXECUTIONS)}")
    lease = Lease(job, 1, None, member)  # type: ignore[arg-type]  # of RQ's side the painter sees only this name
    return Work(lease, rounds=one_round(requests), prepared=tuple(map(Prepared, requests)))


def one_round(requests: tuple[PaintRequest, ...]) -> Rounds:
    """Of a job's rounds the painter sees only what is to be painted now, and how much will follow."""
    return cast("Rounds", SimpleNamespace(requests=requests, later=0))


@pytest.fixture
def engine() -> Scripted:
    return Scripted()


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics()


@contextmanager
def running(painter: Painter) -> Iterator[Painter]:
    """A painter whose thread runs."""
    thread = threading.Thread(target=painter.run)
    thread.start()
    yield painter
    painter.stop()
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def painter(engine: Scripted, ended: Ended, metrics: WorkerMetrics) -> Iterator[Painter]:
    with running(Painter({"backdrop": engine}, ended.ends(), metrics, previewed=ended.previewed)) as started:
        yield started


def figure(metrics: WorkerMetrics, name: str) -> float:
    """A figure of the engine's."""
    value = metrics.registry.get_sample_value(name, {"model": "backdrop"})
    assert value is not None
    return value


def test_a_job_is_painted_when_all_its_pictures_are(painter: Painter, ended: Ended) -> None:
    """The pictures of one job come in the order of its seeds."""
    work = work_of(1, 2, 3)
    painter.inbox.put(work)
    assert eventually(lambda: ended.painted.get(work.spec.id)) == [1, 2, 3]


def test_jobs_that_wait_are_begun_in_one_call(engine: Scripted, ended: Ended, metrics: WorkerMetrics) -> None:
    """Texts and pictures of all that wait are encoded together, and each job gets its own pictures."""
    painter = Painter({"backdrop": engine}, ended.ends(), metrics, previewed=ended.previewed)
    works = [work_of(1, 2), work_of(3), work_of(4, 5, 6)]
    for work in works:
        painter.inbox.put(work)
    with running(painter):
        eventually(lambda: len(ended.painted) == 3)
    assert engine.started == [6]
    assert [ended.painted[work.spec.id] for work in works] == [[1, 2], [3], [4, 5, 6]]


def test_rows_of_calls_are_counted(painter: Painter, ended: Ended, engine: Scripted, metrics: WorkerMetrics) -> None:
    """Each step counts the rows of its slots, so that the time of a row in service can be set against the warm-up's."""
    painter.inbox.put(work := work_of(1, 2))
    eventually(lambda: ended.painted.get(work.spec.id))
    assert figure(metrics, "outfill_model_rows_total") == sum(engine.batches) == 6
    for model, found in painter.warm_ups.items():
        metrics.tell_warm_up(model, found, requested="auto")
    assert figure(metrics, "outfill_warm_up_row_seconds") == 0.5


@pytest.mark.parametrize("seed", [12, 13, 14, 15])
def test_a_failing_row_fails_its_job_alone(painter: Painter, ended: Ended, seed: int) -> None:
    """Whether it breaks as it is started, in its row, in the whole call or in decoding: one job fails with a code, its neighbours are painted."""
    bad, good = work_of(1, seed), [work_of(1), work_of(2)]
    for work in (good[0], bad, good[1]):
        painter.inbox.put(work)
    eventually(lambda: len(ended.painted) == 2)
    assert set(ended.painted) == {work.spec.id for work in good}
    assert eventually(lambda: ended.failed.get(bad.spec.id)).code == "engine_failed"


def test_two_executions_of_one_job_do_not_meet(painter: Painter, ended: Ended) -> None:
    """A worker that got a job again, after it lost the first lease, paints both to their ends and everything after them."""
    first, other = work_of(1, 2, 3), work_of(9)
    again = work_of(1, 2, 3, id=first.spec.id)
    for work in (first, again, other):
        painter.inbox.put(work)
    eventually(lambda: len(ended.painted) == 2)
    assert ended.painted == {first.spec.id: [1, 2, 3], other.spec.id: [9]}


def test_a_canceled_job_runs_no_step_after_the_one_it_is_in(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """A job that would never end is gone after the step in which it is canceled, and the others go on."""
    endless, other = work_of(16), work_of(5)

    def cancel(slots: Sequence[Slot]) -> None:
        if slots[0].position == 7:
            endless.canceled.set()

    engine.meanwhile = cancel
    painter.inbox.put(endless)
    eventually(lambda: endless.spec.id in ended.canceled)
    assert endless.progress()[0] == 8
    painter.inbox.put(other)
    eventually(lambda: other.spec.id in ended.painted)


def test_a_deadline_that_passes_in_a_step_fails_the_job_after_it(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """A deadline that passes while a job is painted ends it within one step, with a code that says so."""
    late = work_of(16, deadline_at=utc_now() + timedelta(seconds=0.5))

    def outlast(slots: Sequence[Slot]) -> None:
        if slots[0].position == 3:
            eventually(lambda: late.overdue)

    engine.meanwhile = outlast
    painter.inbox.put(late)
    assert eventually(lambda: ended.failed.get(late.spec.id)).code == "deadline_exceeded"
    assert late.progress()[0] == 4


def test_jobs_share_model_calls(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """Pictures that may share a call do, up to the row budget."""
    work = work_of(*range(1, 7))
    painter.inbox.put(work)
    eventually(lambda: ended.painted)
    assert max(engine.batches) == engine.budget


def test_draining_finishes_what_was_begun_and_gives_back_the_rest(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """After drain, new work is given back; after a second drain, what is being painted too."""
    endless, late = work_of(16), work_of(1)
    painter.inbox.put(endless)
    eventually(lambda: engine.batches)
    painter.drain(abandon=False)
    painter.inbox.put(late)
    eventually(lambda: late.spec.id in ended.given_back)
    assert endless.spec.id not in ended.given_back
    painter.drain(abandon=True)
    eventually(lambda: endless.spec.id in ended.given_back)


def test_out_of_memory_in_a_step_halves_the_batch(painter: Painter, ended: Ended, engine: Scripted, metrics: WorkerMetrics) -> None:
    """Where a batch has no room, its slots go on in batches of half its cost, nobody fails, and the figures tell."""
    engine.room["step"] = 1
    work = work_of(1, 2, 3, 4)
    painter.inbox.put(work)
    assert eventually(lambda: ended.painted.get(work.spec.id)) == [1, 2, 3, 4]
    assert engine.batches[:3] == [4, 2, 1]
    assert max(engine.batches[2:]) == 1
    assert figure(metrics, "outfill_out_of_memory_total") == 2
    assert figure(metrics, "outfill_row_budget") == 1


def test_a_halved_budget_grows_back(
    painter: Painter, ended: Ended, engine: Scripted, metrics: WorkerMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there is room again the batches grow, after a run of quiet steps."""
    monkeypatch.setattr(scheduler, "QUIET_STEPS", 6)
    engine.room["step"] = 2
    first, second = work_of(1, 2, 3, 4), work_of(5, 6, 7, 8)
    painter.inbox.put(first)
    eventually(lambda: ended.painted.get(first.spec.id))
    assert figure(metrics, "outfill_row_budget") == 4  # the sixth quiet step was the last
    engine.room["step"] = 4
    painter.inbox.put(second)
    eventually(lambda: ended.painted.get(second.spec.id))
    assert engine.batches == [4, 2, 2, 2, 2, 2, 2, 4, 4, 4]


def test_a_picture_that_has_no_room_alone_fails_alone(painter: Painter, ended: Ended, engine: Scripted, metrics: WorkerMetrics) -> None:
    """A batch of one slot that runs out of memory fails that job with a code that says why, and takes nothing from the budget."""
    engine.room["step"] = 0
    work = work_of(1)
    painter.inbox.put(work)
    error = eventually(lambda: ended.failed.get(work.spec.id))
    assert (error.code, "no room for one picture of 4×4 pixels" in error.detail) == ("engine_failed", True)
    assert figure(metrics, "outfill_row_budget") == 4
    engine.room["step"] = 4
    again = work_of(2)
    painter.inbox.put(again)
    assert eventually(lambda: ended.painted.get(again.spec.id)) == [2]


def test_out_of_memory_in_start_waits_until_the_others_have_left(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """A job that finds no room is begun once those before it are done, before those behind it, and is painted."""
    engine.room["start"] = 3
    first, large, behind = work_of(1, 2), work_of(3, 4), work_of(5)
    for work in (first, large, behind):
        painter.inbox.put(work)
    eventually(lambda: len(ended.painted) == 3)
    assert list(ended.painted) == [work.spec.id for work in (first, large, behind)]
    assert not ended.failed


def test_a_job_without_room_even_alone_fails(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """A job that runs out of memory as it is started with nobody beside it fails, and those behind it go on."""
    engine.room["start"] = 2
    first, large, behind = work_of(1), work_of(2, 3, 4), work_of(5)
    for work in (first, large, behind):
        painter.inbox.put(work)
    eventually(lambda: len(ended.painted) == 2)
    assert ended.failed[large.spec.id].code == "engine_failed"


def test_a_job_that_waits_for_room_can_be_canceled(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """What waits until others have left need not be waited for: canceled it is gone, and those behind it are begun beside the others."""
    engine.room["start"] = 2
    endless, large, behind = work_of(16), work_of(2, 3), work_of(5)
    for work in (endless, large, behind):
        painter.inbox.put(work)
    eventually(lambda: len(engine.batches) > 3)
    assert not large.slots
    large.canceled.set()
    eventually(lambda: behind.spec.id in ended.painted)
    assert large.spec.id in ended.canceled
    endless.canceled.set()


def test_out_of_memory_in_finish_decodes_one_at_a_time(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """Pictures that have no room together are decoded alone; without room even so, their job fails."""
    engine.room["finish"] = 1
    work = work_of(1, 2, 3)
    painter.inbox.put(work)
    assert eventually(lambda: ended.painted.get(work.spec.id)) == [1, 2, 3]
    engine.room["finish"] = 0
    hopeless = work_of(4)
    painter.inbox.put(hopeless)
    assert eventually(lambda: ended.failed.get(hopeless.spec.id)).code == "engine_failed"


def test_previews_come_every_few_steps_to_those_who_asked(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """Of nine steps the fourth and the eighth are shown, of the first unfinished picture, and only for the job that wants them."""
    asked, silent = work_of(18, 18, previews=True), work_of(18)
    painter.inbox.put(asked)
    painter.inbox.put(silent)
    eventually(lambda: len(ended.painted) == 2)
    assert ended.previews == [(asked.spec.id, 4), (asked.spec.id, 8)]


def test_no_preview_is_made_while_one_is_on_its_way(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """Where storing takes longer than a few steps, the engine is not asked for more."""
    work = work_of(18, previews=True)
    work.preview_under_way = True
    painter.inbox.put(work)
    eventually(lambda: work.spec.id in ended.painted)
    assert engine.previewed == []


def test_a_failing_preview_fails_no_job(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """An engine that cannot make a preview is asked once, and the job is painted."""
    work = work_of(17, previews=True)
    painter.inbox.put(work)
    assert eventually(lambda: ended.painted.get(work.spec.id)) == [17]
    assert engine.previewed == [4]
    assert ended.previews == []


def test_neighbours_of_a_canceled_job_are_painted_as_if_alone(tiny_model: Path, metrics: WorkerMetrics, ended: Ended) -> None:
    """On a real model: the picture of a job does not depend on a job beside it that is canceled half way, but for rounding."""
    engine = build_engine(discover({"tiny": tiny_model})[0], path=tiny_model)
    recipe = Sampling("a red ball", "", steps=8, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DDIM)

    def diffused(seed: int) -> Work:
        work = work_of(seed)
        image, mask = np.full((64, 64, 3), 90, np.uint8), np.full((64, 64), 255, np.uint8)
        work.rounds = one_round((PaintRequest(image, mask, seed, recipe),))
        work.prepared = tuple(map(engine.prepare, work.requests))
        return work

    alone, beside, canceled = diffused(1), diffused(1), diffused(2)
    step = engine.step

    def step_and_cancel(slots: Sequence[Slot]) -> None:
        step(slots)
        if canceled.slots and canceled.slots[0].position == 3:
            canceled.canceled.set()

    engine.step = step_and_cancel  # type: ignore[method-assign]
    with running(Painter({"backdrop": engine}, ended.ends(), metrics, previewed=ended.previewed)) as painter:
        painter.inbox.put(alone)
        eventually(lambda: alone.spec.id in ended.painted)
        painter.inbox.put(beside)
        painter.inbox.put(canceled)
        eventually(lambda: beside.spec.id in ended.painted)
        eventually(lambda: canceled.spec.id in ended.canceled)
    assert canceled.progress()[0] == 3
    np.testing.assert_allclose(beside.painted[0].astype(int), alone.painted[0].astype(int), atol=1)


def test_time_is_counted_by_phase(engine: Scripted, ended: Ended) -> None:
    """Every call of the engine is counted to its phase, previews to decode, the rest as idle; together that is all time."""
    ticks = count()
    metrics = WorkerMetrics(clock=lambda: float(next(ticks)))  # each look at the clock takes a second, so that each call does
    work = work_of(18, previews=True)
    with running(Painter({"backdrop": engine}, ended.ends(), metrics, previewed=ended.previewed)) as painter:
        painter.inbox.put(work)
        eventually(lambda: work.spec.id in ended.painted)
    seconds = metrics.engines.stopwatch.seconds()
    total = next(ticks) - 1
    assert {phase: seconds["backdrop", phase] for phase in ("encode", "step", "decode")} == {"encode": 1, "step": 9, "decode": 3}
    assert sum(seconds.values()) == total


def test_every_phase_is_there_before_its_first_call(engine: Scripted, ended: Ended, metrics: WorkerMetrics) -> None:
    """The seconds of every model and phase are exported from the start, as 0, so that a rate misses no first call."""
    Painter({"backdrop": engine}, ended.ends(), metrics, previewed=ended.previewed)
    for phase in ("encode", "step", "decode"):
        assert metrics.registry.get_sample_value("outfill_engine_seconds_total", {"model": "backdrop", "phase": phase}) == 0
    assert metrics.registry.get_sample_value("outfill_engine_seconds_total", {"model": "", "phase": "idle"}) is not None


def test_calls_are_counted_by_mode(painter: Painter, ended: Ended, engine: Scripted, metrics: WorkerMetrics) -> None:
    """The model calls that an engine has counted are exported by its model and their mode."""
    work = work_of(1, 2)
    painter.inbox.put(work)
    eventually(lambda: work.spec.id in ended.painted)
    engine.calls["compiled"] = 41
    for mode, calls in (("eager", 3), ("compiled", 41)):
        assert metrics.registry.get_sample_value("outfill_model_calls_total", {"model": "backdrop", "mode": mode}) == calls


def test_a_broken_device_ends_the_thread_and_no_job(engine: Scripted, ended: Ended, metrics: WorkerMetrics) -> None:
    """The worker's process ends with it, and its jobs go to another."""
    painter = Painter({"backdrop": engine}, ended.ends(), metrics, previewed=ended.previewed)
    for seed in (1, 19):
        painter.inbox.put(work_of(seed))
    with pytest.raises(DeviceBroken):
        painter.run()
    assert not ended.painted
    assert not ended.failed


def test_the_first_job_of_a_tenant_goes_before_the_next_ones_of_another(engine: Scripted, ended: Ended, metrics: WorkerMetrics) -> None:
    """However many of another came before; and the jobs of one tenant stay in the order in which they came."""
    engine.budget = 1.0
    order: list[int] = []
    engine.meanwhile = lambda slots: order.extend(slot.request.seed for slot in slots)
    works = [work_of(seed, tenant="many") for seed in (1, 2, 3)] + [work_of(4, tenant="few")]
    painter = Painter({"backdrop": engine}, ended.ends(), metrics, previewed=ended.previewed)
    for work in works:
        painter.inbox.put(work)
    with running(painter):
        eventually(lambda: len(ended.painted) == 4)
    assert list(dict.fromkeys(order)) == [1, 4, 2, 3]
