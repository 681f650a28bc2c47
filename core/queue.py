"""The queue: Redis lists that RQ fills. RQ is transport; what is true of a job stands in its record (core/jobs.py).

Queues are named ``{model}.{priority}``. A message is a job id and nothing else, serialised as JSON, and no worker ever runs a
function that a message names.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
import structlog
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer
from ulid import ULID

from api_schemas.errors import Unavailable
from api_schemas.jobs import JobSpec, queue_name
from api_schemas.requests import Priority
from core.settings import Redis

_log = structlog.get_logger(__name__)
TASK = "outfill.paint"
"""The function name in every message; nothing imports it."""
PRIORITIES = (Priority.INTERACTIVE, Priority.STANDARD, Priority.BULK)
NO_QUEUE = "none"
"""What RQ is told that our workers listen to: they claim by a script, and RQ wants a name."""
SET_ASIDE = "outfill:set-aside"
"""Jobs that a worker had claimed and could not read, by when they are in line again."""
_FIRST_PAUSE_MS, _LONGEST_PAUSE_MS = 5_000, 60_000
"""How long such a job is left alone the first time, and at most."""
_ACCEPTING, _COUNTS = "outfill:accepting", "outfill:counts"
_OF_A_JOB = re.compile(rb"job_[0-7][0-9A-HJKMNP-TV-Z]{25}(?::|$)")
_FSYNC_TRIES = 3
_FSYNC = "outfill:fsync"
"""What is written to hear of all that was written before it."""
_LOOK_AGAIN_S = 1.0
_LONGEST = 300
"""Letters of an error in the log: those of sentinels show each connection with all of its options."""
_CHUNK = 500
"""Records that are looked at in one round trip."""


class DemotedError(redis.ConnectionError):
    """The server that a connection leads to takes no writes any more: another is the primary. The connection is closed; a new one may lead there."""


class _LeavesReplicas:
    """What a connection does when its server has become a replica: redis-py takes the refusal for an answer, and would ask the same server for ever."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except (ReadOnlyError, MasterDownError) as error:
            self.disconnect()  # type: ignore[attr-defined]
            raise DemotedError(f"the server is no primary: {error}") from error


class _Tcp(_LeavesReplicas, redis.Connection):
    pass


class _Tls(_LeavesReplicas, redis.SSLConnection):
    pass


class _Unix(_LeavesReplicas, redis.UnixDomainSocketConnection):
    pass


class _SentinelTcp(_LeavesReplicas, redis.sentinel.SentinelManagedConnection):
    pass


class _SentinelTls(_LeavesReplicas, redis.sentinel.SentinelManagedSSLConnection):
    pass


_CONNECTIONS: Mapping[str, type] = {"tcp": _Tcp, "tls": _Tls, "unix": _Unix}
_BY_SENTINEL: Mapping[str, type] = {"tcp": _SentinelTcp, "tls": _SentinelTls}
_ASYNC_CONNECTIONS: Mapping[str, type] = {
    "tcp": redis.asyncio.Connection,
    "tls": redis.asyncio.SSLConnection,
    "unix": redis.asyncio.UnixDomainSocketConnection,
}
_ASKING_SENTINELS = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}


