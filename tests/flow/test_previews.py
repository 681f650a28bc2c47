"""Previews: what a caller sees of a picture while it is painted. On the running service, and in a worker whose engine steps when told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from conftest import ENDED, Api, box_mask, eventually, pixels_of
from queueing import accept, let_lapse, spec_of, take

from api_schemas.errors import Unavailable
from api_schemas.jobs import InputRef, Job, JobSpec, JobStatus
from api_schemas.models import BACKDROP, U2NETP
from core.catalogue import Catalogue
from core.jobs import JobRecords, Outcome, public
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from worker.claims import Claims
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import Pixels, Prepared, Slot
from worker.images.subject import Segmenter
from worker.metrics import WorkerMetrics
from worker.paint import PaintWorker

STEPS, SHADE = 12, 20
LONG = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": 150, "num_images": 8}


# -- the running service --------------------------------------------------------------------------------------------------------------


def preview_url(api: Api, job_id: str) -> Any:
    progress = api.read(job_id)["progress"]
    return progress and progress["preview_url"]


def test_a_running_job_shows_what_is_painted(api: Api, storage: Storage, coffee: bytes) -> None:
    """A job that asks for previews shows a small picture while it runs, none once it has ended, and leaves no object."""
    mask, _ = box_mask(coffee)
    job = api.accept({**LONG, "previews": True}, photo=coffee, mask=mask)
    picture = httpx.get(eventually(lambda: preview_url(api, job["id"])))
    assert picture.raise_for_status().headers["content-type"] == "image/jpeg"
    assert pixels_of(picture.content).ndim == 3
    api.http.post(job["urls"]["cancel"]).raise_for_status()
    eventually(lambda: api.read(job["id"])["status"] in ENDED)
    assert preview_url(api, job["id"]) is None
    eventually(lambda: storage.keys(f"outputs/local/{job['id']}/") == [])


def test_only_what_asks_for_previews_is_shown(api: Api, coffee: bytes) -> None:
    """A job that does not ask for previews has none, and its recipe does not speak of them."""
    mask, _ = box_mask(coffee)
    job = api.accept(LONG, photo=coffee, mask=mask)
    eventually(lambda: (api.read(job["id"])["progress"] or {"step": 0})["step"] > 8 * 5)
    assert preview_url(api, job["id"]) is None
    assert "previews" not in api.read(job["id"])["recipe"]
    api.http.post(job["urls"]["cancel"]).raise_for_status()


def test_a_model_without_previews_refuses_them(api: Api, coffee: bytes) -> None:
    """Where the model has no previews, asking for them is an error that names the field; saying that none are wanted is not."""
    request = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}
    answer = api.post({**request, "previews": True}, photo=coffee)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "parameter_not_supported", "previews")
    assert api.post({**request, "previews": False}, photo=coffee).status_code == 202


# -- a worker whose engine steps when told ----------------------------------------------------------------------------------------------


class Told(BackdropEngine):
    """Twelve steps, each when it is told to; its previews are grey in proportion to the step."""

    reentrant = False

    def __init__(self) -> None:
        super().__init__()
        self._turns = threading.Semaphore(0)

    def go(self, steps: int) -> None:
        self._turns.release(steps)

    def start(self, prepared: Sequence[Prepared]) -> list[Slot]:
        slots = super().start(prepared)
        for slot in slots:
            slot.steps = STEPS
        return slots

    def step(self, slots: Sequence[Slot]) -> None:
        self._turns.acquire()
        position = slots[0].position
        super().step(slots)
        slots[0].position = position + 1

    def preview(self, slot: Slot) -> Pixels:  # type: ignore[override]  # the engine that it extends has none
        return np.full((16, 24, 3), SHADE * slot.position, np.uint8)


class WithoutPreviews(Storage):
    """The real store, but that it takes no previews."""

    def put(self, key: str, data: bytes, content_type: str) -> None:
        if key.endswith("preview.jpg"):
            raise Unavailable("no previews today")
        super().put(key, data, content_type)


@pytest.fixture(params=[Storage])
def worker(request: pytest.FixtureRequest, own_redis: redis.Redis, records: JobRecords, settings: Settings) -> Iterator[SimpleNamespace]:
    """A worker in this process, on a database of its own; ``param`` is its store's class."""
    queue, engine = JobQueue(own_redis), Told()
    running = PaintWorker(
        settings,
        cards={"backdrop": BACKDROP},
        engines={"backdrop": engine},
        segmenters={"u2netp": Segmenter(Path(sys.prefix) / "share/outfill/models/u2netp.onnx", most_looks=1)},
        revisions={"u2netp": U2NETP.revision},
        edge=None,
        claims=Claims(own_redis, records, queue, lease_s=30, overdue_s=60),
        records=records,
        storage=request.param(settings.s3),
        catalogue=Catalogue(own_redis),
        metrics=WorkerMetrics(),
        runtime={"backdrop": {}},
    )
    thread = threading.Thread(target=running.run)
    thread.start()
    yield SimpleNamespace(engine=engine, queue=queue)
    engine.go(100)
    running.stop()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def spec(records: JobRecords, worker: SimpleNamespace, storage: Storage, coffee: bytes) -> JobSpec:
    """A job for it that wants previews."""
    storage.put("health/previews.png", coffee, "image/png")
    image = InputRef(key="health/previews.png", format="png", width=600, height=400, bytes=len(coffee), sha256="0")
    job = spec_of()
    request = job.request.model_copy(update={"previews": True})
    return accept(records, worker.queue, job.model_copy(update={"inputs": {"image": image}, "request": request}))


