"""What outlives Redis in the bucket: the records of ended jobs, and sealed copies of keys and endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from queueing import accept, spec_of, take

from api_schemas.errors import Unavailable
from api_schemas.jobs import JobStatus
from core.catalogue import Catalogue
from core.jobs import BACKUP, UNARCHIVED, JobRecords, Outcome, job_key
from core.queue import JobQueue
from core.settings import Backup, Limits, Settings
from core.storage import BACKUP_PREFIX, RECORDS_PREFIX, Storage, seal, unseal
from service.keys import KeyRing, NewKey
from worker.claims import Claims
from worker.steward import COPIES, Steward
from worker.steward_metrics import StewardMetrics

BUCKET = "backups-of-a-test"


@pytest.fixture
def own_storage(settings: Settings) -> Iterator[Storage]:
    """A bucket of its own: that of the stack has copies of the stack's keys."""
    storage = Storage(settings.s3.model_copy(update={"bucket": BUCKET}))
    storage.create_bucket()
    yield storage
    storage.delete(storage.keys(""))


@pytest.fixture
def steward(settings: Settings, own_redis: redis.Redis, records: JobRecords, queue: JobQueue, own_storage: Storage) -> Steward:
    parts: dict[str, Any] = {"records": records, "queue": queue, "storage": own_storage, "catalogue": Catalogue(own_redis)}
    return Steward(settings, connection=own_redis, metrics=StewardMetrics(), **parts)


def test_jobs_that_no_worker_ended_are_archived(
    steward: Steward, records: JobRecords, queue: JobQueue, own_storage: Storage, own_redis: redis.Redis
) -> None:
    """The record of a job that was canceled while it waited is in the bucket after the next round, and is restored as it was."""
    spec = accept(records, queue, spec_of())
    records.cancel(spec.id, "shop")
    before = records.get(spec.id, "shop")
    steward.archive_ended()
    assert own_storage.keys(RECORDS_PREFIX) == [before.archive]
    assert not own_redis.exists(UNARCHIVED)
    own_redis.flushdb()
    assert records.restore(own_storage.get(before.archive), before.archive, there=lambda _: True)
    after = records.get(spec.id, "shop")
    assert (after.status, after.spec, after.finished_at, after.archive) == (before.status, before.spec, before.finished_at, before.archive)
    assert records.counts()[JobStatus.CANCELED] == 1
    assert [each.spec.id for each in records.page("shop", limit=9)[0]] == [spec.id]
    assert not records.restore(own_storage.get(before.archive), before.archive, there=lambda _: True)


def test_a_restored_job_is_bounded_and_deleted_like_any(
    steward: Steward, records: JobRecords, queue: JobQueue, own_storage: Storage, own_redis: redis.Redis
) -> None:
    """What is restored counts against its tenant's bounds, the oldest go, and past its retention it is deleted with its archive."""
    request = spec_of().request.model_copy(update={"webhook": None})
    specs = [accept(records, queue, spec_of().model_copy(update={"request": request})) for _ in range(3)]
    for spec in specs:
        records.cancel(spec.id, "shop")
    steward.archive_ended()
    own_redis.flushdb()
    bounded = JobRecords(own_redis, retention_s=60, limits=Limits(canceled_jobs=1))
    for key in own_storage.keys(RECORDS_PREFIX):
        assert bounded.restore(own_storage.get(key), key, there=lambda _: True)
    steward.delete_old_jobs()
    (left,) = [spec for spec in specs if records.find(spec.id)]
    assert own_storage.keys(RECORDS_PREFIX) == [records.get(left.id, "shop").archive]
    own_redis.zadd("outfill:expiry", {left.id: 0})
    steward.delete_old_jobs()
    assert own_storage.keys(RECORDS_PREFIX) == []
    assert not own_redis.keys("outfill:job:*")


