"""Threads for what needs S3: of their own, so that a store that hangs keeps nobody waiting who does not need it, nor who looks up his key."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from api_schemas.errors import Unavailable

P = ParamSpec("P")
R = TypeVar("R")
THREADS, MAY_WAIT = 40, 40


class StorageThreads:
    """As many calls at once as there are threads; as many more wait for one."""

    def __init__(self, threads: int = THREADS, may_wait: int = MAY_WAIT) -> None:
        self._limiter, self._may_wait = CapacityLimiter(threads), may_wait

    async def run(self, call: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
        """What ``call`` returns. Raises ``Unavailable`` at once where too many wait already: each holds the files of its request in memory."""
        if self._limiter.statistics().tasks_waiting >= self._may_wait:
            raise Unavailable("the object store is slow, and too many requests wait for it")
        return await anyio.to_thread.run_sync(partial(call, *args, **named), limiter=self._limiter)
