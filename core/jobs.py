"""Job records: the truth about every job, in Redis.

Keys: ``outfill:job:{id}`` (hash), ``outfill:jobs:{tenant}`` (ids, oldest first), ``outfill:accepting``, ``outfill:deadlines`` and
``outfill:expiry`` (ids by time), ``outfill:leftovers`` (jobs that may have left objects), ``outfill:counts`` (jobs by state),
``outfill:reservation:{key_id}:{key}`` (idempotency keys). What a tenant has of them is counted in ``outfill:counts:{tenant}`` and bounded.
Every change of state is one Lua script in core/lua.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Literal, cast

import redis

from api_schemas.downloads import download_name
from api_schemas.errors import (
    ErrorInfo,
    JobAlreadyFinished,
    JobNotFound,
    RecordUnreadable,
    TooManyLeaving,
    TooManyQueued,
    TooManyReservations,
    TooManyUploads,
)
from api_schemas.events import TERMINAL_EVENTS, Event
from api_schemas.jobs import Job, JobOutput, JobSpec, JobStatus, JobUrls, JobWarning, Progress, StoredOutput, WarningCode, utc_now
from api_schemas.requests import JobEvent, JobRequest, ReplaceBackgroundRequest
from core.events import (
    DEAD_LETTERS,
    OUTBOX,
    TENANTS,
    dead_key,
    deliveries_key,
    endpoints_key,
    lane_key,
    policy_key,
    reading,
    stream_key,
    telling,
    told_key,
)
from core.queue import execution_key, intermediate_key, leases_key, line_key, lua, message_keys, queue_key, running_key, turns_key
from core.settings import Limits, Settings
from core.storage import Storage, archive_key

SCHEMA = 1
"""The number of the records that this release writes. What a release adds to them is ignored by older ones; where one that ignores it would do a job otherwise
than it was asked for, the number is raised, and they leave the job alone."""
ACCEPTING, DEADLINES, EXPIRY, COUNTS = "outfill:accepting", "outfill:deadlines", "outfill:expiry", "outfill:counts"
INPUTS_EXPIRY, OUTPUTS_EXPIRY = f"{EXPIRY}:inputs", f"{EXPIRY}:outputs"
UPLOADS, LEFTOVERS, UNARCHIVED = "outfill:uploads", "outfill:leftovers", "outfill:unarchived"
KEYS, BACKUP = "outfill:keys", "outfill:backup"
USAGE_TTL_S = 400 * 86400
RESERVATION_LEASE_MS, RESERVATION_TTL_MS = 60_000, 86_400_000
"""How long an idempotency key is held by a request that has made no job yet, and by its job."""

LEAVING_PAUSE_S = 5
"""When a tenant may come again that has jobs to be deleted first."""
DUE = 500
"""Ids that are due which are read at once."""

_CHUNK, _CHUNKS = 100, 10
"""Records that a listing reads at once, and how often."""

_PASSING = frozenset(
    {"begun_ms", "cancel", "committed_by", "execution", "kept", "place", "preview", "preview_number", "reservation", "tenant"}
)
"""Fields of a record that belong to Redis or to an execution, and not to what became of the job."""
_ARCHIVE_FORMAT = 1
UNHELD = "unheld"
"""Stands for the execution, in the archive's key, where no worker ended the job."""

Verdict = Literal["begun", "missing", "terminal", "lost", "duplicate"]
Commit = Literal["committed", "repeated", "canceled", "lost"]
"""``repeated``: an earlier call of this execution had ended the job, and it stays as that call ended it. ``canceled``: it was to succeed
and its owner has asked to cancel; nothing was changed."""
Beat = Literal["lost", "running", "cancel"]
_EVENTS = frozenset(JobEvent)
"""Names of events that this release knows; of others it tells nobody."""
_BEATS: tuple[Beat, ...] = ("lost", "running", "cancel")
_COMMITS: dict[int, Commit] = {1: "committed", 2: "repeated", 3: "canceled"}


def job_key(job_id: str) -> str:
    """The record of a job."""
    return f"outfill:job:{job_id}"


def tenant_key(tenant: str) -> str:
    """The index of a tenant's jobs."""
    return f"outfill:jobs:{tenant}"


def durations_key(model: str) -> str:
    """How long a model's last jobs took (ms), newest first."""
    return f"outfill:durations:{model}"


def reservation_key(key_id: str, key: str) -> str:
    """An idempotency key of an API key."""
    return f"outfill:reservation:{key_id}:{key}"


def reserving_key(tenant: str) -> str:
    """A tenant's reservations that have no job yet, by when they lapse."""
    return f"outfill:reserving:{tenant}"


def tenant_counts_key(tenant: str) -> str:
    """How many jobs of a tenant wait, and the bytes of what it has."""
    return f"outfill:counts:{tenant}"


def leaving_key(tenant: str) -> str:
    """A tenant's jobs that have ended and have no place any more: to be deleted now."""
    return f"outfill:leaving:{tenant}"


def uploads_key(tenant: str) -> str:
    """A tenant's uploads by when they expire, each with its bytes."""
    return f"{UPLOADS}:{tenant}"


def key_record_key(digest: str) -> str:
    """The record of an API key."""
    return f"outfill:key:{digest}"


def usage_key(key_id: str | None, day: date) -> str:
    """What an API key was used for on one day (UTC); '' for none."""
    return f"outfill:usage:{key_id}:{day.isoformat()}" if key_id else ""


