"""Room for what is slow: threads apart from those that everybody needs, so that who looks up his key waits neither for a store that hangs nor for
masks; and a share of each tenant in calls to hosts that callers name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

import anyio.to_thread
from anyio import CapacityLimiter

from api_schemas.errors import Unavailable

P = ParamSpec("P")
R = TypeVar("R")
STORING, MAY_STORE = 40, 40
CALLING = 16
CHECKING, MAY_CHECK = 2, 100
"""A mask of the largest size takes hundreds of megabytes while it is decoded."""


class Threads:
    """As many calls at once as there are ``threads``; ``may_wait`` more wait for one."""

    def __init__(self, threads: int, may_wait: int, refusal: str) -> None:
        self._limiter, self._refusal = CapacityLimiter(threads), refusal
        self._places, self._taken = threads + may_wait, 0

    async def run(self, call: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
        """What ``call`` returns. Raises ``Unavailable`` at once where too many wait already: each holds the files of its request in memory."""
        # Counted here and not asked of the limiter, which knows of a call only some turns of the loop later: of many that come at once, too many would pass.
        if self._taken >= self._places:
            raise Unavailable(self._refusal)
        self._taken += 1
        try:
            return await anyio.to_thread.run_sync(partial(call, *args, **named), limiter=self._limiter)
        finally:
            self._taken -= 1


class Shares:
    """So many calls of a tenant at once; the rest of its calls wait."""

    def __init__(self, share: int = CALLING) -> None:
        self._share = share
        self._doors: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """One of them."""
        door = self._doors.setdefault(tenant, asyncio.Semaphore(self._share))  # it lives as long as somebody stands at it
        async with door:
            yield


def for_storage() -> Threads:
    """For calls to S3."""
    return Threads(STORING, MAY_STORE, "the object store is slow, and too many requests wait for it")


def for_checks() -> Threads:
    """For looking into the images of a request."""
    return Threads(CHECKING, MAY_CHECK, "too many requests wait for their images to be checked")