def connect(settings: Redis) -> redis.Redis:
    """A connection pool. Commands are retried for a few seconds, so that a restart of Redis, or a failover, is a pause and not an error."""
    address = settings.address
    options: dict[str, Any] = {
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
        "health_check_interval": 15,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries=6),
        **address.options,
    }
    if not address.sentinels:
        return redis.Redis.from_pool(redis.ConnectionPool(connection_class=_CONNECTIONS[address.transport], **options))
    asking = {**_ASKING_SENTINELS, "retry": Retry(NoBackoff(), 0), "ssl": address.transport == "tls", **(address.sentinel_options or {})}
    sentinels = redis.sentinel.Sentinel(address.sentinels, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    kind = _BY_SENTINEL[address.transport]
    return cast("redis.Redis", sentinels.master_for(address.service, connection_class=kind, **options))  # type: ignore[no-untyped-call]


def connect_listening(settings: Redis, name: str) -> AsyncRedis:
    """A connection for a loop that listens, called ``name`` in Redis' list of clients. Without a limit on reading: it waits for messages."""
    address = settings.address
    options: dict[str, Any] = {**address.options, "socket_timeout": None, "client_name": name}
    if address.transport != "unix":
        options["socket_keepalive"] = True
    if not address.sentinels:
        return AsyncRedis.from_pool(redis.asyncio.ConnectionPool(connection_class=_ASYNC_CONNECTIONS[address.transport], **options))
    is_tls = address.transport == "tls"
    asking = {**_ASKING_SENTINELS, "retry": AsyncRetry(NoBackoff(), 0), "ssl": is_tls, **(address.sentinel_options or {})}
    sentinels = redis.asyncio.sentinel.Sentinel(address.sentinels, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    return cast("AsyncRedis", sentinels.master_for(address.service, ssl=is_tls, **options))


async def close_listening(connection: AsyncRedis) -> None:
    """Close such a connection, and those to the sentinels that it asked."""
    await connection.aclose()
    for sentinel in getattr(getattr(connection.connection_pool, "sentinel_manager", None), "sentinels", ()):
        await sentinel.aclose()


def words(error: BaseException) -> str:
    """What went wrong, for the log: redis-py's own ``repr`` leaves out what the server said."""
    return f"{type(error).__name__}: {error}"[:_LONGEST]


_TROUBLES: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    ((DemotedError, ReadOnlyError, MasterDownError), "is now a slave", "read_only: the address leads to a replica, which takes no writes"),
    ((OutOfMemoryError,), "OOM ", "full: maxmemory is reached; what is there is read, deleted and finished, and nothing new is taken"),
    ((BusyLoadingError,), "LOADING ", "loading: it reads its log"),
    ((AuthenticationError, NoPermissionError), "NOAUTH ", "refused: its user, password or permissions are not good"),
    ((ClusterCrossSlotError, MovedError, ClusterDownError), "CROSSSLOT ", "cluster: cluster mode is not supported"),
    ((), "MISCONF ", "disk: it cannot write its log"),
    ((), "NOREPLICAS ", "no_replicas: it has fewer replicas than its min-replicas-to-write"),
    ((), "appendonly is disabled", "no_aof: appendonly is off; turn it on, or set OUTFILL_REDIS__FSYNC_TIMEOUT_MS=0"),
    ((), "unknown command 'WAITAOF'", "no_waitaof: it is older than 7.2; upgrade it, or set OUTFILL_REDIS__FSYNC_TIMEOUT_MS=0"),
    ((Unavailable,), "", "slow: what was written is not confirmed in time to be on disk, nor at its replicas where they are asked for"),
)
_NO_ANSWER = "unavailable: it does not answer"


def trouble(error: Exception) -> str:
    """What keeps Redis from its work: a stable word, and an explanation for operators."""
    text = str(error)
    for types, phrase, told in _TROUBLES:
        if isinstance(error, types) or (phrase and phrase in text):
            return told
    return _NO_ANSWER


@cache
def lua(*names: str) -> str:
    """The text of a script in core/lua, after those with the functions that it calls. Its flags, where it has any, stand before all."""
    *functions, script = ((Path(__file__).parent / "lua" / f"{name}.lua").read_text() for name in names)
    flags, line, rest = script.partition("\n")
    return "".join((flags, line, *functions, rest) if flags.startswith("#!") else (*functions, script))


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


def _ours(ids: Iterable[bytes]) -> list[str]:
    """Those of ids, or of lease members, that are of jobs of ours."""
    return [found.decode() for found in ids if _OF_A_JOB.match(found)]


def message_keys(job_id: str) -> tuple[str, str]:
    """RQ's own keys for one message: its hash and its executions."""
    return f"rq:job:{job_id}", f"rq:executions:{job_id}"


def _without_retries(connection: redis.Redis) -> redis.ConnectionPool:
    """A pool to the same server whose commands are sent once."""
    pool = connection.connection_pool
    options = {**pool.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
    if isinstance(pool, redis.sentinel.SentinelConnectionPool):
        del options["connection_pool"]
        return redis.sentinel.SentinelConnectionPool(  # type: ignore[no-untyped-call]
            pool.service_name, pool.sentinel_manager, connection_class=pool.connection_class, **options
        )
    return redis.ConnectionPool(connection_class=pool.connection_class, **options)


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

    def __init__(self, connection: redis.Redis, *, fsync_timeout_ms: int = 0, replicas: int = 0) -> None:
        """``replicas`` must have on disk what is to be durable, too."""
        self._redis = connection
        self._fsync_timeout_ms, self._replicas = fsync_timeout_ms, replicas
        self._probing, self._probed_at, self._found = threading.Lock(), -math.inf, ""
        self._unretried = redis.Redis.from_pool(_without_retries(connection))
        self._rq_queues: dict[str, Queue] = {}
        self._line = connection.register_script(lua("line"))
        self._drop = connection.register_script(lua("drop"))
        self._position = connection.register_script(lua("position"))
        self._claim = connection.register_script(lua("clock", "claim"))
        self._strays = connection.register_script(lua("strays"))
        self._oldest = connection.register_script(lua("oldest"))
        self._set_aside = connection.register_script(lua("clock", "set_aside"))
        self._bring_back = connection.register_script(lua("clock", "line_up_again", "bring_back"))
        self._missing = connection.register_script(lua("missing"))
        self._reconcile = connection.register_script(lua("line_up_again", "reconcile"))

    def rq_queue(self, queue: str) -> Queue:
        """RQ's object for a queue. Kept: a new one asks Redis for its version first."""
        return self._rq_queues.setdefault(queue, Queue(queue, connection=self._redis, serializer=JSONSerializer))

    def push(self, spec: JobSpec) -> None:
        """Queue the job, once however often this is called, and wait until it is on disk. Raises ``Unavailable``."""
        is_new = True
        try:
            self.rq_queue(spec.queue).enqueue_call(TASK, job_id=spec.id, unique=True, timeout=-1, result_ttl=0, description=spec.id)
        except DuplicateJobError:  # an earlier try arrived and its answer was lost
            is_new = False
        is_live = self.line_up(spec)
        if is_new and not is_live:  # … and the job has ended since, with its message
            self.drop(spec.queue, spec.id, spec.tenant)
        self.wait_until_durable()

    def wait_until_durable(self) -> None:
        """Return when all that was written to Redis before is on disk. Raises ``Unavailable`` if that takes too long."""
        if self._fsync_timeout_ms:
            self._wait_for_fsync()

    def line_up(self, spec: JobSpec) -> bool:
        """Let a job that RQ has queued be claimed; whether it waits or runs. Doing it again changes nothing."""
        keys = [f"outfill:job:{spec.id}", queue_key(spec.queue), line_key(spec.queue, spec.tenant), turns_key(spec.queue)]
        return bool(self._line(keys=keys, args=[spec.id, spec.tenant, spec.queue]))

    def out_of_line(self, queue: str, limit: int = 1000) -> list[str]:
        """Jobs at the front of a queue that nobody lined up, as the API died right after it queued them; or that wait no more, as they were queued again."""
        front = _ours(cast("list[bytes]", self._redis.lrange(queue_key(queue), 0, _CHUNK - 1)))
        if not front:
            return []
        status, place = cast("list[bytes | None]", self._redis.hmget(f"outfill:job:{front[0]}", ["status", "place"]))
        if status == b"running" or (status == b"queued" and place is not None):
            return []
        return _ours(cast("list[bytes]", self._redis.lrange(queue_key(queue), 0, limit - 1)))

    def drop(self, queue: str, job_id: str, tenant: str = "") -> None:
        """Forget a queued id whose record is gone or has ended, with RQ's message. A job that waits or runs is left alone."""
        lines = (line_key(queue, tenant), turns_key(queue)) if tenant else ("", "")
        self._drop(keys=[f"outfill:job:{job_id}", queue_key(queue), *message_keys(job_id), *lines], args=[job_id, tenant])

    def _wait_for_fsync(self) -> None:
        # WAITAOF speaks of the writes of its own connection, so a write goes first on that connection: the log is in order, hence
        # everything written before is on disk too.
        # A retry must therefore begin with the write again: on a new connection WAITAOF alone would be confirmed at once.
        for _ in range(_FSYNC_TRIES):
            with suppress(redis.ConnectionError), self._unretried.client() as own:  # type: ignore[no-untyped-call]
                own.eval(lua("touch"), 1, _FSYNC, time.time_ns())
                if self._is_confirmed(own):
                    return
                break
        raise Unavailable("Redis did not confirm in time that it is on disk")

    def _is_confirmed(self, own: redis.Redis) -> bool:
        asked = ("WAITAOF", 1, self._replicas, self._fsync_timeout_ms)
        local, replicas = cast("tuple[int, int]", own.execute_command(*asked))  # type: ignore[no-untyped-call]
        return local >= 1 and replicas >= self._replicas

    def trouble(self) -> str:
        """What keeps Redis from taking a job, found by doing what that needs; '' where nothing does. Askers within a second share one look."""
        if self._probing.acquire(blocking=self._probed_at == -math.inf):
            try:
                if time.monotonic() - self._probed_at > _LOOK_AGAIN_S:
                    self._found = self._probe()
                    self._probed_at = time.monotonic()
            finally:
                self._probing.release()
        return self._found

    def _probe(self) -> str:
        found = ""
        for _ in range(2):  # the first connection may lead to what was the primary before
            try:
                self._do_what_accepting_does()
            except (RedisError, Unavailable) as error:
                _log.warning("redis_not_ready", error=words(error))
                found = trouble(error)
                if not isinstance(error, redis.ConnectionError):
                    break
            else:
                return ""
        return found

    def _do_what_accepting_does(self) -> None:
        with self._unretried.client() as own:  # type: ignore[no-untyped-call]
            own.exists(_FSYNC, _ACCEPTING)  # of two slots, where there are slots
            own.set(_FSYNC, time.time_ns())
            if self._fsync_timeout_ms and not self._is_confirmed(own):
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

    def set_aside(self, queue: str, job_id: str) -> bool:
        """Leave a claimed job to workers that can read it; it stands in line again after a pause. ``False``: it was not (or no longer) claimed."""
        keys = [f"outfill:job:{job_id}", intermediate_key(queue), SET_ASIDE]
        return bool(self._set_aside(keys=keys, args=[job_id, queue, _FIRST_PAUSE_MS, _LONGEST_PAUSE_MS]))

    def bring_back(self, limit: int = 1000) -> int:
        """Put jobs that were set aside back into line, where their pauses are over; returns how many."""
        return cast("int", self._bring_back(keys=[SET_ASIDE], args=[limit]))

    def aside(self) -> int:
        """Jobs that were set aside."""
        return self._redis.zcard(SET_ASIDE)

    def missing(self) -> int:
        """Jobs that are counted as waiting and stand nowhere: lost ones, and for a moment those between two places."""
        return cast("int", self._missing(keys=[_COUNTS, _ACCEPTING, SET_ASIDE], args=self.queues()))

    def reconcile(self) -> int:
        """Look at all records, and put those into line that wait and stand nowhere; returns how many."""
        back, keys = 0, cast("Iterator[bytes]", self._redis.scan_iter("outfill:job:*", count=_CHUNK))
        while chunk := list(islice(keys, _CHUNK)):
            with self._redis.pipeline(transaction=False) as pipe:
                for key in chunk:
                    pipe.hget(key.decode(), "status")
                waiting = [key.decode() for key, status in zip(chunk, pipe.execute(), strict=True) if status == b"queued"]
            for job in waiting:
                back += cast("int", self._reconcile(keys=[job, _ACCEPTING, SET_ASIDE], args=[job.rpartition(":")[2]]))
        return back

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
        return _ours(members)

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
        """Names of all queues of ours that ever held a job. Other applications may keep theirs in the same database: those are let alone, and so is
        any message of ours whose id is no job's.
        """
        members = cast("set[bytes]", self._redis.smembers("rq:queues"))
        prefix = len(Queue.redis_queue_namespace_prefix)
        names = (member.decode(errors="replace")[prefix:] for member in members)
        return sorted(name for name in names if name.rpartition(".")[2] in PRIORITIES)

    def position(self, spec: JobSpec) -> int | None:
        """How many jobs of its queue would be claimed before this one, as the tenants take turns now; ``None`` if it has left it."""
        keys = [line_key(spec.queue, spec.tenant), turns_key(spec.queue)]
        return cast("int | None", self._position(keys=keys, args=[spec.id, spec.tenant, line_key(spec.queue, "")]))

    def next_position(self, queue: str, tenant: str) -> int:
        """How many jobs of a queue would be claimed before one that a tenant adds now."""
        return cast("int", self._position(keys=[line_key(queue, tenant), turns_key(queue)], args=["", tenant, line_key(queue, "")]))

    def oldest(self, queue: str, *, running_jobs: int = 0) -> str | None:
        """The oldest job of a queue that a worker may take.

        Workers hold at most ``running_jobs`` (0: any number) of a tenant without a number of its own; one that has as many waits for itself.
        """
        found = cast("bytes | None", self._oldest(keys=[turns_key(queue)], args=[line_key(queue, ""), running_jobs]))
        return found.decode() if found else None

    def depth(self, queue: str) -> int:
        """Jobs waiting in a queue."""
        return self._redis.llen(queue_key(queue))

    def running(self, queue: str) -> int:
        """Jobs of a queue that workers hold."""
        return self._redis.zcard(leases_key(queue))
