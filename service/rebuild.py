"""What a lost Redis is rebuilt from, and whether records and objects tell of each other.

The bucket has the record of every job that ended (``records/``) and sealed copies of keys, tenants and endpoints (``backup/``), besides what jobs were given and made.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

from api_schemas.errors import OutfillError, TooManyUploads
from core.jobs import UPLOADS, JobRecord, JobRecords, archived_fields, job_key, tenant_key
from core.queue import connect
from core.settings import Settings
from core.storage import (
    BACKUP_PREFIX,
    INPUTS_PREFIX,
    OUTPUTS_PREFIX,
    RECORDS_PREFIX,
    UPLOADS_PREFIX,
    ObjectNotFound,
    Storage,
    unseal,
)

_THREADS, _CHUNK = 16, 500
"""Objects that are fetched at once; records that are read at once."""


class NoBackupKeyError(OutfillError):
    """The bucket has a sealed copy, and the settings have no key."""


@dataclass
class Rebuilt:
    """What came back."""

    jobs: int = 0
    keys: int = 0
    endpoints: int = 0
    uploads: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Archives that this release cannot read; they stay."""


@dataclass
class Findings:
    """How records and objects differ."""

    orphans: list[str] = field(default_factory=list)
    """Objects that no record names."""
    lost: list[str] = field(default_factory=list)
    """Archives of jobs that Redis does not know: it was lost, and is to be rebuilt before anything is deleted."""
    missing: list[str] = field(default_factory=list)
    """Objects that a record names and that are not there."""
    unreadable: list[str] = field(default_factory=list)
    """Jobs whose records this release cannot read; of their objects nothing is said."""
    jobs: int = 0


