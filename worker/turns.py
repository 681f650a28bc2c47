"""Threads in which tenants take turns, so that the long stages of one tenant's pictures keep no other's waiting."""

from __future__ import annotations

import threading
from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor

Call = Callable[[], object]


class Running:
    """The jobs of each tenant for which calls run, in all pools that share this. Thread-safe."""

    def __init__(self) -> None:
        self._calls: dict[str, Counter[Hashable]] = {}
        self._lock = threading.Lock()

    def enter(self, tenant: str, job: Hashable) -> bool:
        """A call begins; whether none runs for another job of the tenant. The one that handed this job on may not have ended yet."""
        with self._lock:
            calls = self._calls.setdefault(tenant, Counter())
            calls[job] += 1
            return len(calls) == 1

    def leave(self, tenant: str, job: Hashable) -> None:
        """A call has ended."""
        with self._lock:
            calls = self._calls[tenant]
            calls[job] -= 1
            if not calls[job]:
                del calls[job]
            if not calls:
                del self._calls[tenant]


class TurnPool:
    """As many threads as there are ``threads``, and one more for tenants that have none.

    Who has the fewest calls running goes first, and of those with as many who has waited longest. A call runs in ``first`` where none
    runs for another job of its tenant, in any pool of the worker, else in ``further``, the threads of which may stand back behind those of ``first``.
    """

    def __init__(self, threads: int, first: Executor, further: Executor, running: Running) -> None:
        """Each of the executors has one thread more than ``threads``."""
        self._threads, self._executors, self._in_all_pools = threads, (first, further), running
        self._running: Counter[str] = Counter()
        self._lines: OrderedDict[str, list[tuple[int, int, Hashable, Call]]] = OrderedDict()
        self._arrivals = 0
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)

    def submit(self, tenant: str, job: Hashable, call: Call, *, rank: int = 0) -> None:
        """Have it called when it is the tenant's turn, after those of the tenant with a lower ``rank``. It raises nothing."""
        with self._lock:
            self._arrivals += 1
            insort(self._lines.setdefault(tenant, []), (rank, self._arrivals, job, call))
            self._let_in()

    def shutdown(self) -> None:
        """Return when all calls have ended; no more may come."""
        with self._ended:
            self._ended.wait_for(lambda: not self._lines and not self._running)
        for executor in self._executors:
            executor.shutdown()

    def _let_in(self) -> None:
        while self._lines:
            tenant = min(self._lines, key=lambda waiting: self._running[waiting])
            free = self._threads + 1 - self._running.total()
            if free <= (1 if self._running[tenant] else 0):
                return
            _, _, job, call = self._lines[tenant].pop(0)
            if self._lines[tenant]:
                self._lines.move_to_end(tenant)
            else:
                del self._lines[tenant]
            self._running[tenant] += 1
            first, further = self._executors
            (first if self._in_all_pools.enter(tenant, job) else further).submit(self._run, tenant, job, call)

    def _run(self, tenant: str, job: Hashable, call: Call) -> None:
        try:
            call()
        finally:
            self._in_all_pools.leave(tenant, job)
            with self._lock:
                self._running[tenant] -= 1
                if not self._running[tenant]:
                    del self._running[tenant]
                self._let_in()
                self._ended.notify_all()
