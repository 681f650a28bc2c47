"""Room for what is slow, with a share of it for each tenant: threads apart from those that everybody needs, so that who looks up his key waits neither
for a store that hangs nor for masks; calls to hosts that callers name; bytes of bodies.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from api_schemas.errors import TooManyAtOnce
from core import outbound

P = ParamSpec("P")
R = TypeVar("R")
STORING = 40
CALLING = 16
READING = 4
"""Uploads that a tenant's requests read at once: only what has come is counted."""
PARSING = 2
"""Most of it holds the lock of the interpreter, so that a second thread of one tenant would gain nothing but memory."""
CHECKING = 3
"""A mask of the largest size takes hundreds of megabytes while it is decoded."""
LISTING = 3
TELLING = 8
"""Of those who wait or follow each has one call at a time, and how many they are is limited where they come in."""
WAITING_BYTES = 2**16
"""That a request which waits for its turn counts as beside its body: what the process keeps of it, and its connection."""
BURST_S = 4.0
OURSELVES = ""
"""Whose calls those are that no tenant makes. No tenant has this name."""


class Threads:
    """As many calls at once as there are ``threads``, in turns of their tenants; the others wait for one, for ``patience_s`` at most.

    Who has the fewest calls running goes first, and of those with as many who has waited longest. A fourth of the threads is for tenants that have
    none. How many wait is bounded by the bytes that each of them counts as (``BodyBytes``), and by nothing else.
    """

    def __init__(self, threads: int, what: str, patience_s: float | None) -> None:
        self._limiter, self._what, self._patience_s = CapacityLimiter(threads), what, patience_s
        self._threads, self._spare_threads = threads, -(-threads // 4) if threads > 1 else 0
        self._running: Counter[str] = Counter()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def run(self, tenant: str, call: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
        """What ``call`` returns. Raises ``TooManyAtOnce`` where its turn does not come in time, or the tenant's requests hold too much to wait."""
        await self._turn(tenant)
        try:
            return await anyio.to_thread.run_sync(partial(call, *args, **named), limiter=self._limiter)
        finally:
            self._end(tenant)

    async def _turn(self, tenant: str) -> None:
        """Wait for it."""
        if tenant not in self._lines and self._may_begin(tenant):
            self._running[tenant] += 1
            return
        try:
            async with _patiently(self._patience_s):
                turn = asyncio.get_running_loop().create_future()
                self._lines.setdefault(tenant, deque()).append(turn)
                await self._take(tenant, turn)
        except TimeoutError:
            own = self._running[tenant] + len(self._lines.get(tenant, ()))
            raise _too_slow(self._patience_s, self._what, own) from None

    async def _take(self, tenant: str, turn: asyncio.Future[None]) -> None:
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given a thread, and is gone
                self._end(tenant)
            else:
                self._leave(tenant, turn)
            raise

    def _may_begin(self, tenant: str) -> bool:
        free = self._threads - self._running.total()
        return free > (self._spare_threads if self._running[tenant] else 0)

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        line = self._lines[tenant]
        line.remove(turn)
        if not line:
            del self._lines[tenant]

    def _end(self, tenant: str) -> None:
        """Give a thread back, and let in who may have one now."""
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        while self._lines:
            first = min(self._lines, key=lambda waiting: self._running[waiting])  # of equals the one that was first in the order
            if not self._may_begin(first):
                return
            turn = self._lines[first].popleft()
            if self._lines[first]:
                self._lines.move_to_end(first)
            else:
                del self._lines[first]
            if not turn.done():
                self._running[first] += 1
                turn.set_result(None)


def _too_slow(patience_s: float | None, what: str, own: int) -> TooManyAtOnce:
    before = f"{own} more of yours are there" if own else "those of other callers were before it"
    return TooManyAtOnce(f"the request waited {patience_s:g} s in all, at last {what}; {before}")


class Shares:
    """So many calls of a tenant at once; the others wait, for ``patience_s`` at most."""

    def __init__(self, share: int, patience_s: float) -> None:
        self._share, self._patience_s = share, patience_s
        self._doors: dict[str, asyncio.Semaphore] = {}
        self._at: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """One of them. Raises ``TooManyAtOnce``. It ends with the lookups of names that it began, which cannot be broken off."""
        try:
            if self._at[tenant] < self._share:  # there is nothing to wait for
                await self._enter(tenant)
            else:
                async with _patiently(self._patience_s):
                    await self._enter(tenant)
        except TimeoutError:
            raise _too_slow(self._patience_s, "to bring its images in", self._at[tenant]) from None
        lookups: set[Future[Any]] = set()
        try:
            with outbound.noting_lookups(lookups):
                yield
        finally:
            self._end(tenant, [lookup for lookup in lookups if not lookup.done()])

    async def _enter(self, tenant: str) -> None:
        door = self._doors.setdefault(tenant, asyncio.Semaphore(self._share))
        self._at[tenant] += 1
        try:
            await door.acquire()
        except BaseException:
            self._leave(tenant)
            raise

    def _end(self, tenant: str, lookups: Sequence[Future[Any]]) -> None:
        """Give one back, after the last of ``lookups``."""
        if not lookups:
            self._doors[tenant].release()
            self._leave(tenant)
            return
        loop = asyncio.get_running_loop()

        def ended(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop has ended too
                loop.call_soon_threadsafe(self._end, tenant, lookups[1:])

        lookups[0].add_done_callback(ended)

    def _leave(self, tenant: str) -> None:
        self._at[tenant] -= 1
        if not self._at[tenant]:
            del self._at[tenant], self._doors[tenant]


class BodyBytes:
    """Bytes of request bodies, and of images that they name, that may be in memory at once: of all tenants, and of each. A fourth is for tenants that have none."""

    def __init__(self, total: int, share: int) -> None:
        self._total, self._share = max(total, share), share
        self._taken: Counter[str] = Counter()

    def take(self, tenant: str, count: int) -> None:
        """Take so many more. Raises ``TooManyAtOnce`` beyond the tenant's share, and where all have taken too many."""
        own = self._taken[tenant]
        if own + count > self._share:
            raise TooManyAtOnce(
                f"{own} bytes of your requests are held already, and {self._share} may be: send fewer or smaller ones at once"
            )
        if self._taken.total() + count > self._total - (self._total // 4 if own else 0):
            raise TooManyAtOnce(
                f"the requests of all callers hold {self._taken.total()} bytes, and {self._total} may be held: send it again"
            )
        self._taken[tenant] += count

    def give_back(self, tenant: str, count: int) -> None:
        """What was taken."""
        self._taken[tenant] -= count
        if self._taken[tenant] <= 0:
            del self._taken[tenant]

    def taken(self, tenant: str) -> int:
        """How many bytes of a tenant are held."""
        return self._taken.get(tenant, 0)


class Pace:
    """Bytes a second that each tenant may send, after ``BURST_S`` of them at once (the generic cell rate algorithm); 0: any number."""

    def __init__(self, bytes_per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = bytes_per_s, clock
        self._until: dict[str, float] = {}
        """By when what a tenant has sent is paid for."""

    def wait_s(self, tenant: str, count: int) -> float:
        """Seconds to wait after so many bytes more."""
        if not self._per_s:
            return 0.0
        now = self._clock()
        self._until = {each: until for each, until in self._until.items() if until > now}
        self._until[tenant] = until = self._until.get(tenant, now) + count / self._per_s
        return max(until - now - BURST_S, 0.0)


class Place:
    """What one request holds of that room, in the name of its tenant, who is known by the time that it holds anything. It is given back at the end of the request."""

    def __init__(self, room: BodyBytes, tenant: Callable[[], str]) -> None:
        self._room, self._whose = room, tenant
        self._tenant, self._held = OURSELVES, 0
        self._waits = self._released = False
        self.waited_s = 0.0
        """For its turns, in all."""

    def wait(self) -> None:
        """Count as one that waits, once. Raises ``TooManyAtOnce``."""
        if not self._waits:
            self.hold(WAITING_BYTES)
            self._waits = True

    def hold(self, count: int) -> None:
        """Hold so many bytes more. Raises ``TooManyAtOnce``."""
        if self._released:
            return
        self._tenant = self._whose()
        self._room.take(self._tenant, count)
        self._held += count

    def release(self) -> None:
        """Give all of it back, for good."""
        self._room.give_back(self._tenant, self._held)
        self._held, self._released = 0, True

    def __enter__(self) -> Self:
        self._token = _PLACE.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _PLACE.reset(self._token)
        self.release()


_NO_BOUND = BodyBytes(sys.maxsize, sys.maxsize)
"""For what is done for no request."""
_PLACE: ContextVar[Place | None] = ContextVar("place", default=None)


def hold(count: int) -> None:
    """Count so many bytes that were brought in for the request that is being answered, beside those of its body. Raises ``TooManyAtOnce``."""
    if (place := _PLACE.get()) is not None:
        place.hold(count)


@asynccontextmanager
async def _patiently(patience_s: float | None) -> AsyncIterator[None]:
    """A turn is waited for within, for what the request that is being answered has not waited yet of ``patience_s``. Raises ``TooManyAtOnce`` and ``TimeoutError``."""
    place = _PLACE.get() or Place(_NO_BOUND, lambda: OURSELVES)
    place.wait()
    began = time.monotonic()
    try:
        async with asyncio.timeout(None if patience_s is None else max(patience_s - place.waited_s, 0.0)):
            yield
    finally:
        place.waited_s += time.monotonic() - began


def for_storage(patience_s: float) -> Threads:
    """For calls to S3."""
    return Threads(STORING, "for the object store", patience_s)


def for_parsing(patience_s: float) -> Threads:
    """For large JSON, forms and data URLs."""
    return Threads(PARSING, "for its body to be read", patience_s)


def for_checks(patience_s: float) -> Threads:
    """For looking into the images of a request."""
    return Threads(CHECKING, "for its images to be checked", patience_s)


def for_pages(patience_s: float) -> Threads:
    """For pages of jobs and of deliveries, which read a hundred records each and sign the URLs of their pictures."""
    return Threads(LISTING, "for its page to be read", patience_s)


def for_news() -> Threads:
    """For telling those who follow or wait for jobs: how many they are is limited where they come in, and none of them is sent away from here."""
    return Threads(TELLING, "for news of its job", None)
