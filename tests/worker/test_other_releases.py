"""Records of other releases: of the one before there were schema numbers, of one that adds fields, and of one whose records this release does not know.

The files in tests/core/records hold what each wrote into Redis, and stay as they are: a change of ours that cannot read them would lose jobs in an upgrade.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from conftest import ENDED, Api, eventually
from queueing import accept, spec_of, take

import core.jobs
from api_schemas.errors import JobNotFound, RecordUnreadable
from api_schemas.jobs import JobStatus, utc_now
from api_schemas.requests import job_request
from core.catalogue import Catalogue
from core.events import UNREADABLE, Endpoints, Outbox, lane_key
from core.jobs import ACCEPTING, DEADLINES, EXPIRY, INPUTS_EXPIRY, LEFTOVERS, OUTPUTS_EXPIRY, JobRecord, JobRecords, job_key, public
from core.queue import SET_ASIDE, JobQueue, intermediate_key, line_key, queue_key, running_key, turns_key
from core.settings import Settings
from core.storage import Storage
from worker.claims import Claims
from worker.steward import Steward
from worker.steward_metrics import StewardMetrics

RECORDS = Path(__file__).parents[1] / "core/records"
BEFORE, WITH_MORE, AFTER = "schema_0", "schema_1_with_more", "schema_2"
MODELS = ["backdrop", "exemplar"]
Files = dict[str, dict[str, Any]]


def files_of(release: str) -> Files:
    return json.loads((RECORDS / f"{release}.json").read_text())  # type: ignore[no-any-return]


def hashes(release: str, kind: str) -> dict[str, dict[bytes, bytes]]:
    """The hashes of one kind by the last part of their names, as Redis gives them."""
    found = {name: held["hash"] for name, held in files_of(release).items() if name.startswith(f"outfill:{kind}:")}
    return {name.split(":", 2)[2]: {key.encode(): value.encode() for key, value in fields.items()} for name, fields in found.items()}


def restore(connection: redis.Redis, release: str) -> None:
    """Put into Redis what a release had there."""
    for name, held in files_of(release).items():
        if "hash" in held:
            connection.hset(name, mapping=held["hash"])
        else:
            connection.zadd(name, held["zset"])
    for queue in ("backdrop.standard", "exemplar.bulk"):
        connection.sadd("rq:queues", queue_key(queue))
        waiting = connection.zrange(line_key(queue, "local"), 0, -1)
        connection.rpush(queue_key(queue), *waiting)
    connection.hset("outfill:counts", "queued", 2)


def unreadable(kind: str) -> float:
    return float(UNREADABLE.labels(kind)._value.get())


@pytest.fixture
def claims(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> Claims:
    return Claims(own_redis, records, queue, lease_s=30, overdue_s=60)


@pytest.fixture
def steward(settings: Settings, own_redis: redis.Redis, records: JobRecords, queue: JobQueue, storage: Storage) -> Steward:
    catalogue = Catalogue(own_redis)
    return Steward(
        settings, connection=own_redis, records=records, queue=queue, storage=storage, catalogue=catalogue, metrics=StewardMetrics()
    )


def scored(connection: redis.Redis, index: str) -> dict[str, float]:
    """The members of an index, by when they are due."""
    found = cast("list[tuple[bytes, float]]", connection.zrange(index, 0, -1, withscores=True))
    return {member.decode(): due for member, due in found}


def end_pauses(connection: redis.Redis) -> None:
    """Make the pauses of all jobs that were set aside end now."""
    connection.zadd(SET_ASIDE, dict.fromkeys(scored(connection, SET_ASIDE), 0.0))


# -- the release before, and one that adds fields -----------------------------------------------------------------------------------------


def test_all_that_the_release_before_wrote_is_read(own_redis: redis.Redis, records: JobRecords, storage: Storage) -> None:
    """Every record from before there were schema numbers is read whole: of each operation, waiting, running and ended in every way."""
    restore(own_redis, BEFORE)
    page, following = records.page("local", limit=50)
    assert following is None
    assert sorted(record.status for record in page) == sorted(
        [JobStatus.SUCCEEDED] * 4 + [JobStatus.FAILED, JobStatus.RUNNING, JobStatus.CANCELED] + [JobStatus.QUEUED] * 2
    )
    for record in page:
        fields = hashes(BEFORE, "job")[record.spec.id]
        assert json.loads(record.spec.model_dump_json(exclude_none=True)) == json.loads(fields[b"spec"])
        told = [output.model_dump(mode="json") for output in record.outputs]
        assert told == json.loads(fields.get(b"outputs", b"[]"))
        assert public(record, storage).id == record.spec.id


def test_a_worker_does_a_job_of_the_release_before(own_redis: redis.Redis, claims: Claims, records: JobRecords) -> None:
    """Jobs that waited when the service was upgraded are claimed and begun."""
    restore(own_redis, BEFORE)
    taken = [claims.take(MODELS) for _ in range(2)]
    assert {lease.spec.request.operation for lease in taken if lease} == {"replace_background", "erase"}
    assert {records.get(lease.spec.id, "local").status for lease in taken if lease} == {JobStatus.RUNNING}


def test_what_a_later_release_adds_is_ignored() -> None:
    """Unknown fields anywhere in a record change nothing of what is read, while the schema number is a known one."""
    before, later = hashes(BEFORE, "job"), hashes(WITH_MORE, "job")
    assert {job: JobRecord.of(fields) for job, fields in later.items()} == {job: JobRecord.of(fields) for job, fields in before.items()}


def test_endpoints_and_webhooks_with_more_fields_are_read(own_redis: redis.Redis) -> None:
    """A tenant's endpoints and the log of its webhooks are those of the release before, whatever was added to them."""
    seen = []
    for release in (BEFORE, WITH_MORE):
        own_redis.flushdb()
        restore(own_redis, release)
        deliveries, _ = Outbox(own_redis).page("local", state=None, endpoint=None, before=None, limit=50)
        seen.append((Endpoints(own_redis).of("local"), deliveries))
    assert seen[0] == seen[1]
    assert [len(part) for part in seen[0]] == [1, 6]


