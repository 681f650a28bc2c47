"""Tenants take turns in a worker's threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from worker.turns import TurnPool


@pytest.fixture
def pool() -> Iterator[TurnPool]:
    """Two threads, and one more for tenants that have none."""
    pool = TurnPool(ThreadPoolExecutor(3), 2)
    yield pool
    pool.shutdown()


def test_a_tenant_that_has_no_thread_has_one_at_once(pool: TurnPool) -> None:
    """However many calls of another wait."""
    go_on, met = threading.Event(), threading.Event()
    for _ in range(10):
        pool.submit("many", partial(go_on.wait, 60))
    pool.submit("one", met.set)
    assert met.wait(60)
    go_on.set()


def test_a_tenant_alone_has_all_threads_but_one(pool: TurnPool) -> None:
    """Two calls run at once, and the third when one of them has ended."""
    running, go_on, third = threading.Semaphore(0), threading.Event(), threading.Event()

    def call() -> None:
        running.release()
        go_on.wait(60)

    for _ in range(2):
        pool.submit("many", call)
    pool.submit("many", third.set)
    assert running.acquire(timeout=60)
    assert running.acquire(timeout=60)
    assert not third.is_set()
    go_on.set()
    assert third.wait(60)


def test_those_that_wait_go_by_what_they_have_running(pool: TurnPool) -> None:
    """Of two tenants that wait the one that has fewer calls running is next."""
    order: list[str] = []
    gates = [threading.Event() for _ in range(3)]
    begun = threading.Semaphore(0)

    def hold(gate: threading.Event) -> None:
        begun.release()
        gate.wait(60)

    pool.submit("many", partial(hold, gates[0]))
    pool.submit("many", partial(hold, gates[1]))
    pool.submit("few", partial(hold, gates[2]))
    for _ in range(3):
        assert begun.acquire(timeout=60)
    done = threading.Semaphore(0)

    def told(name: str) -> None:
        order.append(name)
        done.release()

    pool.submit("many", partial(told, "many"))
    pool.submit("few", partial(told, "few"))
    gates[2].set()  # now few has none, and many two
    assert done.acquire(timeout=60)
    assert order == ["few"]
    gates[0].set()
    assert done.acquire(timeout=60)
    gates[1].set()