def test_a_job_that_was_deleted_meanwhile_is_not_archived(
    steward: Steward, records: JobRecords, queue: JobQueue, own_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner's deletion, in the middle of archiving, leaves nothing that a rebuild would bring back."""
    spec = accept(records, queue, spec_of())
    records.cancel(spec.id, "shop")
    put = own_storage.put

    def put_late(key: str, data: bytes, content_type: str) -> None:
        records.delete(spec, only_if="ended")
        put(key, data, content_type)

    monkeypatch.setattr(own_storage, "put", put_late)
    steward.archive_ended()
    assert own_storage.keys(RECORDS_PREFIX) == []


def test_a_commit_that_redis_forgot_is_not_repeated_as_a_loss(records: JobRecords, queue: JobQueue, own_redis: redis.Redis) -> None:
    """A worker that asks again after the rebuild whether its commit was done hears that it was, and deletes nothing."""
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    outcome = Outcome(JobStatus.FAILED)
    archive = records.archive(spec.id, outcome)
    assert archive
    own_redis.flushdb()
    assert records.restore(archive, f"records/shop/{spec.id}/{lease.execution.id}.json", there=lambda _: True)
    assert records.commit(spec, lease.member, outcome) == "repeated"


def test_an_archive_of_what_had_not_ended_is_refused(records: JobRecords, queue: JobQueue, own_redis: redis.Redis) -> None:
    """Neither such a record nor what is no record comes into Redis."""
    spec = accept(records, queue, spec_of())
    running = records.archive(spec.id)
    own_redis.flushdb()
    for archive in (running, b"{}", b"[1]", b"no json"):
        with pytest.raises(ValueError):
            records.restore(archive or b"", "records/shop/x/unheld.json", there=lambda _: True)
    assert not own_redis.exists(job_key(spec.id))


def test_outputs_that_are_gone_are_not_promised(records: JobRecords, queue: JobQueue, own_redis: redis.Redis) -> None:
    """A job whose inputs had gone before its record is restored without them being counted."""
    spec = accept(records, queue, spec_of())
    records.cancel(spec.id, "shop")
    archive = records.archive(spec.id)
    own_redis.flushdb()
    assert records.restore(archive or b"", f"records/shop/{spec.id}/unheld.json", there=lambda _: False)
    assert int(own_redis.hget("outfill:counts:shop", "stored_bytes") or 0) == 0


def with_backups(steward: Steward, key: str = "k" * 32) -> SecretStr:
    steward._settings = steward._settings.model_copy(update={"backup": Backup(key=SecretStr(key))})
    return SecretStr(key)


def test_the_copy_is_sealed_and_follows_changes(
    steward: Steward, records: JobRecords, settings: Settings, own_storage: Storage, own_redis: redis.Redis
) -> None:
    """It has keys, limits and secrets, none of which can be read without the key; it is written when they change, and the newest are kept."""
    key = with_backups(steward)
    KeyRing(own_redis, settings).create(NewKey("shop", "till"))
    records.set_policy("shop", {"webhook_secret": "whsec_of-the-shop"})
    steward.back_up_access()
    steward.back_up_access()
    (copy,) = own_storage.keys(BACKUP_PREFIX)
    sealed = own_storage.get(copy)
    assert b"whsec" not in sealed
    assert b"shop" not in sealed
    assert b"whsec_of-the-shop" in unseal(sealed, key)
    with pytest.raises(ValueError, match="another key"):
        unseal(sealed, SecretStr("another key, as long as it has to be"))
    with pytest.raises(ValueError, match="another key"):
        unseal(seal(b"x", key)[:-4] + b"AAA=", key)
    for number in range(COPIES + 2):
        records.set_policy("shop", {"queued_jobs": number})
        steward.back_up_access()
    copies = own_storage.keys(BACKUP_PREFIX)
    assert len(copies) == COPIES
    assert b'"queued_jobs": "11"' in unseal(own_storage.get(max(copies)), key)


def test_tenants_of_an_earlier_release_are_in_the_copy(steward: Steward, own_storage: Storage, own_redis: redis.Redis) -> None:
    """Endpoints and limits that were registered before there was an index of tenants are found."""
    key = with_backups(steward)
    own_redis.hset("outfill:endpoints:old-shop", "whk_1", "{}")
    own_redis.hset("outfill:tenant:older-shop", "queued_jobs", "1")
    steward.back_up_access()
    held = unseal(own_storage.get(own_storage.keys(BACKUP_PREFIX)[0]), key)
    assert b"old-shop" in held
    assert b"older-shop" in held


def test_an_empty_redis_does_not_take_the_place_of_what_was(
    steward: Steward, records: JobRecords, settings: Settings, own_storage: Storage, own_redis: redis.Redis
) -> None:
    """After a loss the copy is left as it is and the gauge says that a rebuild is wanted; restored, it is kept on."""
    key = with_backups(steward)
    made, _ = KeyRing(own_redis, settings).create(NewKey("shop", "till"))
    steward.back_up_access()
    (copy,) = own_storage.keys(BACKUP_PREFIX)
    own_redis.flushdb()
    steward.back_up_access()
    registry = steward._metrics.registry
    assert registry.get_sample_value("outfill_rebuild_wanted") == 1
    assert own_storage.keys(BACKUP_PREFIX) == [copy]
    assert records.restore_access(json.loads(unseal(own_storage.get(copy), key))) == (1, 0)
    own_redis.set(BACKUP, "rebuilt")
    assert KeyRing(own_redis, settings).admit(made).verdict == "admitted"
    steward.back_up_access()
    assert registry.get_sample_value("outfill_rebuild_wanted") == 0


def test_without_a_key_there_is_no_copy(steward: Steward, own_storage: Storage) -> None:
    """Secrets never lie in the bucket unsealed."""
    steward._settings = steward._settings.model_copy(update={"backup": Backup()})
    steward.back_up_access()
    assert own_storage.keys(BACKUP_PREFIX) == []


def test_a_store_that_is_away_puts_archiving_off(
    steward: Steward, records: JobRecords, queue: JobQueue, own_storage: Storage, own_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be archived is archived later."""
    spec = accept(records, queue, spec_of())
    records.cancel(spec.id, "shop")

    def refuse(*_: object) -> None:
        raise Unavailable("the object store does not take objects")

    with monkeypatch.context() as patch:
        patch.setattr(own_storage, "put", refuse)
        steward.archive_ended()
    assert own_redis.zrange(UNARCHIVED, 0, -1) == [spec.id.encode()]
    steward.archive_ended()
    assert own_storage.keys(RECORDS_PREFIX) == [records.get(spec.id, "shop").archive]
