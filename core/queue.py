"""The queue: Redis lists that RQ fills. RQ is transport; what is true of a job stands in its record (core/jobs.py).

Queues are named ``{model}.{priority}``. A message is a job id and nothing else, serialised as JSON, and no worker ever runs a
function that a message names.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer
from ulid import ULID

from api_schemas.errors import Unavailable
from api_schemas.jobs import JobSpec, queue_name
from api_schemas.requests import Priority
from core.settings import Redis

TASK = "outfill.paint"
"""The function name in every message; nothing imports it."""
PRIORITIES = (Priority.INTERACTIVE, Priority.STANDARD, Priority.BULK)
NO_QUEUE = "none"
"""What RQ is told that our workers listen to: they claim by a script, and RQ wants a name."""
_FSYNC_TRIES = 3


def connect(settings: Redis) -> redis.Redis:
    """A connection pool. Commands are retried for a few seconds, so that a restart of Redis is a pause and not an error."""
    return redis.Redis.from_url(
        settings.url.get_secret_value(),
        socket_timeout=10,
        socket_connect_timeout=3,
        health_check_interval=15,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries=6),
    )


@cache
def lua(*names: str) -> str:
    """The text of a script in core/lua, after those with the functions that it calls."""
    return "".join((Path(__file__).parent / "lua" / f"{name}.lua").read_text() for name in names)


def queue_key(queue: str) -> str:
    """The Redis list of a queue."""
    return f"{Queue.redis_queue_namespace_prefix}{queue}"


def intermediate_key(queue: str) -> str:
    """Where ids stand between being claimed and being leased."""
    return f"{queue_key(queue)}:intermediate"


def leases_key(queue: str) -> str:
    """RQ's started registry: members ``{job}:{execution}``, scored by when the lease lapses (s, by the clock of Redis)."""
    return f"rq:wip:{queue}"


def execution_key(lease_member: str) -> str:
    """RQ's own key for one execution."""
    return f"rq:execution:{lease_member}"


def turns_key(queue: str) -> str:
    """The tenants that have jobs waiting in a queue, by when each last had its turn."""
    return f"outfill:turns:{queue}"


def line_key(queue: str, tenant: str) -> str:
    """A tenant's jobs that wait in a queue, in the order in which they came."""
    return f"outfill:line:{queue}:{tenant}"


def running_key(tenant: str) -> str:
    """A tenant's jobs that workers hold."""
    return f"outfill:running:{tenant}"


def message_keys(job_id: str) -> tuple[str, str]:
    """RQ's own keys for one message: its hash and its executions."""
    return f"rq:job:{job_id}", f"rq:executions:{job_id}"


