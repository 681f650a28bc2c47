"""Leases: which jobs this worker holds, and how it comes by them and gives them back.

One RQ worker object holds many executions at once. RQ's own loop is not used: it takes one job at a time, forks or blocks, and sends
no heartbeat meanwhile. What we call of it is pinned by tests/core/test_rq_contract.py.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import redis
import structlog
from redis.exceptions import OutOfMemoryError
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.executions import Execution
from rq.job import Job as Message
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker
from ulid import ULID

from api_schemas.errors import RecordUnreadable
from api_schemas.jobs import JobSpec
from core.jobs import JobRecords
from core.queue import NO_QUEUE, TASK, Claimant, JobQueue, Room, execution_key, leases_key, lua, message_keys

_log = structlog.get_logger(__name__)
_AT_ONCE = 100
"""Ids that are claimed in a row where none of them can be begun, before the worker looks at what else it has to do."""
_ASKING_S = 0.1
"""For a claim's way to Redis, beside the pause between two."""


@dataclass(frozen=True, eq=False)
class Lease:
    """One job that this worker may run until the lease lapses."""

    spec: JobSpec
    attempt: int
    message: Message
    execution: Execution

    @property
    def member(self) -> str:
        """What fences the commit: the entry in RQ's started registry."""
        return str(self.execution.composite_key)


class _ManyExecutions(SimpleWorker):
    """RQ's bookkeeping for one worker process. Signals are the process's business (worker/paint.py), never RQ's."""

    lease_s = 30

    def get_heartbeat_ttl(self, job: Message, working_time: float = 0.0) -> int:  # noqa: ARG002 - RQ's signature
        return self.lease_s

    def _shutdown(self) -> None:
        self._stop_requested = True  # RQ would raise inside a signal handler and could strand a job


