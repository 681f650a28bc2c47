"""Tenants take turns in a worker's threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from worker.turns import Running, TurnPool


@pytest.fixture
def pool() -> Iterator[TurnPool]:
    """Two threads, and one more for tenants that have none."""
    pool = TurnPool(2, ThreadPoolExecutor(3), ThreadPoolExecutor(3), Running())
    yield pool
    pool.shutdown()


def test_a_tenant_that_has_no_thread_has_one_at_once(pool: TurnPool) -> None:
    """However many calls of another wait."""
    go_on, met = threading.Event(), threading.Event()
    for _ in range(10):
        pool.submit("many", object(), partial(go_on.wait, 60))
    pool.submit("one", object(), met.set)
    assert met.wait(60)
    go_on.set()


def test_a_tenant_alone_has_all_threads_but_one(pool: TurnPool) -> None:
    """Two calls run at once, and the third when one of them has ended."""
    running, go_on, third = threading.Semaphore(0), threading.Event(), threading.Event()

    def call() -> None:
        running.release()
        go_on.wait(60)

    for _ in range(2):
        pool.submit("many", object(), call)
    pool.submit("many", object(), third.set)
    assert running.acquire(timeout=60)
    assert running.acquire(timeout=60)
    assert not third.is_set()
    go_on.set()
    assert third.wait(60)


def test_a_tenants_own_calls_go_by_rank(pool: TurnPool) -> None:
    """Of one tenant's calls that wait the one with the lowest rank is next, and of equal ones the first that came."""
    order: list[str] = []
    first, others, begun, done = threading.Event(), threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def hold(gate: threading.Event) -> None:
        begun.release()
        gate.wait(60)

    def told(name: str) -> None:
        order.append(name)
        done.release()

    for gate in (first, others):
        pool.submit("one", object(), partial(hold, gate))
        assert begun.acquire(timeout=60)
    for name, rank in (("bulk", 0), ("standard", -30), ("interactive", -120), ("standard again", -30)):
        pool.submit("one", object(), partial(told, name), rank=rank)
    first.set()  # one thread takes them all, so that the order is that of their starts
    for _ in range(4):
        assert done.acquire(timeout=60)
    others.set()
    assert order == ["interactive", "standard", "standard again", "bulk"]


def test_those_that_wait_go_by_what_they_have_running(pool: TurnPool) -> None:
    """Of two tenants that wait the one that has fewer calls running is next."""
    order: list[str] = []
    gates = [threading.Event() for _ in range(3)]
    begun = threading.Semaphore(0)

    def hold(gate: threading.Event) -> None:
        begun.release()
        gate.wait(60)

    pool.submit("many", object(), partial(hold, gates[0]))
    pool.submit("many", object(), partial(hold, gates[1]))
    pool.submit("few", object(), partial(hold, gates[2]))
    for _ in range(3):
        assert begun.acquire(timeout=60)
    done = threading.Semaphore(0)

    def told(name: str) -> None:
        order.append(name)
        done.release()

    pool.submit("many", object(), partial(told, "many"))
    pool.submit("few", object(), partial(told, "few"))
    gates[2].set()  # now few has none, and many two
    assert done.acquire(timeout=60)
    assert order == ["few"]
    gates[0].set()
    assert done.acquire(timeout=60)
    gates[1].set()


def test_a_tenants_first_job_goes_before_others_further_ones() -> None:
    """A call runs in the first threads where none runs for another job of its tenant in any pool, else in the further ones."""
    running, names, gate = Running(), list[str](), threading.Event()
    begun = threading.Semaphore(0)
    pools = [TurnPool(2, ThreadPoolExecutor(3, f"first-{each}"), ThreadPoolExecutor(3, f"further-{each}"), running) for each in range(2)]

    def call() -> None:
        names.append(threading.current_thread().name.rsplit("_", 1)[0])
        begun.release()
        gate.wait(60)

    for pool, tenant, job in ((0, "many", 1), (1, "many", 1), (1, "many", 2), (0, "one", 3)):
        pools[pool].submit(tenant, job, call)
        assert begun.acquire(timeout=60)
    gate.set()
    for each in pools:
        each.shutdown()
    assert names == ["first-0", "first-1", "further-1", "first-0"]
