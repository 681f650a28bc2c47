"""The engine thread: one row's fault is one job's fault."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import eventually
from queueing import spec_of

from api_schemas.errors import OutfillError
from api_schemas.jobs import utc_now
from api_schemas.models import BACKDROP
from worker.claims import Lease
from worker.engines.base import PaintRequest, Pixels, Slot
from worker.images.codec import Frame
from worker.intake import Edit, Plan
from worker.metrics import WorkerMetrics
from worker.painter import Ends, Painter
from worker.work import Work

EXECUTIONS = count()


class Scripted:
    """An engine whose rows do what their seed says: 13 fails its row, 14 breaks the whole call, 15 cannot be decoded, 16 never ends."""

    card = BACKDROP
    max_rows = 4

    def __init__(self) -> None:
        self.calls: list[int] = []

    def prepare(self, request: PaintRequest) -> Slot:
        if request.seed == 12:
            raise ValueError("cannot be prepared")
        return Slot(request, steps=10**9 if request.seed == 16 else 3)

    def step(self, slots: Sequence[Slot]) -> None:
        self.calls.append(len(slots))
        if any(slot.request.seed == 14 for slot in slots):
            raise RuntimeError("the call broke")
        for slot in slots:
            slot.position += 1
            if slot.request.seed == 13:
                slot.error = ValueError("not finite")

    def finish(self, slots: Sequence[Slot]) -> list[Pixels]:
        for slot in slots:
            if slot.request.seed == 15:
                slot.error = ValueError("not finite")
        return [np.full_like(slot.request.image, slot.request.seed) for slot in slots]


class Ended:
    """Where jobs went."""

    def __init__(self) -> None:
        self.painted: dict[str, list[int]] = {}
        self.failed: dict[str, OutfillError] = {}
        self.canceled: set[str] = set()
        self.given_back: set[str] = set()

    def ends(self) -> Ends:
        return Ends(
            painted=lambda work: self.painted.update({work.spec.id: [int(work.painted[n].max()) for n in sorted(work.painted)]}),
            failed=lambda work, error: self.failed.update({work.spec.id: error}),
            canceled=lambda work: self.canceled.add(work.spec.id),
            given_back=lambda work: self.given_back.add(work.spec.id),
        )


def work_of(*seeds: int, **spec: Any) -> Work:
    """A prepared job that paints one picture for each seed."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    mask = np.full((4, 4), 255, np.uint8)
    requests = tuple(PaintRequest(pixels, mask, seed) for seed in seeds)
    edit = Edit(Frame(pixels), (0, 0), Frame(pixels), mask)
    job = spec_of(**spec)
    member = SimpleNamespace(composite_key=f"{job.id}:{next(EXECUTIONS)}")
    lease = Lease(job, 1, None, member)  # type: ignore[arg-type]  # of RQ's side the painter sees only this name
    return Work(lease, plan=Plan(edit, None, requests))


@pytest.fixture
def engine() -> Scripted:
    return Scripted()


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def painter(engine: Scripted, ended: Ended) -> Iterator[Painter]:
    running = Painter({"backdrop": engine}, ended.ends(), WorkerMetrics())
    thread = threading.Thread(target=running.run)
    thread.start()
    yield running
    running.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_a_job_is_painted_when_all_its_pictures_are(painter: Painter, ended: Ended) -> None:
    """The pictures of one job come in the order of its seeds."""
    work = work_of(1, 2, 3)
    painter.inbox.put(work)
    assert eventually(lambda: ended.painted.get(work.spec.id)) == [1, 2, 3]


@pytest.mark.parametrize("seed", [12, 13, 14, 15])
def test_a_failing_row_fails_its_job_alone(painter: Painter, ended: Ended, seed: int) -> None:
    """Whether it breaks in prepare, in its row, in the whole call or in decoding: one job fails with a code, its neighbours are painted."""
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


def test_a_canceled_job_leaves_at_the_next_step(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """A job that would never end is gone once it is canceled, and the others go on."""
    endless, other = work_of(16), work_of(5)
    painter.inbox.put(endless)
    eventually(lambda: len(engine.calls) > 3)
    endless.canceled.set()
    eventually(lambda: endless.spec.id in ended.canceled)
    painter.inbox.put(other)
    eventually(lambda: other.spec.id in ended.painted)


def test_a_job_past_its_deadline_fails(painter: Painter, ended: Ended) -> None:
    """A deadline that passes between steps ends the job with a code that says so."""
    late = work_of(16, deadline_at=utc_now() + timedelta(seconds=0.2))
    painter.inbox.put(late)
    assert eventually(lambda: ended.failed.get(late.spec.id)).code == "deadline_exceeded"


def test_jobs_share_model_calls(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """Pictures that may share a call do, up to the row budget."""
    work = work_of(*range(1, 7))
    painter.inbox.put(work)
    eventually(lambda: ended.painted)
    assert max(engine.calls) == engine.max_rows


def test_draining_finishes_what_was_begun_and_gives_back_the_rest(painter: Painter, ended: Ended, engine: Scripted) -> None:
    """After drain, new work is given back; after a second drain, what is being painted too."""
    endless, late = work_of(16), work_of(1)
    painter.inbox.put(endless)
    eventually(lambda: engine.calls)
    painter.drain(abandon=False)
    painter.inbox.put(late)
    eventually(lambda: late.spec.id in ended.given_back)
    assert endless.spec.id not in ended.given_back
    painter.drain(abandon=True)
    eventually(lambda: endless.spec.id in ended.given_back)