class Rebuilder:
    """Both ways between one Redis and one bucket. What is there already stays as it is, so that doing it again does no harm."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = connect(settings.redis)
        self._records = JobRecords.of(self._redis, settings)
        self._storage = Storage(settings.s3)

    def rebuild(self) -> Rebuilt:
        """Bring back keys, tenants, endpoints, uploads, and jobs that had ended. Raises ``NoBackupKeyError``, and ``ValueError`` for another key."""
        done = Rebuilt()
        self._restore_access(done)
        self._restore_uploads(done)
        self._restore_jobs(done)
        self._records.backed_up("rebuilt")  # the steward writes a new copy
        return done

    def _restore_access(self, done: Rebuilt) -> None:
        copies = sorted(self._storage.keys(BACKUP_PREFIX))
        if not copies:
            return
        if self._settings.backup.key is None:
            raise NoBackupKeyError(
                "the bucket has a sealed copy of keys and endpoints: set OUTFILL_BACKUP__KEY to the key that it was sealed with"
            )
        held = json.loads(unseal(self._storage.get(copies[-1]), self._settings.backup.key))
        done.keys, done.endpoints = self._records.restore_access(held)

    def _restore_uploads(self, done: Rebuilt) -> None:
        known = self._uploads()
        for entry in self._storage.entries(UPLOADS_PREFIX):
            tenant, _, upload_id = entry["Key"].removeprefix(UPLOADS_PREFIX).partition("/")
            if f"{tenant}/{upload_id}" not in known:
                expires_at = entry["LastModified"] + timedelta(seconds=self._settings.retention.uploads_s)
                with suppress(TooManyUploads):  # the doctor finds it
                    self._records.expect_upload(tenant, upload_id, expires_at, entry["Size"])
                    done.uploads += 1

    def _restore_jobs(self, done: Rebuilt) -> None:
        there = {key for prefix in (INPUTS_PREFIX, OUTPUTS_PREFIX) for key in self._storage.keys(prefix)}
        wanted = [key for chunk in _chunks(self._storage.keys(RECORDS_PREFIX)) for key in self._of_unknown_jobs(chunk)]
        ended: dict[str, tuple[str, str]] = {}  # by job: when, and the archive; of several executions the last is how it ended
        for key, archive in self._archives(wanted):
            try:
                at = archived_fields(archive)["finished_at"]
            except (ValueError, KeyError):
                done.unreadable.append(key)
            else:
                ended[_job_of(key)] = max(ended.get(_job_of(key), ("", "")), (at, key))
        for key, archive in self._archives([key for _, key in sorted(ended.values())]):  # again: all of them would not fit in memory
            try:
                done.jobs += self._records.restore(archive, key, there=there.__contains__)
            except ValueError:
                done.unreadable.append(key)

    def _archives(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The archives that are still there, in order."""
        with ThreadPoolExecutor(_THREADS) as threads:
            for chunk in _chunks(keys):
                yield from (
                    (key, archive) for key, archive in zip(chunk, threads.map(self._archive, chunk), strict=True) if archive is not None
                )

    def _archive(self, key: str) -> bytes | None:
        with suppress(ObjectNotFound):
            return self._storage.get(key)
        return None

    def _of_unknown_jobs(self, keys: Sequence[str]) -> list[str]:
        with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.exists(job_key(_job_of(key)))
            return [key for key, known in zip(keys, pipe.execute(), strict=True) if not known]

    def _uploads(self) -> set[str]:
        return {member.decode() for member in cast("list[bytes]", self._redis.zrange(UPLOADS, 0, -1))}

    def examine(self) -> Findings:
        """Compare both ways. Jobs that have not ended are left out: their objects come and go."""
        found = Findings()
        listed = {
            prefix: self._storage.keys(prefix) for prefix in (INPUTS_PREFIX, OUTPUTS_PREFIX, RECORDS_PREFIX, UPLOADS_PREFIX)
        }  # before the records: whatever is stored was recorded first
        uploads = self._uploads()
        found.orphans += [key for key in listed.pop(UPLOADS_PREFIX) if key.removeprefix(UPLOADS_PREFIX) not in uploads]
        by_job: dict[str, list[str]] = defaultdict(list)
        for keys in listed.values():
            for key in keys:
                by_job[_job_of(key)].append(key)
        for job_ids in _chunks(sorted({*by_job, *self._ended()})):
            for job_id, fields in zip(job_ids, self._fields(job_ids), strict=True):
                self._compare(job_id, fields, by_job.get(job_id, []), found)
        return found

    def _compare(self, job_id: str, fields: dict[bytes, bytes], keys: list[str], found: Findings) -> None:
        if b"spec" not in fields:
            archives = [key for key in keys if key.startswith(RECORDS_PREFIX)]
            found.lost += archives
            if not archives:
                found.orphans += keys
            return
        try:
            record = JobRecord.of(fields)
        except ValueError:
            found.unreadable.append(job_id)
            return
        found.jobs += 1
        if not record.status.terminal:
            return
        outputs = set() if record.outputs_deleted else record.object_keys()
        inputs = set() if _inputs_are_gone(fields) else record.input_keys()
        found.missing += sorted((outputs | inputs) - set(keys))
        found.orphans += [key for key in keys if key not in (record.object_keys() | record.input_keys() | {record.archive})]

    def repair(self, found: Findings) -> int:
        """Delete the objects that no record names; returns how many. Raises ``ValueError`` while jobs are lost that could be brought back."""
        if found.lost:
            raise ValueError(f"Redis does not know {len(found.lost)} jobs whose records are in the bucket: run `outfill rebuild` first")
        self._storage.delete(found.orphans)
        return len(found.orphans)

    def _ended(self) -> Iterator[str]:
        for key in self._redis.scan_iter(match=tenant_key("*"), count=1000):
            yield from (job_id.decode() for job_id, _ in self._redis.zscan_iter(cast("bytes", key)))

    def _fields(self, job_ids: Iterable[str]) -> list[dict[bytes, bytes]]:
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(job_key(job_id))
            return cast("list[dict[bytes, bytes]]", pipe.execute())


def _inputs_are_gone(fields: dict[bytes, bytes]) -> bool:
    """Whether inputs went before their record: nothing is counted for them any more (core/lua/quota.lua)."""
    kept = fields.get(b"kept", b"").split()
    return len(kept) == 4 and kept[2] == b"0"


def _job_of(key: str) -> str:
    return key.split("/")[2]


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