class Claims:
    """Takes leases, keeps them alive, gives them back. Thread-safe."""

    def __init__(
        self,
        connection: redis.Redis,
        records: JobRecords,
        queue: JobQueue,
        *,
        lease_s: int,
        overdue_s: float,
        running_jobs: int = 0,
        poll_s: float = 0.1,
    ) -> None:
        """``poll_s``: an idle worker asks this often."""
        self.name = f"{socket.gethostname()}-{os.getpid()}-{str(ULID())[-6:]}"
        self._redis = connection
        self._records = records
        self._queue = queue
        self._lease_s = lease_s
        self._overdue_s, self._running_jobs = overdue_s, running_jobs
        self._asks_again_s = 2 * poll_s + _ASKING_S
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._extend = connection.register_script(lua("clock", "extend"))
        self._rq = _ManyExecutions([queue.rq_queue(NO_QUEUE)], name=self.name, connection=connection, serializer=JSONSerializer)
        self._rq.lease_s = lease_s

    def start(self) -> None:
        """Make the worker known to RQ's tools. Doing it again changes nothing."""
        with suppress(ValueError):  # the name is ours alone: an earlier call arrived and its answer was lost
            self._rq.register_birth()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Take the worker off RQ's list."""
        self._rq.register_death()  # type: ignore[no-untyped-call]

    def held(self) -> list[Lease]:
        """The leases that this worker has, oldest first."""
        with self._lock:
            return list(self._held.values())

    def take(self, models: Sequence[str], *, room: Room | None = None, spare_bulk: bool = False) -> Lease | None:
        """Claim, lease and begin the next job of ``models``; ``None`` if none waits. ``spare_bulk`` leaves bulk jobs.

        Raises ``LeftToAnother`` where all that wait are for workers that hold fewer.
        """
        for _ in range(_AT_ONCE):
            claimed = self._claim(models, room or Room(), spare_bulk=spare_bulk)
            if not claimed:
                return None
            (queue, job_id) = claimed[0]
            lease = self._adopt(queue, job_id)
            if lease is not None:
                return lease
        return None

    def _claim(self, models: Sequence[str], room: Room, *, spare_bulk: bool) -> list[tuple[str, str]]:
        claimant = Claimant(self.name, len(self.held()), self._asks_again_s, room)
        overdue_s, running_jobs = self._overdue_s, self._running_jobs
        return self._queue.claim(models, 1, overdue_s=overdue_s, running_jobs=running_jobs, spare_bulk=spare_bulk, claimant=claimant)

    def _adopt(self, queue: str, job_id: str) -> Lease | None:
        """Turn a claimed id into a lease, or clear it away if there is nothing to run, or leave it to a worker that can read it."""
        try:
            record = self._records.find(job_id)
        except RecordUnreadable:
            self._queue.set_aside(queue, job_id)
            return None
        message = self._message(queue, job_id)
        execution = self._lease(message)
        self._rq.prepare_job_execution(message, remove_from_intermediate_queue=True)
        if record is None or record.spec.queue != queue:
            _log.warning("claimed_unknown_job", job=job_id, queue=queue)
            self._queue.let_go(job_id)
            self._settle(message, execution)
            return None
        verdict, attempt = self._records.begin(record.spec, execution.composite_key)
        if verdict == "begun":
            lease = Lease(record.spec, attempt, message, execution)
            with self._lock:
                self._held[lease.member] = lease
            return lease
        _log.info("claimed_job_not_begun", job=job_id, verdict=verdict)
        if verdict in ("duplicate", "lost"):  # RQ's settling would take the lease of whoever runs it along, and nobody would miss the job
            self._forget(message, execution)
        else:
            self._settle(message, execution)
        return None

    def _lease(self, message: Message) -> Execution:
        """As RQ's ``prepare_execution``, but the lease runs by the clock of Redis: RQ would score it by this machine's.

        Nor does RQ learn whose it is: its index of a worker's executions would keep each that was given back or lost while the worker lives.
        """
        lapses_s = self._queue.now_s() + self._lease_s
        with self._redis.pipeline() as pipe:
            execution: Execution = Execution.create(message, self._lease_s, pipeline=pipe)
            pipe.zadd(message.started_job_registry.key, {execution.composite_key: lapses_s}, xx=True)
            pipe.execute()
        self._rq.executions[execution.id] = execution
        return execution

    def _message(self, queue: str, job_id: str) -> Message:
        try:
            return Message.fetch(job_id, connection=self._redis, serializer=JSONSerializer)
        except NoSuchJobError:  # its record will tell whether there is anything to run
            return Message.create(TASK, id=job_id, connection=self._redis, serializer=JSONSerializer, origin=queue, result_ttl=0)

    def beat(self) -> None:
        """Extend all leases, by the clock of Redis. A lease that lapsed and was taken away stays away."""
        args: list[str | int] = [self._lease_s * 1000]
        for lease in self.held():
            job_id = lease.spec.id
            args += [leases_key(lease.spec.queue), lease.member, execution_key(lease.member), message_keys(job_id)[1], lease.execution.id]
        self._extend(args=args)
        with suppress(OutOfMemoryError):  # RQ's tools then miss the worker; its jobs go on
            self._rq.heartbeat(self._lease_s * 4)

    def settle(self, lease: Lease) -> None:
        """The job has ended: drop the lease and RQ's message."""
        self._settle(lease.message, lease.execution)
        self._drop(lease)

    def abandon(self, lease: Lease) -> None:
        """The lease was lost: whoever has it now does the bookkeeping."""
        self._rq.executions.pop(lease.execution.id, None)
        self._drop(lease)

    def hand_back(self, lease: Lease) -> bool:
        """Put an unfinished job back at the front of its queue; it costs no attempt. False: the lease was lost, or the job canceled."""
        if not self._records.requeue(lease.spec, lease.member):
            return False
        self.abandon(lease)
        return True

    def _settle(self, message: Message, execution: Execution) -> None:
        # For RQ every message that was dealt with is a success: how the job ended stands in its record.
        try:
            self._rq._finalize_success(message, self._queue.rq_queue(message.origin), execution, None)  # noqa: SLF001
        # RQ counts what it has done, and a full Redis takes no counts; or the job was canceled and deleted meanwhile, and its message with it.
        except (OutOfMemoryError, InvalidJobOperation, NoSuchJobError):
            self._rq.executions.pop(execution.id, None)
            self._queue.discard_lease(message.origin, str(execution.composite_key))

    def _forget(self, message: Message, execution: Execution) -> None:
        """Drop an execution and leave the message to the other one."""
        with self._redis.pipeline() as pipe:
            self._rq.cleanup_execution(message, pipeline=pipe, execution=execution)
            pipe.execute()

    def _drop(self, lease: Lease) -> None:
        with self._lock:
            self._held.pop(lease.member, None)