def milliseconds(moment: datetime) -> int:
    """Unix time in ms."""
    return int(moment.timestamp() * 1000)


@dataclass(frozen=True)
class JobRecord:
    """One job as Redis has it."""

    spec: JobSpec
    status: JobStatus
    attempts: int
    step: int = 0
    steps: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outputs: tuple[StoredOutput, ...] = ()
    runtime: dict[str, Any] = field(default_factory=dict)
    """What it ran with: device, dtype, versions."""
    error: ErrorInfo | None = None
    cancel_requested: bool = False
    outputs_deleted: bool = False
    """Their time to live is over; what was measured on them is still told."""
    leaving: bool = False
    """It has ended, and its tenant has no room for it."""
    preview: str | None = None
    """Object key of what the picture looked like a few steps ago; while it runs."""
    preview_number: int = 0
    """Which of its previews that is."""
    archive: str = ""
    """Object key of the copy of this record; once it has ended."""

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> JobRecord:
        """Read a record's hash. Raises an error where a release wrote it whose records this one does not know."""
        _check_schema(fields)
        text = {key.decode(): value.decode() for key, value in fields.items()}
        spec = JobSpec.model_validate_json(text["spec"], extra="ignore")
        ended_by = text.get("committed_by", "").rpartition(":")[2] or UNHELD
        return cls(
            spec=spec,
            status=JobStatus(text["status"]),
            attempts=int(text["attempts"]),
            step=int(text.get("step", 0)),
            steps=int(text.get("steps", 0)),
            started_at=datetime.fromisoformat(text["started_at"]) if "started_at" in text else None,
            finished_at=datetime.fromisoformat(text["finished_at"]) if "finished_at" in text else None,
            outputs=tuple(StoredOutput.model_validate(item, extra="ignore") for item in json.loads(text.get("outputs", "[]"))),
            runtime=json.loads(text.get("runtime", "{}")),
            error=ErrorInfo.model_validate_json(text["error"]) if "error" in text else None,
            cancel_requested="cancel" in text,
            outputs_deleted="outputs_deleted" in text,
            leaving=text.get("kept", "").startswith("leaving "),
            preview=text.get("preview"),
            preview_number=int(text.get("preview_number", 0)),
            archive=archive_key(spec.tenant, spec.id, ended_by),
        )

    def input_keys(self) -> set[str]:
        """The objects that it was given."""
        return {ref.key for ref in self.spec.inputs.values()}

    def object_keys(self) -> set[str]:
        """The objects that the outputs are made of."""
        return {key for output in self.outputs for key in (output.key, *output.layers.values())}


def _check_schema(fields: Mapping[bytes, bytes]) -> None:
    number = int(fields.get(b"schema", b"0"))  # before there were numbers
    if number > SCHEMA:
        raise ValueError(f"its schema is {number}, and this release knows {SCHEMA}")


@dataclass(frozen=True)
class Glance:
    """What jobs are looked for by, read in a tenth of the time of a record."""

    status: str
    operation: str
    metadata: Mapping[str, Any]

    @classmethod
    def at(cls, fields: Mapping[bytes, bytes]) -> Glance:
        """Read from a record's hash, as ``JobRecord.of`` does."""
        _check_schema(fields)
        request = json.loads(fields[b"spec"])["request"]
        return cls(fields[b"status"].decode(), request["operation"], request.get("metadata", {}))


@dataclass(frozen=True)
class Backlog:
    """What is due for deletion."""

    number: int
    late_s: float
    """How long the first has been due."""


@dataclass(frozen=True)
class Reservation:
    """An idempotency key, held for one request."""

    tenant: str
    key_id: str
    """The API key that it came with: what one was answered is not another's to hear."""
    key: str
    request: str
    """Digest of what was asked for."""
    token: str
    """Whose it is: one POST's."""
    job_id: str | None = None
    """The job that was made under it; its inputs are stored."""


@dataclass(frozen=True)
class Outcome:
    """How a job ends."""

    status: JobStatus
    outputs: tuple[StoredOutput, ...] = ()
    runtime: Mapping[str, Any] = field(default_factory=dict)
    error: ErrorInfo | None = None
    steps: int = 0
    """Steps that were run, for the progress to end on."""

    def fields(self) -> list[str]:
        """Field, value, field, value … for the record."""
        flat = [
            "outputs",
            json.dumps([output.model_dump(mode="json") for output in self.outputs]),
            "runtime",
            json.dumps(dict(self.runtime)),
        ]
        if self.status is JobStatus.SUCCEEDED:
            flat += ["step", str(self.steps), "steps", str(self.steps)]
        return flat + (["error", self.error.model_dump_json()] if self.error else [])


