"""Who waits for news of a job: any number of callers, on one Redis connection for all of them.

The scripts that change a job publish on its channel (core/lua). That only wakes those who listen there; what is new they read from the record and
its stream, so that a message that is lost costs time and nothing else. The confirmation of a subscription wakes too: what
happened before it, also while the connection was broken, is read then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import structlog
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from api_schemas.errors import TooManyStreams
from core.events import stream_key
from core.jobs import JobRecords
from core.queue import close_listening, words
from core.settings import Events
from service.threads import Threads

_log = structlog.get_logger(__name__)
_LOOK_AGAIN_S = 10.0
"""A message can be lost with a connection that seems alive."""
_RECONNECT_S = 0.5


class Listeners:
    """The callers of one process that wait for jobs."""

    def __init__(self, connection: AsyncRedis, records: JobRecords, limits: Events, telling: Threads) -> None:
        self._connection, self._records, self._limits, self._telling = connection, records, limits, telling
        self._pubsub = connection.pubsub()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._streams: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._subscribing = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self.closing = False
        """Set when the process is to end: what is open ends then, since the server waits for it."""

    @asynccontextmanager
    async def listen(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever there may be news of a job. Raises ``RedisError``."""
        channel, news = stream_key(job_id), asyncio.Event()
        self._waiting.setdefault(channel, set()).add(news)
        try:
            await self._follow_channels(channel)
            yield news
        finally:
            self._waiting[channel].discard(news)
            # By a task of its own: who leaves may have been cancelled, and could wait for nothing.
            task = asyncio.create_task(self._follow_channels(channel))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def streams(self) -> int:
        """Event streams that are open."""
        return self._streams.total()

    def stream(self, tenant: str) -> AbstractAsyncContextManager[None]:
        """A place for one event stream. Raises ``TooManyStreams``."""
        return self._place(self._streams, tenant)

    @asynccontextmanager
    async def _place(self, taken: Counter[str], tenant: str) -> AsyncIterator[None]:
        if taken[tenant] >= self._limits.streams_per_tenant:
            raise TooManyStreams(f"{self._limits.streams_per_tenant} of your event streams may be open at once, and are")
        spare = self._limits.streams // 10 if taken[tenant] else 0  # for tenants that have none
        if taken.total() >= self._limits.streams - spare:
            raise TooManyStreams("as many event streams of all callers are open as may be")
        taken[tenant] += 1
        try:
            yield
        finally:
            taken[tenant] -= 1
            if not taken[tenant]:
                del taken[tenant]

    async def until_terminal(self, job_id: str, tenant: str, timeout_s: float) -> None:
        """Return when the job has ended, or after ``timeout_s``; at once where no more may wait, for waiting is a preference."""
        with suppress(TimeoutError, TooManyStreams):
            async with asyncio.timeout(timeout_s), self._place(self._waits, tenant), self.listen(job_id) as news:
                while not self.closing:
                    news.clear()
                    status = await self._telling.run(tenant, self._records.status, job_id)
                    if status is None or status.terminal:
                        return
                    await self.news_or(news, _LOOK_AGAIN_S)

    async def news_or(self, news: asyncio.Event, seconds: float) -> bool:
        """Wait for news; ``False``: there were none for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await news.wait()
        return False

    def close(self) -> None:
        """Let everybody go."""
        self.closing = True
        self._wake(*self._waiting)

    async def aclose(self) -> None:
        """Close the connection."""
        self.close()
        if self._leaving:
            await asyncio.wait(self._leaving)
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await close_listening(self._connection)

    # -- the connection -----------------------------------------------------------------------------------------------------------

    async def _follow_channels(self, channel: str) -> None:
        """Subscribe to a channel that somebody waits at, and leave one that nobody does."""
        async with self._subscribing:
            known = channel.encode() in self._pubsub.channels
            if self._waiting.get(channel):
                if not known:
                    await self._pubsub.subscribe(channel)
                if self._reader is None:
                    self._reader = asyncio.create_task(self._read())
            else:
                self._waiting.pop(channel, None)
                if known:
                    with suppress(RedisError):  # a new connection does not ask for it again
                        await self._pubsub.unsubscribe(channel)
                    self._pubsub.channels.pop(channel.encode(), None)

    async def _read(self) -> None:
        while True:
            try:
                message = await self._pubsub.get_message(timeout=None)
                if message is not None:
                    self._wake(message["channel"].decode())
            except RedisError as error:
                _log.warning("listening_broken", error=words(error))
                self._wake(*self._waiting)  # they hear from Redis themselves what is the matter
                await asyncio.sleep(_RECONNECT_S)

    def _wake(self, *channels: str) -> None:
        for channel in channels:
            for news in self._waiting.get(channel, ()):
                news.set()