def test_a_change_of_an_endpoint_keeps_what_a_later_release_added(own_redis: redis.Redis) -> None:
    """An older release that disables an endpoint leaves the fields that it does not know as they were."""
    restore(own_redis, WITH_MORE)
    [endpoint] = Endpoints(own_redis).of("local")
    Endpoints(own_redis).change("local", endpoint.id, lambda found: found.model_copy(update={"enabled": False}))
    kept = json.loads(own_redis.hget("outfill:endpoints:local", endpoint.id) or b"")
    assert kept["enabled"] is False
    assert kept["of_tomorrow"] == {"new": [1, None, "text"]}


def test_a_report_of_an_earlier_build_is_read() -> None:
    """A record from before ``subject.confidence``, with the ``ambiguity`` that stood in its place, is read."""
    job = next(job for job, fields in hashes(BEFORE, "job").items() if fields[b"status"] == b"succeeded")
    fields = hashes(BEFORE, "job")[job]
    outputs = json.loads(fields[b"outputs"])
    outputs[0]["report"]["ambiguity"] = 0.1
    assert JobRecord.of(fields | {b"outputs": json.dumps(outputs).encode()}) == JobRecord.of(fields)


def test_callers_are_still_told_of_unknown_fields() -> None:
    """What is ignored in a record is refused in a request, by name."""
    with pytest.raises(ValueError, match="of_tomorrow"):
        job_request.validate_json(json.dumps({"operation": "remove_background", "image": "upload:x", "of_tomorrow": 1}), strict=True)