class JobRecords:
    """Reads and changes job records. Thread-safe."""

    def __init__(
        self,
        connection: redis.Redis,
        *,
        retention_s: int,
        inputs_s: int | None = None,
        outputs_s: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._redis, self._limits = connection, limits or Limits()
        self._keep_ms = [retention_s * 1000, *("" if seconds is None else seconds * 1000 for seconds in (inputs_s, outputs_s))]
        self._schedule = connection.register_script(lua("schedule"))
        self._strip = connection.register_script(lua("strip"))
        self._create = connection.register_script(lua("clock", "quota", "create"))
        self._begin = connection.register_script(lua("clock", "quota", "outbox", "tell", "begin"))
        self._finish = connection.register_script(lua("clock", "quota", "outbox", "tell", "keep", "finish"))
        self._requeue = connection.register_script(lua("quota", "requeue"))
        self._beat = connection.register_script(lua("beat"))
        self._cancel = connection.register_script(lua("cancel"))
        self._delete = connection.register_script(lua("clock", "quota", "outbox", "delete"))
        self._reserve = connection.register_script(lua("clock", "quota", "reserve"))
        self._bind = connection.register_script(lua("bind"))
        self._release = connection.register_script(lua("release"))
        self._expect = connection.register_script(lua("clock", "quota", "expect"))
        self._restore = connection.register_script(lua("clock", "quota", "keep", "restore"))
        self._forget_upload = connection.register_script(lua("forget_upload"))
        self._forget_objects = connection.register_script(lua("quota", "forget_objects"))

    @classmethod
    def of(cls, connection: redis.Redis, settings: Settings) -> JobRecords:
        """The records of a process, kept as the settings say."""
        kept = settings.retention
        return cls(connection, retention_s=kept.jobs_s, inputs_s=kept.inputs_s, outputs_s=kept.outputs_s, limits=settings.limits)

    # -- reading ------------------------------------------------------------------------------------------------------------------

    def find(self, job_id: str) -> JobRecord | None:
        """The record, if there is one. Raises ``RecordUnreadable``."""
        return _record(job_id, cast("dict[bytes, bytes]", self._redis.hgetall(job_key(job_id))))

    def get(self, job_id: str, tenant: str) -> JobRecord:
        """The record of a tenant's own job. Raises ``JobNotFound``, for another tenant's job too, and ``RecordUnreadable``."""
        try:
            record = self.find(job_id)
        except RecordUnreadable:
            if self._redis.zscore(tenant_key(tenant), job_id) is None:
                raise JobNotFound(f"no job {job_id}") from None
            raise
        if record is None or record.spec.tenant != tenant:
            raise JobNotFound(f"no job {job_id}")
        return record

    def execution(self, job_id: str) -> str | None:
        """The lease member of the execution that runs the job, or ran it last."""
        found = cast("bytes | None", self._redis.hget(job_key(job_id), "execution"))
        return found.decode() if found else None

    def status(self, job_id: str) -> JobStatus | None:
        """The state of a job, if there is such a job. Raises ``RecordUnreadable``."""
        found = cast("bytes | None", self._redis.hget(job_key(job_id), "status"))
        with reading("job", job_id):
            return JobStatus(found.decode()) if found else None

    def news(self, job_id: str, after: str) -> tuple[JobRecord | None, list[tuple[str, JobEvent]]]:
        """The record, and what was told of the job since the entry ``after`` of its stream, as of one moment. Raises ``RecordUnreadable``."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(job_key(job_id))
            pipe.xrange(stream_key(job_id), f"({after}")
            fields, entries = pipe.execute()
        names = [(entry.decode(), values[b"event"].decode()) for entry, values in entries]
        return _record(job_id, fields), [(entry, JobEvent(name)) for entry, name in names if name in _EVENTS]

    def last_entry(self, job_id: str) -> str | None:
        """The id of the last entry of a job's stream."""
        entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", self._redis.xrevrange(stream_key(job_id), count=1))
        return entries[0][0].decode() if entries else None

    def page(
        self,
        tenant: str,
        *,
        before: str | None = None,
        since: str | None = None,
        limit: int,
        wanted: Callable[[Glance], bool] | None = None,
    ) -> tuple[list[JobRecord], str | None]:
        """A tenant's ``wanted`` jobs, newest first: at most ``limit`` with ids from ``since`` on and below ``before``, and where to go on.

        ``None`` says that there are no more. At most a thousand records are looked at, so that a page of rare jobs may be short, or empty. Those that
        cannot be read are left out.
        """
        found: list[JobRecord] = []
        for _ in range(_CHUNKS):
            top, bottom = (f"({before}" if before else "+"), (f"[{since}" if since else "-")
            ids = [
                each.decode() for each in cast("list[bytes]", self._redis.zrevrangebylex(tenant_key(tenant), top, bottom, 0, _CHUNK + 1))
            ]
            for job_id, fields in self._hashes(ids[:_CHUNK]):
                with suppress(RecordUnreadable), reading("job", job_id):  # one that a newer release wrote keeps no others from being listed
                    if wanted is None or wanted(Glance.at(fields)):
                        found.append(JobRecord.of(fields))
                if len(found) == limit:
                    return found, job_id if job_id != ids[-1] else None
            if len(ids) <= _CHUNK:
                return found, None
            before = ids[_CHUNK - 1]
        return found, before

    def _hashes(self, ids: Sequence[str]) -> list[tuple[str, dict[bytes, bytes]]]:
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(job_key(job_id))
            return [(job_id, fields) for job_id, fields in zip(ids, pipe.execute(), strict=True) if b"spec" in fields]

    def counts(self) -> dict[JobStatus, int]:
        """Jobs by state, all states named."""
        found = cast("dict[bytes, bytes]", self._redis.hgetall(COUNTS))
        return {status: int(found.get(status.encode(), 0)) for status in JobStatus}

    def durations(self, model: str) -> list[float]:
        """Seconds that the last jobs of a model that succeeded took a worker, at most 32, of the last week's."""
        return [int(ms) / 1000 for ms in cast("list[bytes]", self._redis.lrange(durations_key(model), 0, -1))]

    # -- changing state -----------------------------------------------------------------------------------------------------------

    def create(self, spec: JobSpec) -> None:
        """Record a job as queued. It counts as being accepted until ``accepted`` is called.

        Raises ``TooManyQueued`` where the tenant has as many jobs waiting as its policy or the settings allow, or bytes of them, and
        ``TooManyLeaving`` where what has ended is not deleted as fast as it ends.
        """
        limits = self._limits
        deadline = milliseconds(spec.deadline_at) if spec.deadline_at else ""
        keys = [job_key(spec.id), tenant_key(spec.tenant), ACCEPTING, DEADLINES, COUNTS, usage_key(spec.key_id, spec.created_at.date())]
        keys += [tenant_counts_key(spec.tenant), policy_key(spec.tenant), leaving_key(spec.tenant)]
        args: list[str | int] = [spec.id, spec.model_dump_json(exclude_none=True), deadline, USAGE_TTL_S]
        args += [limits.queued_jobs, limits.queued_bytes, limits.leaving_bytes, SCHEMA]
        verdict, number = cast("tuple[bytes, int]", self._create(keys=keys, args=args))
        match verdict:
            case b"jobs":
                raise TooManyQueued(f"{number} jobs wait, which is all that may", limit=number)
            case b"bytes":
                raise TooManyQueued(f"{number} jobs wait, whose requests take all bytes that they may", limit=number)
            case b"leaving":
                raise TooManyLeaving(
                    f"{number} jobs that have ended, more than are kept, are not deleted yet: their webhooks are told first",
                    retry_after_s=LEAVING_PAUSE_S,
                )

    def reserve(self, wanted: Reservation) -> Reservation:
        """Hold an idempotency key for a short while: the reservation that has it now, ``wanted`` or an earlier one.

        Raises ``TooManyReservations`` where the tenant holds as many keys without a job as it may.
        """
        keys = [reservation_key(wanted.key_id, wanted.key), reserving_key(wanted.tenant), policy_key(wanted.tenant)]
        args: list[str | int] = [wanted.token, wanted.request, RESERVATION_LEASE_MS, self._limits.reservations]
        found = cast("list[bytes] | None", self._reserve(keys=keys, args=args))
        if found is None:
            raise TooManyReservations("as many requests with idempotency keys are being accepted as may", retry_after_s=1)
        token, request, job_id = found
        return replace(wanted, token=token.decode(), request=request.decode(), job_id=job_id.decode() or None)

    def bind(self, reservation: Reservation, job_id: str) -> bool:
        """Keep the key for a job that is recorded and stored, and about to be queued. False: another request has it, or the job is gone."""
        return bool(
            self._bind(
                keys=[reservation_key(reservation.key_id, reservation.key), job_key(job_id), reserving_key(reservation.tenant)],
                args=[reservation.token, reservation.request, job_id, RESERVATION_TTL_MS],
            )
        )

    def release(self, reservation: Reservation) -> None:
        """Free a key under which no job was made."""
        keys = [reservation_key(reservation.key_id, reservation.key), reserving_key(reservation.tenant)]
        self._release(keys=keys, args=[reservation.token])

    def accepting(self, job_id: str) -> bool:
        """Whether the job's acceptance has not ended: nobody was told of it yet, or the API died on the way."""
        return self._redis.zscore(ACCEPTING, job_id) is not None

    def accepted(self, job_id: str) -> bool:
        """The job stands in its queue. False: it took so long that the steward took it back."""
        return bool(self._redis.zrem(ACCEPTING, job_id))

    def begin(self, spec: JobSpec, lease: str) -> tuple[Verdict, int]:
        """An execution holding ``lease`` begins the job: the verdict, and which attempt this is."""
        keys, told = telling(Event.now(JobEvent.STARTED, tenant=spec.tenant, job_id=spec.id), spec.request.webhook)
        verdict, attempts = cast(
            "tuple[bytes, int]",
            self._begin(
                keys=[job_key(spec.id), leases_key(spec.queue), COUNTS, *_tenant_keys(spec)[:2], *keys], args=[lease, spec.id, *told]
            ),
        )
        return cast("Verdict", verdict.decode()), attempts

    def commit(self, spec: JobSpec, lease: str, outcome: Outcome) -> Commit:
        """End a running job with what the execution holding ``lease`` made. ``lost``: it is another's by now; nothing was changed."""
        return _COMMITS.get(self._end(spec, JobStatus.RUNNING, outcome, lease=lease), "lost")

    def end_queued(self, spec: JobSpec, outcome: Outcome) -> bool:
        """End a job that waits (canceled, expired). False: it does not wait any more."""
        return self._end(spec, JobStatus.QUEUED, outcome) == 1

    def end_abandoned(self, spec: JobSpec, lease: str, outcome: Outcome, *, lapsed_before_s: float) -> bool:
        """End a running job whose lease lapsed. False: it has not, or the job is another execution's."""
        return self._end(spec, JobStatus.RUNNING, outcome, lease=lease, lapsed_before=f"{lapsed_before_s}") == 1

    def _end(self, spec: JobSpec, source: JobStatus, outcome: Outcome, *, lease: str = "", lapsed_before: str = "") -> int:
        event = Event.now(TERMINAL_EVENTS[outcome.status], tenant=spec.tenant, job_id=spec.id)
        told_keys, told = telling(event, spec.request.webhook)
        keys = [job_key(spec.id), leases_key(spec.queue), EXPIRY, DEADLINES, COUNTS, queue_key(spec.queue), intermediate_key(spec.queue)]
        keys += [*message_keys(spec.id), durations_key(spec.model), usage_key(spec.key_id, event.occurred_at.date()), *_tenant_keys(spec)]
        keys += [policy_key(spec.tenant), INPUTS_EXPIRY, OUTPUTS_EXPIRY, *told_keys]
        pixels = sum(output.width * output.height for output in outcome.outputs)
        args: list[str | int] = [spec.id, source, outcome.status, self._keep_ms[0], lease, lapsed_before]
        args += [len(outcome.outputs), pixels, USAGE_TTL_S, spec.tenant, *self._keep_ms[1:], *self._ledger(outcome.status)]
        args += [sum(each.bytes for each in spec.inputs.values()), sum(each.bytes for each in outcome.outputs), *told, *outcome.fields()]
        return cast("int", self._finish(keys=keys, args=args))

    def _ledger(self, status: JobStatus) -> tuple[str, int, int, int]:
        """Among which of its tenant's jobs one that ends so is kept (core/lua/keep.lua), and their bounds by the settings."""
        limits = self._limits
        if status in (JobStatus.CANCELED, JobStatus.EXPIRED):  # a tenant can make these as fast as it can ask
            return "canceled", limits.canceled_jobs, limits.canceled_bytes, limits.stored_bytes
        return "ended", limits.ended_jobs, limits.ended_bytes, limits.stored_bytes

    def requeue(self, spec: JobSpec, lease: str, *, lapsed_before_s: float | None = None) -> bool:
        """Give a job back to the front of its queue, after its lease lapsed.

        Without a time: by the worker that holds it, which costs no attempt.
        """
        args: list[str | int] = [spec.id, lease, "" if lapsed_before_s is None else f"{lapsed_before_s}", int(lapsed_before_s is None)]
        args += [lease.rpartition(":")[2], spec.tenant]
        queue = spec.queue
        keys = [job_key(spec.id), leases_key(queue), queue_key(queue), intermediate_key(queue), COUNTS, *message_keys(spec.id)]
        keys += [execution_key(lease), *_tenant_keys(spec)]
        return bool(self._requeue(keys=keys, args=args))

    def cancel(self, job_id: str, tenant: str) -> JobRecord:
        """Cancel a tenant's job: at once while it waits, at the next step while it runs. Raises ``JobAlreadyFinished``."""
        record = self.get(job_id, tenant)
        while not record.status.terminal:
            if self.end_queued(record.spec, Outcome(JobStatus.CANCELED)):
                return self.get(job_id, tenant)
            self._cancel(keys=[job_key(job_id)])
            record = self.get(job_id, tenant)
            if record.status is JobStatus.RUNNING:
                return record
        if record.status is JobStatus.CANCELED:
            return record
        raise JobAlreadyFinished(f"the job is {record.status}")

    # -- while it runs ------------------------------------------------------------------------------------------------------------

    def beat(self, job_id: str, lease: str, step: int, steps: int, *, preview: str | None = None, number: int = 0) -> Beat:
        """Store how far a running job is, with the key of its preview if there is one and which it is, and hear what became of it."""
        args: list[str | int] = [lease, step, steps, preview or "", number]
        return _BEATS[cast("int", self._beat(keys=[job_key(job_id), stream_key(job_id)], args=args))]

    # -- tenants ------------------------------------------------------------------------------------------------------------------

    def policy(self, tenant: str) -> dict[str, str]:
        """What a tenant has of its own; see ``service/tenant_commands.py`` for the names."""
        found = cast("dict[bytes, bytes]", self._redis.hgetall(policy_key(tenant)))
        return {name.decode(): value.decode() for name, value in found.items()}

    def set_policy(self, tenant: str, changes: Mapping[str, int | str | None]) -> None:
        """Change it, from the next script on; ``None`` goes back to the settings."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd(TENANTS, tenant)
            for name, value in changes.items():
                if value is None:
                    pipe.hdel(policy_key(tenant), name)
                else:
                    pipe.hset(policy_key(tenant), name, str(value))
            pipe.execute()

    # -- access, which the bucket has a copy of --------------------------------------------------------------------------------------

    def access(self) -> dict[str, Any]:
        """Keys as they are kept, and what tenants have of their own, endpoints and secrets too."""
        digests = [digest.decode() for digest in cast("list[bytes]", self._redis.hvals(KEYS))]
        tenants = sorted(tenant.decode() for tenant in cast("set[bytes]", self._redis.smembers(TENANTS)))
        with self._redis.pipeline(transaction=False) as pipe:
            for digest in digests:
                pipe.hgetall(key_record_key(digest))
            for tenant in tenants:
                pipe.hgetall(policy_key(tenant))
                pipe.hgetall(endpoints_key(tenant))
            found = [{name.decode(): value.decode() for name, value in fields.items()} for fields in pipe.execute()]
        of_tenants = found[len(digests) :]
        return {
            "keys": {digest: fields for digest, fields in sorted(zip(digests, found, strict=False)) if fields},
            "tenants": {
                tenant: {"policy": policy, "endpoints": endpoints}
                for tenant, policy, endpoints in zip(tenants, of_tenants[::2], of_tenants[1::2], strict=True)
            },
        }

    def restore_access(self, held: Mapping[str, Any]) -> tuple[int, int]:
        """Put back what is missing of it; what is there stays. Returns how many keys and endpoints came back."""
        keys = endpoints = 0
        for digest, fields in held["keys"].items():
            if self._redis.exists(key_record_key(digest)):
                continue
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(key_record_key(digest), mapping=fields)
                pipe.hset(KEYS, fields["id"], digest)
                pipe.execute()
            keys += 1
        for tenant, own in held["tenants"].items():
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.sadd(TENANTS, tenant)
                for name, value in own["policy"].items():
                    pipe.hsetnx(policy_key(tenant), name, value)
                for endpoint_id, text in own["endpoints"].items():
                    pipe.hsetnx(endpoints_key(tenant), endpoint_id, text)
                done = pipe.execute()
            endpoints += sum(done[1 + len(own["policy"]) :])
        return keys, endpoints

    def find_tenants(self) -> None:
        """Index the tenants that an earlier release knew by their keys alone: looks through all of Redis, once."""
        for pattern in (policy_key("*"), endpoints_key("*")):
            for key in self._redis.scan_iter(match=pattern, count=1000):
                self._redis.sadd(TENANTS, cast("bytes", key).decode().partition(":")[2].partition(":")[2])

    def last_backup(self) -> str | None:
        """The digest of what the newest copy holds; ``None``: this Redis has had none."""
        found = cast("bytes | None", self._redis.get(BACKUP))
        return found.decode() if found else None

    def backed_up(self, digest: str) -> None:
        """A copy that has this digest is in the bucket."""
        self._redis.set(BACKUP, digest)

    # -- archives -----------------------------------------------------------------------------------------------------------------

    def archive(self, job_id: str, outcome: Outcome | None = None) -> bytes | None:
        """The record of a job as it is kept in the bucket, as it would be with ``outcome`` if it has not ended yet; ``None``: there is none."""
        fields = cast("dict[bytes, bytes]", self._redis.hgetall(job_key(job_id)))
        if b"spec" not in fields:
            return None
        text = {key.decode(): value.decode() for key, value in fields.items()}
        text = {name: value for name, value in text.items() if name not in _PASSING and not name.startswith("webhook:")}
        if outcome is not None:
            flat = outcome.fields()
            text |= {"status": outcome.status, "finished_at": utc_now().isoformat(), **dict(zip(flat[::2], flat[1::2], strict=True))}
        return json.dumps({"format": _ARCHIVE_FORMAT, "id": job_id, "fields": text}).encode()

    def expect_archive(self, job_id: str) -> None:
        """The record of a job that has ended could not be archived yet."""
        self._redis.zadd(UNARCHIVED, {job_id: 0})

    def unarchived(self) -> list[str]:
        """Jobs that ended without a worker, whose records are to be archived."""
        return [job_id.decode() for job_id in cast("list[bytes]", self._redis.zrange(UNARCHIVED, 0, DUE - 1))]

    def archived(self, job_id: str) -> None:
        """The record is in the bucket."""
        self._redis.zrem(UNARCHIVED, job_id)

    def restore(self, archive: bytes, key: str, *, there: Callable[[str], bool]) -> bool:
        """Record an ended job anew from what ``archive`` made, which is at ``key``; ``there`` knows which objects are. False: there is a record.

        Raises ``ValueError`` where it is no archive, or that of a job that had not ended.
        """
        text = archived_fields(archive)
        record = JobRecord.of({name.encode(): value.encode() for name, value in text.items()})
        if not record.status.terminal or record.finished_at is None:
            raise ValueError(f"{key} is of a job that had not ended")
        spec = record.spec
        if record.outputs and not all(map(there, record.object_keys())):
            text["outputs_deleted"] = "1"
        execution = key.rpartition("/")[2].removesuffix(".json")
        if execution != UNHELD:  # a worker that had not yet heard that its commit was done asks again
            text["committed_by"] = f"{spec.id}:{execution}"
        inputs = sum(ref.bytes for ref in spec.inputs.values()) if all(map(there, record.input_keys())) else 0
        outputs = 0 if "outputs_deleted" in text else sum(output.bytes for output in record.outputs)
        keys = [job_key(spec.id), tenant_key(spec.tenant), EXPIRY, COUNTS, tenant_counts_key(spec.tenant), policy_key(spec.tenant)]
        keys += [INPUTS_EXPIRY, OUTPUTS_EXPIRY, stream_key(spec.id)]
        args: list[str | int] = [
            spec.id,
            spec.tenant,
            record.status,
            milliseconds(record.finished_at),
            *self._keep_ms,
            *self._ledger(record.status),
        ]
        args += [inputs, outputs, *(each for field in text.items() for each in field)]
        return bool(self._restore(keys=keys, args=args))

    # -- housekeeping -------------------------------------------------------------------------------------------------------------

    def stuck_in_acceptance(self, before: datetime) -> list[str]:
        """Jobs recorded before then that never reached their queue (the API died in between)."""
        return self._due(ACCEPTING, before)

    def past_deadline(self, now: datetime) -> list[str]:
        """Jobs whose deadline is over and that have not ended."""
        return self._due(DEADLINES, now)

    def past_retention(self, now: datetime) -> list[str]:
        """Jobs that are to be deleted."""
        return self._due(EXPIRY, now)

    def inputs_past_retention(self, now: datetime) -> list[str]:
        """Jobs whose inputs are to be deleted before they are."""
        return self._due(INPUTS_EXPIRY, now)

    def outputs_past_retention(self, now: datetime) -> list[str]:
        """Jobs whose outputs are to be deleted before they are."""
        return self._due(OUTPUTS_EXPIRY, now)

    def deletions_due(self, now: datetime) -> dict[str, Backlog]:
        """What is to be deleted by now, by kind."""
        kinds = {"jobs": EXPIRY, "inputs": INPUTS_EXPIRY, "outputs": OUTPUTS_EXPIRY, "uploads": UPLOADS}
        now_ms = milliseconds(now)
        with self._redis.pipeline(transaction=False) as pipe:
            for key in kinds.values():
                pipe.zcount(key, 0, now_ms)
                pipe.zrange(key, 0, 0, withscores=True)
            found = pipe.execute()
        oldest = [first[0][1] if first else now_ms for first in found[1::2]]
        return {
            kind: Backlog(number, max(now_ms - due_ms, 0) / 1000) for kind, number, due_ms in zip(kinds, found[::2], oldest, strict=True)
        }

    def owes_webhooks(self, job_id: str) -> bool:
        """Whether a job has webhooks that were neither delivered nor given up."""
        fields = cast("dict[bytes, bytes]", self._redis.hgetall(job_key(job_id)))
        lanes = {name.decode().removeprefix("webhook:"): lane.decode() for name, lane in fields.items() if name.startswith(b"webhook:")}
        with self._redis.pipeline(transaction=False) as pipe:
            for webhook_id, lane in lanes.items():
                pipe.zscore(lane_key(lane), webhook_id)
            return any(due is not None for due in pipe.execute())

    def put_off(self, index: str, member: str, until: datetime) -> None:
        """Look at what is due in an index (``EXPIRY``, ``DEADLINES``, …) again at another time."""
        self._schedule(keys=[index], args=["XX", milliseconds(until), member])

    def mark_outputs_deleted(self, job_id: str) -> None:
        """Give out no more URLs of a job's outputs: they are about to be deleted."""
        self._strip(keys=[job_key(job_id)])

    def forget_inputs(self, spec: JobSpec) -> None:
        """They are gone."""
        self._forget_objects(keys=[job_key(spec.id), INPUTS_EXPIRY, tenant_counts_key(spec.tenant)], args=[spec.id, "inputs"])

    def forget_outputs(self, spec: JobSpec) -> None:
        """They are gone."""
        self._forget_objects(keys=[job_key(spec.id), OUTPUTS_EXPIRY, tenant_counts_key(spec.tenant)], args=[spec.id, "outputs"])

    def _due(self, key: str, now: datetime, limit: int = DUE) -> list[str]:
        return [job_id.decode() for job_id in cast("Iterable[bytes]", self._redis.zrangebyscore(key, 0, milliseconds(now), 0, limit))]

    def expect_upload(self, tenant: str, upload_id: str, expires_at: datetime, size: int) -> None:
        """An upload of so many bytes is about to be stored; they are deleted when it expires. Raises ``TooManyUploads``."""
        keys = [UPLOADS, uploads_key(tenant), tenant_counts_key(tenant), policy_key(tenant)]
        args: list[str | int] = [f"{tenant}/{upload_id}", upload_id, milliseconds(expires_at), size]
        refused = cast(
            "tuple[bytes, int, int] | None", self._expect(keys=keys, args=[*args, self._limits.uploads, self._limits.upload_bytes])
        )
        if refused is not None:
            of, most, wait_ms = refused
            bound = f"{most} uploads" if of == b"uploads" else f"{most} bytes of uploads"
            raise TooManyUploads(f"there may be {bound} that have not expired", retry_after_s=max(math.ceil(wait_ms / 1000), 1))

    def expired_uploads(self, now: datetime) -> list[tuple[str, str]]:
        """Tenant and id of uploads to delete."""
        return [(tenant, upload_id) for tenant, _, upload_id in (member.partition("/") for member in self._due(UPLOADS, now))]

    def forget_upload(self, tenant: str, upload_id: str) -> None:
        """The bytes are gone."""
        self._forget_upload(keys=[UPLOADS, uploads_key(tenant), tenant_counts_key(tenant)], args=[f"{tenant}/{upload_id}", upload_id])

    def expect_leftovers(self, spec: JobSpec) -> None:
        """There may be objects of this job that no record names: what an execution stored that did not come to its commit."""
        self._schedule(keys=[LEFTOVERS], args=["NX", 0, f"{spec.tenant}/{spec.id}"])

    def leftovers(self, now: datetime) -> list[tuple[str, str]]:
        """Tenant and id of jobs that may have left objects behind."""
        return [(tenant, job_id) for tenant, _, job_id in (member.partition("/") for member in self._due(LEFTOVERS, now))]

    def forget_leftovers(self, tenant: str, job_id: str) -> None:
        """They are gone."""
        self._redis.zrem(LEFTOVERS, f"{tenant}/{job_id}")

    def delete(self, spec: JobSpec, *, only_if: Literal["unaccepted", "ended"] | None = None) -> bool:
        """Remove every trace of a job from Redis; where it has ``ended``, on its owner's word, the webhooks that it is owed too.

        False: it is not ``only_if`` (any more), and stays.
        """
        keys = [job_key(spec.id), tenant_key(spec.tenant), COUNTS, queue_key(spec.queue), intermediate_key(spec.queue), stream_key(spec.id)]
        keys += [*message_keys(spec.id), ACCEPTING, DEADLINES, EXPIRY, OUTBOX, DEAD_LETTERS, leases_key(spec.queue)]
        keys += [usage_key(spec.key_id, spec.created_at.date()), *_tenant_keys(spec), INPUTS_EXPIRY, OUTPUTS_EXPIRY]
        keys += [deliveries_key(spec.tenant), dead_key(spec.tenant), told_key(spec.tenant)]
        return bool(self._delete(keys=keys, args=[spec.id, only_if or "", spec.tenant]))

    def forget(self, job_id: str) -> None:
        """Take an id off the lists of what is due: its record is gone."""
        with self._redis.pipeline(transaction=True) as pipe:
            for index in (ACCEPTING, DEADLINES, EXPIRY, INPUTS_EXPIRY, OUTPUTS_EXPIRY, UNARCHIVED):
                pipe.zrem(index, job_id)
            pipe.execute()


def _record(job_id: str, fields: Mapping[bytes, bytes]) -> JobRecord | None:
    """The record that a hash holds, if it holds one. Raises ``RecordUnreadable``."""
    with reading("job", job_id):
        return JobRecord.of(fields) if b"spec" in fields else None


def archived_fields(archive: bytes) -> dict[str, str]:
    """The fields of a record that was archived. Raises ``ValueError`` for anything else."""
    held = json.loads(archive)
    if not isinstance(held, dict) or held.get("format") != _ARCHIVE_FORMAT or not isinstance(held.get("fields"), dict):
        raise ValueError("it is no archived record that this release can read")
    return {str(name): str(value) for name, value in held["fields"].items()}


def _tenant_keys(spec: JobSpec) -> tuple[str, str, str, str]:
    """A tenant's counts, its running jobs, its line in the job's queue, and that queue's turns."""
    return tenant_counts_key(spec.tenant), running_key(spec.tenant), line_key(spec.queue, spec.tenant), turns_key(spec.queue)


def recipe_of(request: JobRequest, model: str, revision: str) -> dict[str, Any]:
    """Every setting of a resolved request that decides what is painted."""
    hidden: dict[str, Any] = dict.fromkeys(
        ("operation", "image", "mask", "product_mask", "webhook", "metadata", "priority", "deadline_s", "model", "previews"), True
    )
    hidden["output"] = {"filename"}
    return {"model": model, "model_revision": revision} | request.model_dump(mode="json", exclude=hidden, exclude_none=True)


def warnings_of(request: JobRequest) -> tuple[JobWarning, ...]:
    """What a request asks for in a way that will go."""
    if not isinstance(request, ReplaceBackgroundRequest) or request.mask is None:
        return ()
    message = "mask will go: give product_mask, in which white is the product"
    return (JobWarning(code=WarningCode.MASK_DEPRECATED, message=message, field="mask"),)


def public(
    record: JobRecord, storage: Storage, *, root_path: str = "", position: int | None = None, status: JobStatus | None = None
) -> Job:
    """The job as its owner sees it, with fresh URLs; those of the API begin with ``root_path``. ``status`` shows it as it was when it had that status."""
    spec, shown = record.spec, status or record.status
    recipe = recipe_of(spec.request, spec.model, spec.model_revision)
    return Job(
        id=spec.id,
        operation=spec.request.operation,
        model=spec.model,
        status=shown,
        progress=_progress(record, storage, shown) if record.steps else None,
        position=position,
        created_at=spec.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at if shown.terminal else None,
        attempts=record.attempts,
        outputs=tuple(_public_output(record, number, None if record.outputs_deleted else storage) for number in range(len(record.outputs)))
        if shown is JobStatus.SUCCEEDED
        else (),
        recipe=recipe | (record.runtime if shown.terminal else {}),
        error=record.error if shown.terminal else None,
        warnings=warnings_of(spec.request),
        metadata=spec.request.metadata,
        urls=JobUrls.of(f"{root_path}/v1/jobs/{spec.id}"),
    )


def _progress(record: JobRecord, storage: Storage, shown: JobStatus) -> Progress:
    preview = record.preview if shown is JobStatus.RUNNING else None
    return Progress(step=record.step, steps=record.steps, preview_url=storage.presign_get(preview) if preview else None)


def _public_output(record: JobRecord, number: int, storage: Storage | None) -> JobOutput:
    """An output with fresh URLs; without ``storage`` it is deleted and has none."""
    output, stem = record.outputs[number], record.spec.request.output.filename
    if storage is None:
        return JobOutput(url=None, **output.model_dump(exclude={"key", "layers"}))

    def url(key: str, layer: str | None = None) -> str:
        among = number if len(record.outputs) > 1 else None
        return storage.presign_get(key, filename=stem and download_name(stem, output.format, number=among, layer=layer))

    layers = {name: url(key, name) for name, key in output.layers.items()}
    return JobOutput(url=url(output.key), layers=layers or None, **output.model_dump(exclude={"key", "layers"}))
