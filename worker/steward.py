"""The steward: requeues what dead workers held, expires and deletes, delivers webhooks, sets the queue gauges.

Any number may run; one is active, by a renewed lock. It never imports torch.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import redis
import structlog
from redis.exceptions import RedisError
from rq.worker_registration import clean_worker_registry
from ulid import ULID

from api_schemas.errors import AttemptsExhausted, DeadlineExceeded, ErrorInfo, OutfillError, RecordUnreadable, Unavailable
from api_schemas.jobs import JobStatus
from core.catalogue import Catalogue
from core.events import Endpoints, Outbox
from core.jobs import (
    ACCEPTING,
    DEADLINES,
    DUE,
    EXPIRY,
    INPUTS_EXPIRY,
    LEAVING_PAUSE_S,
    LEFTOVERS,
    OUTPUTS_EXPIRY,
    JobRecord,
    JobRecords,
    Outcome,
)
from core.queue import NO_QUEUE, JobQueue, lua, message_keys, words
from core.settings import Settings
from core.storage import BACKUP_PREFIX, UPLOADS_PREFIX, Storage, seal, upload_key
from worker.steward_metrics import StewardMetrics
from worker.webhooks import Dispatcher

_log = structlog.get_logger(__name__)
LOCK = "outfill:steward"
SPARE_POLL_S = 1.0
"""How often a spare looks whether the lock is free."""
ACCEPTANCE_LIMIT = timedelta(minutes=10)
OWED_PAUSE, LEAVING_PAUSE = timedelta(minutes=1), timedelta(seconds=LEAVING_PAUSE_S)
"""Until it is looked at again whether a job that is to be deleted owes webhooks still; one for which there is no room keeps its tenant waiting."""
OWED_LIMIT = timedelta(minutes=10)
"""From the end of a job that its tenant has no room for until it goes with the webhooks that it owes still."""
OVERSIZED_PAUSE_S = 60.0
"""Between two looks for uploads that are larger than any job may use."""
DELETING_S = 10.0
"""Within which a round goes on to delete, where more is due than is read at once."""
GROUP, DELETERS = 50, 8
"""Jobs whose objects go in one call, and threads that make such calls: the store's answers are waited for together."""
COPIES = 10
"""Of keys, tenants and endpoints that are kept, the newest."""
UNREADABLE_PAUSE = timedelta(minutes=10)
"""Until something due is looked at again whose record this release cannot read."""
RECONCILE_PAUSE_S = 600.0
"""Until all records are looked through again after nothing was found: then a count is wrong, and no job lost."""
LEFTOVERS_PAUSE = timedelta(seconds=20)
"""Until it is looked at again whether a job has ended that may have left objects."""