def test_new_records_have_the_number(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> None:
    """A record says by which schema it was written, and its job's queue stands where any release finds it."""
    spec = accept(records, queue, spec_of())
    assert own_redis.hmget(job_key(spec.id), "schema", "queue", "tenant") == [b"1", b"backdrop.standard", b"shop"]


# -- a release whose records this one does not know -----------------------------------------------------------------------------------------


def test_a_worker_leaves_jobs_of_a_later_schema_to_others(
    own_redis: redis.Redis, claims: Claims, records: JobRecords, queue: JobQueue
) -> None:
    """Jobs that a worker cannot read are set aside, neither begun nor ended, and the jobs behind them go on."""
    restore(own_redis, AFTER)
    known = accept(records, queue, spec_of(tenant="local"))
    before = unreadable("job")
    assert take(claims).spec.id == known.id
    assert claims.take(MODELS) is None
    assert unreadable("job") == before + 2
    assert queue.aside() == 2
    for job_id in (member.partition("/")[2] for member in scored(own_redis, SET_ASIDE)):
        assert own_redis.hmget(job_key(job_id), "status", "attempts") == [b"queued", b"0"]
    assert own_redis.smembers(running_key("local")) == {known.id.encode()}
    assert own_redis.llen(intermediate_key("backdrop.standard")) == 0


def test_a_worker_that_cannot_read_a_job_does_not_spin_on_it(own_redis: redis.Redis, claims: Claims, queue: JobQueue) -> None:
    """A job that was set aside is left alone for a pause, which is twice as long each time up to a minute."""
    restore(own_redis, AFTER)
    pauses = []
    for _ in range(6):
        assert claims.take(MODELS) is None
        queue.bring_back()
        assert queue.aside() == 2  # their pauses are not over
        pauses.append(round(min(scored(own_redis, SET_ASIDE).values()) / 1000 - queue.now_s()))
        end_pauses(own_redis)
        assert queue.bring_back() == 2
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_a_worker_of_the_later_release_does_the_job(
    own_redis: redis.Redis, claims: Claims, records: JobRecords, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an older worker has set aside stands in its old place when the pause is over, with its message, and a newer worker does it."""
    later, behind = (accept(records, queue, spec_of(tenant="local")) for _ in range(2))
    own_redis.hset(job_key(later.id), "schema", 2)
    assert take(claims).spec.id == behind.id
    assert own_redis.exists(f"rq:job:{later.id}") == 1
    third = accept(records, queue, spec_of(tenant="local"))
    end_pauses(own_redis)
    assert queue.bring_back() == 1
    monkeypatch.setattr(core.jobs, "SCHEMA", 2)
    newer = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    assert [take(newer).spec.id for _ in range(2)] == [later.id, third.id]


def test_a_job_that_is_canceled_while_it_is_set_aside_does_not_come_back(
    own_redis: redis.Redis, claims: Claims, records: JobRecords, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer API cancels what an older worker has set aside, and nobody claims it afterwards."""
    spec = accept(records, queue, spec_of())
    own_redis.hset(job_key(spec.id), "schema", 2)
    assert claims.take(MODELS) is None
    monkeypatch.setattr(core.jobs, "SCHEMA", 2)
    assert records.cancel(spec.id, "shop").status is JobStatus.CANCELED
    end_pauses(own_redis)
    assert queue.bring_back() == 0
    assert queue.aside() == queue.depth("backdrop.standard") == own_redis.zcard(turns_key("backdrop.standard")) == 0


def test_a_flood_of_jobs_that_cannot_be_read_ends_a_round(
    own_redis: redis.Redis, claims: Claims, records: JobRecords, queue: JobQueue
) -> None:
    """A worker looks at what else it has to do after a hundred jobs that it cannot read."""
    for _ in range(101):
        own_redis.hset(job_key(accept(records, queue, spec_of()).id), "schema", 2)
    assert claims.take(MODELS) is None
    assert (queue.aside(), queue.depth("backdrop.standard")) == (100, 1)


def test_listings_leave_out_what_cannot_be_read_and_count_it(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> None:
    """A page has all jobs of a tenant that can be read, whatever stands between them, and goes on behind it."""
    first = accept(records, queue, spec_of(tenant="local", id="job_01A00000000000000000000000"))
    restore(own_redis, AFTER)
    last = accept(records, queue, spec_of(tenant="local"))
    before = unreadable("job")
    page, following = records.page("local", limit=50)
    assert ([record.spec.id for record in page], following) == ([last.id, first.id], None)
    assert unreadable("job") == before + 9
    page, following = records.page("local", limit=1)
    assert [record.spec.id for record in page] == [last.id]
    page, _ = records.page("local", limit=1, before=following, wanted=lambda glance: glance.operation == "replace_background")
    assert [record.spec.id for record in page] == [first.id]


def test_reading_one_that_cannot_be_read_says_so_to_its_owner_alone(own_redis: redis.Redis, records: JobRecords) -> None:
    """The owner is told that a newer release wrote the record; another tenant, that there is no such job."""
    restore(own_redis, AFTER)
    job_id = next(iter(hashes(AFTER, "job")))
    with pytest.raises(RecordUnreadable, match=f"a newer release of the service wrote {job_id}"):
        records.get(job_id, "local")
    with pytest.raises(JobNotFound):
        records.get(job_id, "shop")


def test_callers_are_told_of_it_with_a_reason(api: Api, live_redis: redis.Redis, coffee: bytes) -> None:
    """Over HTTP a job that cannot be read is 503 with a code of its own; the tenant's list, and all else, is answered."""
    job = api.accept({"operation": "remove_background", "image": "file:photo"}, photo=coffee)
    eventually(lambda: api.read(job["id"])["status"] in ENDED)
    live_redis.hset(job_key(job["id"]), "schema", 2)
    try:
        answer = api.http.get(f"/v1/jobs/{job['id']}")
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "record_unreadable", "60")
        assert job["id"] in answer.json()["detail"]
        assert api.http.post(f"/v1/jobs/{job['id']}/repeat", json={}).json()["code"] == "record_unreadable"
        assert api.http.get(f"/v1/jobs/{job['id']}/events").json()["code"] == "record_unreadable"
        assert api.http.delete(f"/v1/jobs/{job['id']}").json()["code"] == "record_unreadable"
        listed = api.http.get("/v1/jobs", params={"limit": 100}).raise_for_status().json()["items"]
        assert job["id"] not in {each["id"] for each in listed}
        metrics = api.http.get("/metrics").text
        assert 'outfill_records_unreadable_total{kind="job"}' in metrics
    finally:
        live_redis.hset(job_key(job["id"]), "schema", 1)
    assert api.read(job["id"])["id"] == job["id"]


def test_a_state_and_events_of_a_later_release_do_not_break_those_who_wait(
    own_redis: redis.Redis, records: JobRecords, queue: JobQueue
) -> None:
    """An unknown state is told as a record that cannot be read, and an unknown event is passed over."""
    spec = accept(records, queue, spec_of())
    own_redis.xadd(f"outfill:events:{spec.id}", {"event": "job.improved", "seq": 1})
    assert records.news(spec.id, "0-0")[1] == []
    own_redis.hset(job_key(spec.id), "status", "improving")
    with pytest.raises(RecordUnreadable):
        records.status(spec.id)


def test_one_webhook_that_cannot_be_read_keeps_no_other_waiting(own_redis: redis.Redis) -> None:
    """The sender gets all due webhooks that it can read; an endpoint that cannot be read hides no other."""
    restore(own_redis, AFTER)
    outbox, ids = Outbox(own_redis), sorted(hashes(AFTER, "webhook"))
    readable = ids[0]
    own_redis.hset(f"outfill:webhook:{readable}", "event", hashes(BEFORE, "webhook")[readable][b"event"])
    for name in ids:
        own_redis.zadd(lane_key("local/0"), {name: 1})
        own_redis.zadd("outfill:outbox", {"local/0": 1})
    before = unreadable("webhook")
    assert [row.id for row in outbox.lease(10, 30.0)] == [readable]
    assert unreadable("webhook") == before + len(ids) - 1
    deliveries, _ = outbox.page("local", state=None, endpoint=None, before=None, limit=50)
    assert [delivery.id for delivery in deliveries] == [readable]
    assert Endpoints(own_redis).of("local") == []


# -- the steward ----------------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_does_not_stand_before_what_is_due(
    own_redis: redis.Redis, steward: Steward, records: JobRecords, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of jobs that are due those that can be read are dealt with, however many that cannot were due before them; these are looked at again later."""
    monkeypatch.setattr("core.jobs.DUE", 5)
    monkeypatch.setattr(JobRecords._due, "__defaults__", (5,))
    restore(own_redis, AFTER)
    odd = list(hashes(AFTER, "job"))
    assert len(odd) > 5
    known = accept(records, queue, spec_of(deadline_at=utc_now() - timedelta(seconds=1)))
    for index in (ACCEPTING, DEADLINES, EXPIRY, INPUTS_EXPIRY, OUTPUTS_EXPIRY):
        own_redis.zadd(index, dict.fromkeys(odd, 1))
    own_redis.zadd(LEFTOVERS, {f"local/{job_id}": 1 for job_id in odd})
    for _ in range(2):
        for duty in (*steward.duties(), *steward.storage_duties()):
            assert steward._try(duty)
    assert records.get(known.id, "shop").status is JobStatus.EXPIRED
    soon = (queue.now_s() + 500) * 1000
    for index in (ACCEPTING, DEADLINES, EXPIRY, INPUTS_EXPIRY, OUTPUTS_EXPIRY, LEFTOVERS):
        kept = {member.rpartition("/")[2]: due for member, due in scored(own_redis, index).items()}
        assert set(odd) <= set(kept), index
        assert min(kept[job_id] for job_id in odd) > soon, index


def test_a_job_that_waits_and_stands_nowhere_is_put_into_line_again(
    own_redis: redis.Redis, steward: Steward, claims: Claims, records: JobRecords, queue: JobQueue
) -> None:
    """What a release before this one has dropped (claimed, not read, settled) is found by its record, and done."""
    lost, others = accept(records, queue, spec_of()), [accept(records, queue, spec_of(tenant="other")) for _ in range(2)]
    own_redis.lrem(queue_key(lost.queue), 1, lost.id)
    own_redis.delete(line_key(lost.queue, "shop"), f"rq:job:{lost.id}")
    own_redis.zrem(turns_key(lost.queue), "shop")
    own_redis.hdel(job_key(lost.id), "queue")  # as that release wrote it
    assert queue.missing() == 1
    steward.reconcile()
    assert queue.missing() == 1  # it may have been between two places
    steward.reconcile()
    assert queue.missing() == 0
    assert queue.depth(lost.queue) == 3
    assert {take(claims).spec.id for _ in range(3)} == {lost.id, *(spec.id for spec in others)}


def test_jobs_that_stand_somewhere_are_left_there(own_redis: redis.Redis, claims: Claims, records: JobRecords, queue: JobQueue) -> None:
    """Jobs in line, claimed, leased, being accepted, set aside, running or ended are not put into line a second time."""
    running = accept(records, queue, spec_of(tenant="other"))
    assert take(claims).spec.id == running.id
    waiting = accept(records, queue, spec_of())
    records.create(accepting := spec_of())
    claimed, leased, aside = (accept(records, queue, spec_of(tenant=name)) for name in ("c", "l", "a"))
    for spec in (claimed, leased, aside):
        own_redis.zrem(line_key(spec.queue, spec.tenant), spec.id)
        own_redis.zrem(turns_key(spec.queue), spec.tenant)
        own_redis.lrem(queue_key(spec.queue), 0, spec.id)
    own_redis.rpush(intermediate_key(claimed.queue), claimed.id)
    own_redis.zadd(f"rq:wip:{leased.queue}", {f"{leased.id}:x": queue.now_s() + 30})
    own_redis.zadd(SET_ASIDE, {f"{aside.queue}/{aside.id}": 2e12})
    before = own_redis.lrange(queue_key(waiting.queue), 0, -1)
    assert queue.reconcile() == 0
    assert own_redis.lrange(queue_key(waiting.queue), 0, -1) == before
    assert records.accepting(accepting.id)


def test_a_sweep_that_finds_nothing_is_not_made_again_at_once(
    own_redis: redis.Redis, steward: Steward, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a count is wrong and no job is lost, not every round looks through all records."""
    own_redis.hset("outfill:counts", "queued", 3)
    sweeps = []

    def sweep() -> int:
        sweeps.append(1)
        return 0

    monkeypatch.setattr(queue, "reconcile", sweep)
    for _ in range(5):
        steward.reconcile()
    assert len(sweeps) == 1