def shown(records: JobRecords, storage: Storage, spec: JobSpec) -> Job:
    return public(records.get(spec.id, spec.tenant), storage)


def shade(job: Job) -> int | None:
    """The grey of the preview that the job shows."""
    url = job.progress and job.progress.preview_url
    return int(pixels_of(httpx.get(url).raise_for_status().content).mean()) if url else None


def test_the_newest_preview_takes_the_place_of_the_last_one(
    worker: SimpleNamespace, records: JobRecords, storage: Storage, spec: JobSpec
) -> None:
    """One object holds the newest preview while the job runs; once it has succeeded only its outputs are left."""
    for step in (4, 8):
        worker.engine.go(4)
        eventually(lambda step=step: shade(shown(records, storage, spec)) == SHADE * step)  # type: ignore[misc]
        assert len(storage.keys(f"outputs/shop/{spec.id}/")) == 1
    worker.engine.go(4)
    job = eventually(lambda: (job := shown(records, storage, spec)).status is JobStatus.SUCCEEDED and job)
    assert job.progress.preview_url is None
    assert (job.progress.step, job.progress.steps) == (STEPS, STEPS)
    eventually(lambda: [Path(key).name for key in storage.keys(f"outputs/shop/{spec.id}/")] == ["0.png"])


@pytest.mark.parametrize("worker", [WithoutPreviews], indirect=True)
def test_a_preview_that_cannot_be_stored_fails_no_job(
    worker: SimpleNamespace, records: JobRecords, storage: Storage, spec: JobSpec
) -> None:
    """Where the store refuses a preview, the job goes on without and succeeds."""
    worker.engine.go(STEPS)
    job = eventually(lambda: (job := shown(records, storage, spec)).status.terminal and job)
    assert (job.status, len(job.outputs)) == (JobStatus.SUCCEEDED, 1)


def test_a_canceled_job_leaves_no_preview(worker: SimpleNamespace, records: JobRecords, storage: Storage, spec: JobSpec) -> None:
    """A job that is canceled after it was previewed shows none, and its object is gone."""
    worker.engine.go(4)
    eventually(lambda: shade(shown(records, storage, spec)))
    records.cancel(spec.id, spec.tenant)
    worker.engine.go(STEPS)
    job = eventually(lambda: (job := shown(records, storage, spec)).status is JobStatus.CANCELED and job)
    assert job.progress.preview_url is None
    eventually(lambda: storage.keys(f"outputs/shop/{spec.id}/") == [])


def test_the_preview_of_a_dead_execution_is_not_shown_by_the_next(records: JobRecords, own_redis: redis.Redis, storage: Storage) -> None:
    """A job that begins anew shows no preview until its own execution has made one, and one that has ended shows none."""
    queue = JobQueue(own_redis)
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    claims.start()
    spec = accept(records, queue, spec_of())
    first = take(claims)
    assert records.beat(spec.id, first.member, 4, 9, preview="outputs/first") == "running"
    assert records.beat(spec.id, first.member, 5, 9) == "running"
    assert records.get(spec.id, "shop").preview == "outputs/first"
    let_lapse(own_redis, first)
    assert records.requeue(spec, first.member, lapsed_before_s=2**33)
    assert records.get(spec.id, "shop").preview is None
    second = take(claims)
    assert records.beat(spec.id, first.member, 6, 9, preview="outputs/first") == "lost"
    assert records.get(spec.id, "shop").preview is None
    assert records.beat(spec.id, second.member, 4, 9, preview="outputs/second") == "running"
    assert records.commit(spec, second.member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    assert records.get(spec.id, "shop").preview is None