class Steward:
    """One housekeeper. ``run`` returns after ``stop``."""

    def __init__(
        self,
        settings: Settings,
        *,
        connection: redis.Redis,
        records: JobRecords,
        queue: JobQueue,
        storage: Storage,
        catalogue: Catalogue,
        metrics: StewardMetrics,
    ) -> None:
        self._settings = settings
        self._redis, self._records, self._queue, self._storage = connection, records, queue, storage
        self._catalogue, self._metrics = catalogue, metrics
        self._outbox = Outbox(connection, settings.webhooks)
        self._dispatcher = Dispatcher(settings, self._outbox, Endpoints(connection), records, storage, metrics)
        self._look_for_oversized_at = self._reconcile_at = 0.0
        self._were_missing = self._rebuild_wanted = False
        self._active, self._stopping = asyncio.Event(), asyncio.Event()
        self._token = f"{socket.gethostname()}-{ULID()}"
        self._take_lock, self._give_lock = (connection.register_script(lua(name)) for name in ("lock", "unlock"))

    def stop(self) -> None:
        """End after what is being done."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep house until stopped."""
        if self._settings.backup.key is None:
            _log.warning(
                "no_backup_key", hint="set OUTFILL_BACKUP__KEY: without it a lost Redis loses all keys, tenants and webhook endpoints"
            )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hold_lock())
            group.create_task(self._keep_rounds("jobs", self.duties()))
            group.create_task(self._keep_rounds("storage", self.storage_duties()))
            group.create_task(self._keep_rounds("records", (self.reconcile,)))  # it may look through millions of records
            group.create_task(self._dispatcher.run(self._active, self._stopping))
        if self._active.is_set():
            await asyncio.to_thread(self._release)
        _log.info("steward_stopped")

    # -- the lock -----------------------------------------------------------------------------------------------------------------

    async def _hold_lock(self) -> None:
        while not self._stopping.is_set():
            held = await asyncio.to_thread(self._renew_or_acquire)
            if held != self._active.is_set():
                _log.info("steward_active" if held else "steward_spare")
            self._active.set() if held else self._active.clear()
            self._metrics.active.set(int(held))
            renewal_s = self._settings.steward.lock_s / 3
            await self._pause(renewal_s if held else min(renewal_s, SPARE_POLL_S))

    def _renew_or_acquire(self) -> bool:
        try:
            return bool(self._take_lock(keys=[LOCK], args=[self._token, int(self._settings.steward.lock_s * 1000)]))
        except RedisError as error:
            _log.warning("lock_unreachable", error=words(error))
            return False

    def _release(self) -> None:
        with suppress(RedisError):  # then it lapses
            self._give_lock(keys=[LOCK], args=[self._token])

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    # -- rounds -------------------------------------------------------------------------------------------------------------------

    async def _keep_rounds(self, kind: str, duties: Sequence[Callable[[], None]]) -> None:
        ended = self._metrics.last_round.labels(kind)
        ended.set(time.time())  # from here on the first is waited for
        while not self._stopping.is_set():
            if self._active.is_set():
                for duty in duties:
                    await asyncio.to_thread(self._try, duty)
            ended.set(time.time())  # a spare's are empty: it is not late when it takes over
            await self._pause(self._settings.steward.period_s if self._active.is_set() else 0.2)

    def duties(self) -> Sequence[Callable[[], None]]:
        """What is done in each round, in order."""
        return (
            self.reap_lapsed_leases,
            self.give_back_strays,
            self.line_up,
            self.bring_back,
            self.expire_deadlines,
            self.forget_dead_workers,
            self.set_gauges,
        )

    def storage_duties(self) -> Sequence[Callable[[], None]]:
        """What needs S3, in rounds of its own: while S3 is away a call takes minutes, and no lapsed lease should wait for it."""
        return (
            self.archive_ended,
            self.back_up_access,
            self.take_back_unaccepted,
            self.delete_old_inputs,
            self.delete_old_outputs,
            self.delete_old_jobs,
            self.delete_old_uploads,
            self.delete_oversized_uploads,
            self.delete_leftovers,
        )

    def _try(self, duty: Callable[..., None], *args: str | float, index: str | None = None) -> bool:
        """Do one duty, or one record's share of it: a bad record must not keep the others waiting, nor stand before them in the ``index`` that says what
        is due. False: Redis or S3 are away.
        """
        try:
            duty(*args)
        except RecordUnreadable:
            if index is not None:
                self._records.put_off(index, "/".join(map(str, args)), self._now() + UNREADABLE_PAUSE)
        except (RedisError, Unavailable) as error:
            _log.warning("duty_put_off", duty=duty.__name__, about=args, error=words(error))
            return False
        except Exception:
            _log.exception("duty_failed", duty=duty.__name__, about=args)
        return True

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._queue.now_s(), UTC)

    def reap_lapsed_leases(self) -> None:
        """Requeue, or end, the jobs of workers that fell silent."""
        now_s = self._queue.now_s()
        for queue in self._queue.queues():
            for member in self._queue.lapsed(queue, now_s):
                self._try(self._reap, queue, member, now_s)

    def _reap(self, queue: str, member: str, now_s: float) -> None:
        record = self._records.find(member.partition(":")[0])
        if record is not None:  # whatever becomes of the job: what this execution has stored is of no use
            self._records.expect_leftovers(record.spec)
        if record is None or record.status.terminal:
            self._queue.discard_lease(queue, member)
            return
        outcome = self._end_of_abandoned(record)
        if outcome is not None:
            done = self._records.end_abandoned(record.spec, member, outcome, lapsed_before_s=now_s)
        else:
            done = self._records.requeue(record.spec, member, lapsed_before_s=now_s)
        if done:
            self._metrics.requeued.inc()
            _log.warning("lease_lapsed", job=record.spec.id, attempts=record.attempts, ended=outcome and outcome.status)
        elif record.status is JobStatus.RUNNING:
            self._drop_if_stale(record.spec.id, queue, member)

    def _drop_if_stale(self, job_id: str, queue: str, member: str) -> None:
        """Forget a lapsed lease if another execution runs its job by now; otherwise the next round sees it again."""
        if self._records.execution(job_id) not in (None, member):
            self._queue.drop_stale_lease(queue, member)

    def _end_of_abandoned(self, record: JobRecord) -> Outcome | None:
        """How a job ends whose worker died, if it is not to be tried again."""
        limit = self._settings.worker.max_attempts
        if record.status is not JobStatus.RUNNING:
            return None
        if record.cancel_requested:
            return Outcome(JobStatus.CANCELED)
        if record.spec.deadline_at is not None and self._now() > record.spec.deadline_at:
            return _failed(DeadlineExceeded("the deadline passed while the job was being worked on"))
        if record.attempts >= limit:
            return _failed(AttemptsExhausted(f"the workers that ran the job died {record.attempts} times"))
        return None

    def give_back_strays(self) -> None:
        """Requeue ids whose claimer died before it took a lease."""
        for queue in self._queue.queues():
            if back := self._queue.give_back_strays(queue):
                self._metrics.strays.inc(back)
                _log.warning("strays_given_back", queue=queue, jobs=back)

    def line_up(self) -> None:
        """Let jobs be claimed whose API died between queuing them and lining them up, and forget what was queued again after its end."""
        for queue in self._queue.queues():
            for job_id in self._queue.out_of_line(queue):
                self._try(self._line_up, queue, job_id)

    def _line_up(self, queue: str, job_id: str) -> None:
        record = self._records.find(job_id)
        if record is None:
            self._queue.drop(queue, job_id)
        elif record.status.terminal:
            self._queue.drop(queue, job_id, record.spec.tenant)
        else:
            self._queue.line_up(record.spec)

    def bring_back(self) -> None:
        """Let jobs be claimed again that a worker could not read: another may."""
        self._queue.bring_back()

    def reconcile(self) -> None:
        """Put jobs into line that wait by their records and stand nowhere. Nothing is looked through while the counts agree with the lines."""
        were_missing, self._were_missing = self._were_missing, self._queue.missing() > 0
        if not (were_missing and self._were_missing) or time.monotonic() < self._reconcile_at:
            return
        back = self._queue.reconcile()
        self._metrics.reconciled.inc(back)
        self._reconcile_at = 0.0 if back else time.monotonic() + RECONCILE_PAUSE_S
        _log.warning("records_reconciled", jobs_lined_up=back)

    def expire_deadlines(self) -> None:
        """End jobs whose deadline passed while they waited; those that run are their worker's."""
        for job_id in self._records.past_deadline(self._now()):
            self._try(self._expire, job_id, index=DEADLINES)

    def _expire(self, job_id: str) -> None:
        record = self._records.find(job_id)
        if record is None:
            self._records.forget(job_id)
        elif record.status is JobStatus.QUEUED:
            error = ErrorInfo.of(DeadlineExceeded("the deadline passed while the job waited"))
            self._records.end_queued(record.spec, Outcome(JobStatus.EXPIRED, error=error))

    def take_back_unaccepted(self) -> None:
        """Clear away jobs whose acceptance was broken off: their callers never got an answer."""
        for job_id in self._records.stuck_in_acceptance(self._now() - ACCEPTANCE_LIMIT):
            if not self._try(self._take_back, job_id, index=ACCEPTING):
                return

    def _take_back(self, job_id: str) -> None:
        record = self._records.find(job_id)
        if record is None:
            self._records.forget(job_id)
        elif record.status is not JobStatus.QUEUED or self._redis.exists(message_keys(job_id)[0]):
            self._records.accepted(job_id)
        else:
            self._records.expect_leftovers(record.spec)
            if self._records.delete(record.spec, only_if="unaccepted"):  # an API that is only slow finds itself not in time
                _log.warning("unaccepted_job_taken_back", job=job_id)
                self._delete_leftovers(record.spec.tenant, job_id)

    def archive_ended(self) -> None:
        """Archive the records of jobs that ended without a worker: canceled or expired while they waited, or abandoned."""
        with ThreadPoolExecutor(DELETERS, thread_name_prefix="archive") as threads:
            list(threads.map(lambda job_id: self._try(self._archive, job_id), self._records.unarchived()))

    def _archive(self, job_id: str) -> None:
        record = self._records.find(job_id)
        text = self._records.archive(job_id)
        if record is not None and record.status.terminal and text is not None:
            self._storage.put(record.archive, text, "application/json")
            if self._records.find(job_id) is None:  # its owner deleted it meanwhile, and is not to find it again after a rebuild
                self._storage.delete([record.archive])
        self._records.archived(job_id)

    def back_up_access(self) -> None:
        """Keep a sealed copy of keys, tenants and endpoints in the bucket, as they are now.

        A Redis that has had no copy while the bucket holds one is a lost one: what it holds is not to take the place of what was.
        """
        key = self._settings.backup.key
        if key is None:
            return
        last, copies = self._records.last_backup(), None
        if last is None:
            copies = self._storage.keys(BACKUP_PREFIX)
            self._metrics.rebuild_wanted.set(int(bool(copies)))
            if copies:
                if not self._rebuild_wanted:
                    _log.error("rebuild_wanted", copies=len(copies), hint="Redis has lost what the bucket has a copy of: outfill rebuild")
                self._rebuild_wanted = True
                return
            self._records.find_tenants()
        self._rebuild_wanted = False
        self._metrics.rebuild_wanted.set(0)
        held = json.dumps(self._records.access(), sort_keys=True).encode()
        digest = hmac.digest(key.get_secret_value().encode(), held, "sha256").hex()  # another key: another copy
        if digest != last:
            self._storage.put(f"{BACKUP_PREFIX}{self._now():%Y%m%dT%H%M%S.%f}", seal(held, key), "application/octet-stream")
            self._records.backed_up(digest)
            self._storage.delete(sorted(self._storage.keys(BACKUP_PREFIX))[:-COPIES])

    def delete_leftovers(self) -> None:
        """Delete the objects that no record names, of jobs that have ended or are gone."""
        for tenant, job_id in self._records.leftovers(self._now()):
            if not self._try(self._delete_leftovers, tenant, job_id, index=LEFTOVERS):
                return

    def _delete_leftovers(self, tenant: str, job_id: str) -> None:
        record = self._records.find(job_id)
        if record is None:
            self._storage.delete_job(tenant, job_id)
        elif record.status.terminal:
            if gone := self._storage.delete_outputs(tenant, job_id, but=record.object_keys() | {record.archive}):
                _log.info("leftovers_deleted", job=job_id, objects=gone)
        else:
            self._records.put_off(LEFTOVERS, f"{tenant}/{job_id}", self._now() + LEFTOVERS_PAUSE)
            return
        self._records.forget_leftovers(tenant, job_id)

    def delete_old_inputs(self) -> None:
        """Delete inputs that are to go before their job's record."""
        self._delete_due(
            INPUTS_EXPIRY,
            self._records.inputs_past_retention,
            self._find,
            JobRecord.input_keys,
            lambda record: self._records.forget_inputs(record.spec),
        )

    def delete_old_outputs(self) -> None:
        """Delete outputs that are to go before their job's record, which then gives out no more URLs of them."""

        def mark(job_id: str) -> JobRecord | None:
            record = self._find(job_id)
            if record is not None:
                self._records.mark_outputs_deleted(job_id)
            return record

        self._delete_due(
            OUTPUTS_EXPIRY,
            self._records.outputs_past_retention,
            mark,
            JobRecord.object_keys,
            lambda record: self._records.forget_outputs(record.spec),
        )

    def delete_old_jobs(self) -> None:
        """Delete objects, then records, of jobs past their retention, or that their tenants have no room for."""
        self._delete_due(
            EXPIRY,
            self._records.past_retention,
            self._to_be_deleted,
            lambda record: record.input_keys() | record.object_keys() | {record.archive},
            self._delete_record,
        )

    def _delete_due(
        self,
        index: str,
        due: Callable[[datetime], list[str]],
        choose: Callable[[str], JobRecord | None],
        keys: Callable[[JobRecord], Iterable[str]],
        forget: Callable[[JobRecord], None],
    ) -> None:
        """Delete objects by the ``keys`` that the records name, many in a call and calls at once, then what leads to them. ``index`` says what is due."""

        def delete_group(job_ids: Sequence[str]) -> bool:
            chosen: list[JobRecord] = []
            are_gone = False

            def delete_one(job_id: str) -> None:
                if (record := choose(job_id)) is not None:
                    chosen.append(record)

            def delete_objects() -> None:
                nonlocal are_gone
                self._storage.delete(key for record in chosen for key in keys(record))
                are_gone = True

            def forget_one(job_id: str) -> None:
                forget(found[job_id])

            if not all(self._try(delete_one, job_id, index=index) for job_id in job_ids):
                return False
            found = {record.spec.id: record for record in chosen}
            return self._try(delete_objects) and (not are_gone or all(self._try(forget_one, job_id) for job_id in found))

        until = time.monotonic() + DELETING_S
        with ThreadPoolExecutor(DELETERS, thread_name_prefix="delete") as threads:
            while time.monotonic() < until:
                job_ids = due(self._now())
                groups = [job_ids[start : start + GROUP] for start in range(0, len(job_ids), GROUP)]
                if not all(list(threads.map(delete_group, groups))) or len(job_ids) < DUE:
                    return

    def _find(self, job_id: str) -> JobRecord | None:
        record = self._records.find(job_id)
        if record is None:
            self._records.forget(job_id)
        return record

    def _to_be_deleted(self, job_id: str) -> JobRecord | None:
        """The job, if it is to go now."""
        record = self._find(job_id)
        if record is None:
            return None
        may_owe = not record.leaving or record.finished_at is None or self._now() - record.finished_at < OWED_LIMIT
        if may_owe and self._records.owes_webhooks(job_id):  # what they tell is read from the record
            self._records.put_off(EXPIRY, job_id, self._now() + (LEAVING_PAUSE if record.leaving else OWED_PAUSE))
            return None
        return record

    def _delete_record(self, record: JobRecord) -> None:
        """With what is known of its webhooks, where its tenant has no room for it; else they are kept as long as any."""
        self._records.delete(record.spec, only_if="ended" if record.leaving else None)

    def delete_old_uploads(self) -> None:
        """Delete expired uploads."""
        until = time.monotonic() + DELETING_S
        while time.monotonic() < until:
            due = self._records.expired_uploads(self._now())
            self._storage.delete(upload_key(tenant, upload_id) for tenant, upload_id in due)
            for tenant, upload_id in due:
                self._records.forget_upload(tenant, upload_id)
            if len(due) < DUE:
                return

    def delete_oversized_uploads(self) -> None:
        """Delete what was put to a presigned URL and is larger than any job may use, without waiting for it to expire."""
        if time.monotonic() < self._look_for_oversized_at:
            return
        self._look_for_oversized_at = time.monotonic() + OVERSIZED_PAUSE_S
        self._storage.delete(self._storage.larger_than(self._settings.limits.max_image_bytes, UPLOADS_PREFIX))

    def forget_dead_workers(self) -> None:
        """Take workers that were killed off RQ's lists."""
        clean_worker_registry(self._queue.rq_queue(NO_QUEUE))

    def set_gauges(self) -> None:
        """Look at the queue from outside."""
        metrics = self._metrics
        for status, jobs in self._records.counts().items():
            metrics.jobs.labels(status).set(jobs)
        for queue in self._queue.queues():
            metrics.queue_depth.labels(queue).set(self._queue.depth(queue))
            oldest = self._queue.oldest(queue, running_jobs=self._settings.limits.running_jobs)
            age = time.time() - ULID.from_str(oldest.removeprefix("job_")).timestamp if oldest else 0.0
            metrics.queue_oldest.labels(queue).set(max(age, 0.0))
        metrics.aside.set(self._queue.aside())
        metrics.workers.set(len(self._catalogue.live_workers()))
        metrics.outbox.set(self._outbox.size())
        metrics.lanes.set(self._outbox.lanes())
        metrics.late.set(self._outbox.late_s(self._queue.now_s()))
        metrics.dead_letters.set(self._outbox.dead_letters())
        for kind, backlog in self._records.deletions_due(self._now()).items():
            metrics.deletions_due.labels(kind).set(backlog.number)
            metrics.deletions_late.labels(kind).set(backlog.late_s)


def _failed(error: OutfillError) -> Outcome:
    return Outcome(JobStatus.FAILED, error=ErrorInfo.of(error))
