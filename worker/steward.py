"""The steward: requeues what dead workers held, expires and deletes, delivers webhooks, sets the queue gauges.

Any number may run; one is active, by a renewed lock. It never imports torch.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import redis
import structlog
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from rq.worker_registration import clean_worker_registry
from ulid import ULID

from api_schemas.errors import AttemptsExhausted, DeadlineExceeded, ErrorInfo, OutfillError, Unavailable
from api_schemas.jobs import JobStatus
from core.catalogue import Catalogue
from core.events import Endpoints, Outbox
from core.jobs import DUE, LEAVING_PAUSE_S, JobRecord, JobRecords, Outcome
from core.queue import NO_QUEUE, JobQueue, message_keys
from core.settings import Settings
from core.storage import UPLOADS_PREFIX, Storage, job_prefixes, upload_key
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
"""Within which a round goes on to delete jobs, where more are due than are read at once."""
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
        self._look_for_oversized_at = 0.0
        self._active, self._stopping = asyncio.Event(), asyncio.Event()
        self._token = f"{socket.gethostname()}-{ULID()}"
        self._lock = Lock(connection, LOCK, timeout=settings.steward.lock_s, blocking=False, thread_local=False)

    def stop(self) -> None:
        """End after what is being done."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep house until stopped."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hold_lock())
            group.create_task(self._keep_rounds(self.duties()))
            group.create_task(self._keep_rounds(self.storage_duties()))
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
            with suppress(LockError):  # another has it, or it lapsed while Redis was away
                self._lock.local.token = self._token.encode()  # a spare too may hold it: the answer to its acquiring may have been lost
                return bool(self._lock.reacquire())
            return bool(self._lock.acquire(token=self._token))
        except RedisError as error:
            _log.warning("lock_unreachable", error=repr(error))
            return False

    def _release(self) -> None:
        try:
            self._lock.release()
        except (LockError, RedisError):
            _log.info("lock_already_gone")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    # -- rounds -------------------------------------------------------------------------------------------------------------------

    async def _keep_rounds(self, duties: Sequence[Callable[[], None]]) -> None:
        while not self._stopping.is_set():
            if self._active.is_set():
                for duty in duties:
                    await asyncio.to_thread(self._try, duty)
            await self._pause(self._settings.steward.period_s if self._active.is_set() else 0.2)

    def duties(self) -> Sequence[Callable[[], None]]:
        """What is done in each round, in order."""
        return (
            self.reap_lapsed_leases,
            self.give_back_strays,
            self.line_up,
            self.expire_deadlines,
            self.forget_dead_workers,
            self.set_gauges,
        )

    def storage_duties(self) -> Sequence[Callable[[], None]]:
        """What needs S3, in rounds of its own: while S3 is away a call takes minutes, and no lapsed lease should wait for it."""
        return (
            self.take_back_unaccepted,
            self.delete_old_inputs,
            self.delete_old_outputs,
            self.delete_old_jobs,
            self.delete_old_uploads,
            self.delete_oversized_uploads,
            self.delete_leftovers,
        )

    def _try(self, duty: Callable[..., None], *args: str | float) -> bool:
        """Do one duty, or one record's share of it: a bad record must not keep the others waiting. False: Redis or S3 are away."""
        try:
            duty(*args)
        except (RedisError, Unavailable) as error:
            _log.warning("duty_put_off", duty=duty.__name__, about=args, error=repr(error))
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
        """Let jobs be claimed whose API died between queuing them and lining them up."""
        for queue in self._queue.queues():
            for job_id in self._queue.out_of_line(queue):
                self._try(self._line_up, queue, job_id)

    def _line_up(self, queue: str, job_id: str) -> None:
        record = self._records.find(job_id)
        if record is None:
            self._queue.drop(queue, job_id)
        else:
            self._queue.line_up(record.spec)

    def expire_deadlines(self) -> None:
        """End jobs whose deadline passed while they waited; those that run are their worker's."""
        for job_id in self._records.past_deadline(self._now()):
            self._try(self._expire, job_id)

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
            if not self._try(self._take_back, job_id):
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

    def delete_leftovers(self) -> None:
        """Delete the objects that no record names, of jobs that have ended or are gone."""
        for tenant, job_id in self._records.leftovers(self._now()):
            if not self._try(self._delete_leftovers, tenant, job_id):
                return

    def _delete_leftovers(self, tenant: str, job_id: str) -> None:
        record = self._records.find(job_id)
        if record is None:
            self._storage.delete_job(tenant, job_id)
        elif record.status.terminal:
            if gone := self._storage.delete_outputs(tenant, job_id, but=record.object_keys()):
                _log.info("leftovers_deleted", job=job_id, objects=gone)
        else:
            self._records.put_off_leftovers(tenant, job_id, self._now() + LEFTOVERS_PAUSE)
            return
        self._records.forget_leftovers(tenant, job_id)

    def delete_old_inputs(self) -> None:
        """Delete inputs that are to go before their job's record."""
        for job_id in self._records.inputs_past_retention(self._now()):
            if not self._try(self._delete_inputs, job_id):
                return

    def _delete_inputs(self, job_id: str) -> None:
        record = self._records.find(job_id)
        if record is None:
            self._records.forget(job_id)
        else:
            self._storage.delete(self._storage.keys(job_prefixes(record.spec.tenant, job_id)[0]))
            self._records.forget_inputs(record.spec)

    def delete_old_outputs(self) -> None:
        """Delete outputs that are to go before their job's record, which then gives out no more URLs of them."""
        for job_id in self._records.outputs_past_retention(self._now()):
            if not self._try(self._delete_outputs, job_id):
                return

    def _delete_outputs(self, job_id: str) -> None:
        record = self._records.find(job_id)
        if record is None:
            self._records.forget(job_id)
        else:
            self._records.mark_outputs_deleted(job_id)
            self._storage.delete(self._storage.keys(job_prefixes(record.spec.tenant, job_id)[1]))
            self._records.forget_outputs(record.spec)

    def delete_old_jobs(self) -> None:
        """Delete objects, then records, of jobs past their retention, or that their tenants have no room for."""
        until = time.monotonic() + DELETING_S
        while time.monotonic() < until:
            due = self._records.past_retention(self._now())
            if not self._delete_jobs(due) or len(due) < DUE:
                return

    def _delete_jobs(self, job_ids: Sequence[str]) -> bool:
        """Objects first: the record is what leads to them. False: Redis or S3 are away."""
        never_begun: list[JobRecord] = []

        def delete_job(job_id: str) -> None:
            record = self._to_be_deleted(job_id)
            if record is None:
                return
            if record.started_at is None:
                never_begun.append(record)
            else:
                self._storage.delete_job(record.spec.tenant, job_id)
                self._delete_record(record)

        def delete_never_begun() -> None:  # all at once: their inputs are all that they have, and thousands may be canceled in a minute
            self._storage.delete(ref.key for record in never_begun for ref in record.spec.inputs.values())
            for record in never_begun:
                self._delete_record(record)

        return all(self._try(delete_job, job_id) for job_id in job_ids) and self._try(delete_never_begun)

    def _to_be_deleted(self, job_id: str) -> JobRecord | None:
        """The job, if it is to go now."""
        record = self._records.find(job_id)
        if record is None:
            self._records.forget(job_id)
            return None
        may_owe = not record.leaving or record.finished_at is None or self._now() - record.finished_at < OWED_LIMIT
        if may_owe and self._records.owes_webhooks(job_id):  # what they tell is read from the record
            self._records.put_off_deletion(job_id, self._now() + (LEAVING_PAUSE if record.leaving else OWED_PAUSE))
            return None
        return record

    def _delete_record(self, record: JobRecord) -> None:
        """With what is known of its webhooks, where its tenant has no room for it; else they are kept as long as any."""
        self._records.delete(record.spec, only_if="ended" if record.leaving else None)

    def delete_old_uploads(self) -> None:
        """Delete expired uploads."""
        for tenant, upload_id in self._records.expired_uploads(self._now()):
            if not self._try(self._delete_upload, tenant, upload_id):
                return

    def _delete_upload(self, tenant: str, upload_id: str) -> None:
        self._storage.delete([upload_key(tenant, upload_id)])
        self._records.forget_upload(tenant, upload_id)

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
            head = self._queue.head(queue)
            age = time.time() - ULID.from_str(head.removeprefix("job_")).timestamp if head else 0.0
            metrics.queue_oldest.labels(queue).set(max(age, 0.0))
        metrics.workers.set(len(self._catalogue.live_workers()))
        metrics.outbox.set(self._outbox.size())
        metrics.lanes.set(self._outbox.lanes())
        metrics.late.set(self._outbox.late_s(self._queue.now_s()))
        metrics.dead_letters.set(self._outbox.dead_letters())


def _failed(error: OutfillError) -> Outcome:
    return Outcome(JobStatus.FAILED, error=ErrorInfo.of(error))