def _without_retries(connection: redis.Redis) -> redis.ConnectionPool:
    """A pool to the same server whose commands are sent once."""
    options = {**connection.connection_pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
    return redis.ConnectionPool(connection_class=connection.connection_pool.connection_class, **options)


class LeftToAnother(Exception):
    """A job waits, and a worker that holds fewer is about to ask for it."""


@dataclass(frozen=True)
class Room:
    """Jobs that a worker may still take, in all and of each model; of models without a number any."""

    jobs: int = sys.maxsize
    by_model: Mapping[str, int] = field(default_factory=dict)
    but: frozenset[str] = frozenset()
    """Tenants whose jobs it may not take: it is full, and has a place left for those that have none. Other workers are not asked to wait for it then."""


@dataclass(frozen=True)
class Claimant:
    """The worker that asks for jobs, as it is compared with the others that ask."""

    worker: str
    held: int
    """Jobs that it holds."""
    asks_again_s: float
    """The time within which an idle worker has asked again; one that has not is no longer waited for."""
    room: Room = Room()

    def asks(self, models: Sequence[str]) -> str:
        """Return what the claim script is told, for claims of ``models``."""
        rooms = [self.room.by_model.get(model, self.room.jobs) for model in models]
        asks_again_ms = int(1000 * self.asks_again_s)
        told = {"name": self.worker, "held": self.held, "asks_again_ms": asks_again_ms, "room": self.room.jobs, "rooms": rooms}
        return json.dumps(told | {"but": dict.fromkeys(self.room.but, True)})


class JobQueue:
    """The producer's and the housekeeper's side; workers claim through ``claim``."""

    def __init__(self, connection: redis.Redis, *, fsync_timeout_ms: int = 0) -> None:
        self._redis = connection
        self._fsync_timeout_ms = fsync_timeout_ms
        self._unretried = redis.Redis.from_pool(_without_retries(connection))
        self._rq_queues: dict[str, Queue] = {}
        self._line = connection.register_script(lua("line"))
        self._position = connection.register_script(lua("position"))
        self._claim = connection.register_script(lua("clock", "claim"))
        self._strays = connection.register_script(lua("strays"))

    def rq_queue(self, queue: str) -> Queue:
        """RQ's object for a queue. Kept: a new one asks Redis for its version first."""
        return self._rq_queues.setdefault(queue, Queue(queue, connection=self._redis, serializer=JSONSerializer))

    def push(self, spec: JobSpec) -> None:
        """Queue the job, once however often this is called, and wait until it is on disk. Raises ``Unavailable``."""
        with suppress(DuplicateJobError):  # an earlier try arrived and its answer was lost
            self.rq_queue(spec.queue).enqueue_call(TASK, job_id=spec.id, unique=True, timeout=-1, result_ttl=0, description=spec.id)
        self.line_up(spec)
        self.wait_until_durable()

    def wait_until_durable(self) -> None:
        """Return when all that was written to Redis before is on disk. Raises ``Unavailable`` if that takes too long."""
        if self._fsync_timeout_ms:
            self._wait_for_fsync()

    def line_up(self, spec: JobSpec) -> None:
        """Let a job that RQ has queued be claimed. Doing it again changes nothing."""
        keys = [f"outfill:job:{spec.id}", queue_key(spec.queue), line_key(spec.queue, spec.tenant), turns_key(spec.queue)]
        self._line(keys=keys, args=[spec.id, spec.tenant])

    def out_of_line(self, queue: str, limit: int = 1000) -> list[str]:
        """Jobs at the front of a queue that nobody lined up: the API died right after it queued them."""
        ids = [job_id.decode() for job_id in cast("list[bytes]", self._redis.lrange(queue_key(queue), 0, 0))]
        if not ids or self._redis.hexists(f"outfill:job:{ids[0]}", "place"):
            return []
        return [job_id.decode() for job_id in cast("list[bytes]", self._redis.lrange(queue_key(queue), 0, limit - 1))]

    def drop(self, queue: str, job_id: str) -> None:
        """Forget a queued id whose record is gone, with RQ's message."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.lrem(queue_key(queue), 0, job_id)
            pipe.delete(*message_keys(job_id))
            pipe.execute()

    def _wait_for_fsync(self) -> None:
        # WAITAOF speaks of the writes of its own connection, so a write goes first on that connection: the log is in order, hence
        # everything written before is on disk too.
        # A retry must therefore begin with the write again: on a new connection WAITAOF alone would be confirmed at once.
        for _ in range(_FSYNC_TRIES):
            with suppress(redis.ConnectionError), self._unretried.client() as own:  # type: ignore[no-untyped-call]
                own.set("outfill:fsync", time.time_ns())
                local, _replicas = own.execute_command("WAITAOF", 1, 0, self._fsync_timeout_ms)
                if local >= 1:
                    return
                break
        raise Unavailable("Redis did not confirm in time that it is on disk")

    def claim(
        self,
        models: Sequence[str],
        count: int,
        *,
        overdue_s: float,
        running_jobs: int = 0,
        spare_bulk: bool = False,
        claimant: Claimant | None = None,
    ) -> list[tuple[str, str]]:
        """Take up to ``count`` jobs of ``models``: pairs of queue name and job id, which now stand on intermediate lists.

        Of a tenant without a number of its own workers hold at most ``running_jobs`` (0: any number). ``spare_bulk`` leaves bulk jobs.
        Raises ``LeftToAnother`` where all that wait are for workers that hold fewer than ``claimant`` and are about to ask.
        """
        priorities = [priority for priority in PRIORITIES if not (spare_bulk and priority is Priority.BULK)]
        names = [queue_name(model, priority) for priority in priorities for model in models]
        keys = [*map(queue_key, names), *map(turns_key, names)]
        overdue = f"job_{ULID.from_timestamp(time.time() - overdue_s)}"
        asks = (claimant or Claimant("", 0, 0.0)).asks(models)
        args: list[str | int] = [count, len(models), overdue, running_jobs, asks, *(line_key(name, "") for name in names)]
        answer = cast("list[bytes] | None", self._claim(keys=keys, args=args))
        if answer is None:
            raise LeftToAnother
        taken = [item.decode() for item in answer]
        prefix = len(Queue.redis_queue_namespace_prefix)
        return [(key[prefix:], job_id) for key, job_id in zip(taken[::2], taken[1::2], strict=True)]

    def give_back_strays(self, queue: str) -> int:
        """Put ids that were claimed and never leased back at the front; returns how many."""
        keys = [queue_key(queue), intermediate_key(queue), f"outfill:strays:{queue}", turns_key(queue)]
        return cast("int", self._strays(keys=keys, args=[120, line_key(queue, "")]))

    def let_go(self, job_id: str) -> None:
        """A claimed job that cannot be begun is not its tenant's to hold."""
        tenant = cast("bytes | None", self._redis.hget(f"outfill:job:{job_id}", "tenant"))
        if tenant is not None:
            self._redis.srem(running_key(tenant.decode()), job_id)

    def now_s(self) -> float:
        """Unix time by the clock of Redis: leases, webhooks and retention go by this one alone, whatever the clocks of the processes say."""
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    def lapsed(self, queue: str, now_s: float) -> list[str]:
        """Lease members whose time is over."""
        members = cast("list[bytes]", self._redis.zrangebyscore(leases_key(queue), 0, now_s))
        return [member.decode() for member in members]

    def discard_lease(self, queue: str, member: str) -> None:
        """Forget a lease of a job that has ended, with RQ's message."""
        job_id = member.partition(":")[0]
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(leases_key(queue), member)
            pipe.delete(*message_keys(job_id))
            pipe.execute()

    def drop_stale_lease(self, queue: str, member: str) -> None:
        """Forget a lapsed lease whose job another execution runs by now."""
        job_id, _, execution_id = member.partition(":")
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(leases_key(queue), member)
            pipe.zrem(message_keys(job_id)[1], execution_id)
            pipe.delete(execution_key(member))
            pipe.execute()

    def queues(self) -> list[str]:
        """Names of all queues that ever held a job."""
        members = cast("set[bytes]", self._redis.smembers("rq:queues"))
        prefix = len(Queue.redis_queue_namespace_prefix)
        return sorted(member.decode()[prefix:] for member in members)

    def position(self, spec: JobSpec) -> int | None:
        """How many jobs of its queue would be claimed before this one, as the tenants take turns now; ``None`` if it has left it."""
        keys = [line_key(spec.queue, spec.tenant), turns_key(spec.queue)]
        return cast("int | None", self._position(keys=keys, args=[spec.id, spec.tenant, line_key(spec.queue, "")]))

    def next_position(self, queue: str, tenant: str) -> int:
        """How many jobs of a queue would be claimed before one that a tenant adds now."""
        return cast("int", self._position(keys=[line_key(queue, tenant), turns_key(queue)], args=["", tenant, line_key(queue, "")]))

    def head(self, queue: str) -> str | None:
        """The job that is next in a queue."""
        found = cast("bytes | None", self._redis.lindex(queue_key(queue), 0))
        return found.decode() if found else None

    def depth(self, queue: str) -> int:
        """Jobs waiting in a queue."""
        return self._redis.llen(queue_key(queue))

    def running(self, queue: str) -> int:
        """Jobs of a queue that workers hold."""
        return self._redis.zcard(leases_key(queue))
