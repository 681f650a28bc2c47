"""Threads in which tenants take turns, so that the long stages of one tenant's pictures keep no other's waiting."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Call = Callable[[], object]


class TurnPool:
    """As many threads as there are ``threads``, and one more for tenants that have none.

    Who has the fewest calls running goes first, and of those with as many who has waited longest.
    """

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        """``pool`` has one thread more than ``threads``."""
        self._pool, self._threads = pool, threads
        self._running: Counter[str] = Counter()
        self._lines: OrderedDict[str, deque[Call]] = OrderedDict()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)

    def submit(self, tenant: str, call: Call) -> None:
        """Have it called when it is the tenant's turn. It raises nothing."""
        with self._lock:
            self._lines.setdefault(tenant, deque()).append(call)
            self._let_in()

    def shutdown(self) -> None:
        """Return when all calls have ended; no more may come."""
        with self._ended:
            self._ended.wait_for(lambda: not self._lines and not self._running)
        self._pool.shutdown()

    def _let_in(self) -> None:
        while self._lines:
            tenant = min(self._lines, key=lambda waiting: self._running[waiting])
            free = self._threads + 1 - self._running.total()
            if free <= (1 if self._running[tenant] else 0):
                return
            call = self._lines[tenant].popleft()
            if self._lines[tenant]:
                self._lines.move_to_end(tenant)
            else:
                del self._lines[tenant]
            self._running[tenant] += 1
            self._pool.submit(self._run, tenant, call)

    def _run(self, tenant: str, call: Call) -> None:
        try:
            call()
        finally:
            with self._lock:
                self._running[tenant] -= 1
                if not self._running[tenant]:
                    del self._running[tenant]
                self._let_in()
                self._ended.notify_all()
