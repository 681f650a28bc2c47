"""What must be true once all is over. Each check gives one sentence for each breach, and names the job."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import redis

from api_schemas.jobs import JobStatus
from core.events import OUTBOX, stream_key
from core.jobs import COUNTS, JobRecord, JobRecords, job_key
from core.storage import Storage

from .caller import Asked
from .points import POISON
from .receiver import Receiver

_TERMINAL = {b"job.succeeded", b"job.failed", b"job.canceled", b"job.expired"}
_LEFT_BEHIND = (
    "rq:wip:*",
    "rq:queue:*",
    "rq:job:*",
    "rq:execution:*",
    "rq:executions:*",
    "rq:worker:*:executions",
    "outfill:lane:*",
    "outfill:line:*",
    "outfill:turns:*",
    "outfill:running:*",
    "outfill:accepting",
    "outfill:deadlines",
    "outfill:leftovers",
    "outfill:unarchived",
    "outfill:strays:*",
)
BYTES_PER_ENDED_JOB = 6144
"""The record and the stream of events."""


@dataclass(frozen=True)
class Scene:
    """Everything that is looked at."""

    jobs: Sequence[Asked]
    records: JobRecords
    connection: redis.Redis
    storage: Storage
    receiver: Receiver


def breaches(scene: Scene) -> list[str]:
    """All of them."""
    found = {job.id: scene.records.find(job.id) for job in scene.jobs}
    return [
        *_ends(scene, found),
        *_events(scene),
        *_objects(scene, found),
        *_webhooks(scene),
        *left_behind(scene.connection),
        *_counts(scene, found),
    ]


def _ends(scene: Scene, found: dict[str, JobRecord | None]) -> Iterator[str]:
    for job in scene.jobs:
        record = found[job.id]
        if record is None:
            yield f"{job.id} ({job.kind}) got its 202 and has no record"
            continue
        code = record.error.code if record.error else None
        if not record.status.terminal:
            yield f"{job.id} ({job.kind}) is {record.status} after {record.attempts} attempts"
        elif job.kind == POISON and (record.status, code) != (JobStatus.FAILED, "attempts_exhausted"):
            yield f"{job.id}, which kills its workers, ended {record.status} ({code})"
        elif job.kind != POISON and record.status is not JobStatus.SUCCEEDED:
            yield f"{job.id} ({job.kind}) ended {record.status} ({code}) after {record.attempts} attempts"
        elif job.kind != POISON and len(record.outputs) != 1:
            yield f"{job.id} ({job.kind}) has {len(record.outputs)} results"


def _stream(scene: Scene, job: Asked) -> list[dict[bytes, bytes]]:
    """The fields of a job's events, in order."""
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", scene.connection.xrange(stream_key(job.id)))
    return [fields for _, fields in entries]


def _events(scene: Scene) -> Iterator[str]:
    for job in scene.jobs:
        entries = _stream(scene, job)
        ends = [fields[b"event"] for fields in entries if fields[b"event"] in _TERMINAL]
        sequence = [int(fields[b"seq"]) for fields in entries]
        if len(ends) != 1:
            yield f"{job.id} ({job.kind}) was ended {len(ends)} times: {ends}"
        if sequence != list(range(1, len(sequence) + 1)):
            yield f"{job.id} ({job.kind}) has events numbered {sequence}"


def _objects(scene: Scene, found: dict[str, JobRecord | None]) -> Iterator[str]:
    kept: set[str] = set()
    for job_id, record in found.items():
        if record is None:
            continue
        kept |= {ref.key for ref in record.spec.inputs.values()} | {record.archive}
        for output in record.outputs:
            kept |= {output.key, *output.layers.values()}
            if hashlib.sha256(scene.storage.get(output.key)).hexdigest() != output.sha256:
                yield f"{job_id}: the output {output.key} is not what its record says"
    there = {key for prefix in ("inputs/", "outputs/", "records/", "uploads/") for key in scene.storage.keys(prefix)}
    yield from (f"{key.split('/')[2]}: no record names the object {key}" for key in sorted(there - kept))
    yield from (f"{key.split('/')[2]}: the object {key} is missing" for key in sorted(kept - there))


def _webhooks(scene: Scene) -> Iterator[str]:
    for job in scene.jobs:
        deliveries = scene.receiver.deliveries(job.id)
        ids: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        for delivery in deliveries:
            ids[delivery.event, delivery.sequence].add(delivery.webhook_id)
        entries = _stream(scene, job)
        wanted = [
            (fields[b"event"].decode(), int(fields[b"seq"]))
            for fields in entries
            if fields[b"event"] in _TERMINAL or (job.hears_of_starts and fields[b"event"] == b"job.started")
        ]
        accepted = {(each.event, each.sequence) for each in deliveries if each.accepted}
        yield from (
            f"{job.id} ({job.kind}): no webhook for {event} number {number}" for event, number in wanted if (event, number) not in accepted
        )
        yield from (f"{job.id} ({job.kind}): {event} came with the ids {sorted(each)}" for (event, _), each in ids.items() if len(each) > 1)
        if len(ends := {event for event, _ in ids if event.encode() in _TERMINAL}) > 1:
            yield f"{job.id} ({job.kind}): webhooks told of {sorted(ends)}"
    yield from (f"webhook {webhook_id} has a wrong signature" for webhook_id in scene.receiver.bad_signatures)


def left_behind(connection: redis.Redis) -> Iterator[str]:
    """Keys of Redis that should be gone."""
    for pattern in _LEFT_BEHIND:
        found = cast("Iterable[bytes]", connection.scan_iter(pattern, count=1000))
        for key in sorted(found):
            yield f"the key {key.decode()} was left behind"
    if owed := connection.zcard(OUTBOX):
        yield f"{owed} webhooks are still owed"


def _counts(scene: Scene, found: dict[str, JobRecord | None]) -> Iterator[str]:
    counts = cast("dict[bytes, bytes]", scene.connection.hgetall(COUNTS))
    said = {key.decode(): int(value) for key, value in counts.items() if int(value)}
    really = Counter(record.status.value for record in found.values() if record)
    if said != dict(really):
        yield f"the counts say {said}; there are {dict(really)}"


def bytes_per_ended_job(scene: Scene) -> float:
    """The most that one ended job takes in Redis: its record and its events."""
    return max(
        sum(scene.connection.memory_usage(key, samples=0) or 0 for key in (job_key(job.id), stream_key(job.id))) for job in scene.jobs
    )
