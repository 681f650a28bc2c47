"""A worker archives what it ends, before it says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from conftest import eventually
from queueing import accept, backdrop_worker, spec_of

from api_schemas.errors import Unavailable
from api_schemas.jobs import InputRef, JobStatus
from core.jobs import UNARCHIVED, JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import RECORDS_PREFIX, Storage


class Watched(Storage):
    """Notes how its job stood in Redis when its archive came; may refuse archives."""

    records: JobRecords
    refuses = False

    def put(self, key: str, data: bytes, content_type: str) -> None:
        if key.startswith(RECORDS_PREFIX):
            self.seen = self.records.status(key.split("/")[2])
            if self.refuses:
                raise Unavailable("the object store does not take objects")
        super().put(key, data, content_type)


@pytest.fixture
def watched(settings: Settings, records: JobRecords) -> Watched:
    storage = Watched(settings.s3)
    storage.records = records
    return storage


@contextmanager
def working(own_redis: redis.Redis, settings: Settings, storage: Storage) -> Iterator[None]:
    worker = backdrop_worker(own_redis, settings, storage)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield
    worker.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_result_is_archived_before_it_is_committed(
    own_redis: redis.Redis, settings: Settings, records: JobRecords, queue: JobQueue, watched: Watched, coffee: bytes
) -> None:
    """Redis may be lost at any moment after a job has succeeded: its archive was there first, and restores all that was told of it."""
    watched.put("health/archive.png", coffee, "image/png")
    image = InputRef(key="health/archive.png", format="png", width=600, height=400, bytes=len(coffee), sha256="0")
    spec = accept(records, queue, spec_of().model_copy(update={"inputs": {"image": image}}))
    with working(own_redis, settings, watched):
        eventually(lambda: records.get(spec.id, "shop").status is JobStatus.SUCCEEDED)
    assert watched.seen is JobStatus.RUNNING
    before = records.get(spec.id, "shop")
    own_redis.flushdb()
    assert records.restore(watched.get(before.archive), before.archive, there=lambda _: True)
    after = records.get(spec.id, "shop")
    same = ("spec", "status", "attempts", "step", "steps", "started_at", "outputs", "runtime", "error", "outputs_deleted", "archive")
    assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}
    watched.delete_job("shop", spec.id)


def test_a_failure_does_not_wait_for_the_store(
    own_redis: redis.Redis, settings: Settings, records: JobRecords, queue: JobQueue, watched: Watched
) -> None:
    """A job that fails while the store takes nothing ends all the same, and is left to the steward to archive."""
    watched.refuses = True
    spec = accept(records, queue, spec_of())  # its image is not there
    with working(own_redis, settings, watched):
        eventually(lambda: records.get(spec.id, "shop").status is JobStatus.FAILED)
        eventually(lambda: own_redis.zrange(UNARCHIVED, 0, -1) == [spec.id.encode()])
    assert watched.keys(f"{RECORDS_PREFIX}shop/{spec.id}/") == []
