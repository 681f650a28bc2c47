"""The room that slow calls have, and the share of it that each tenant has."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from threading import Event
from typing import Any

import pytest

from api_schemas.errors import FetchFailed, TooManyAtOnce, Unavailable
from core import outbound
from core.settings import Outbound
from service.threads import BodyBytes, Pace, Shares, Threads


class Calls:
    """Calls that last until they are let go, by the tenants whose they are, in the order in which they began."""

    def __init__(self, room: Threads) -> None:
        self.room = room
        self.began: list[str] = []
        self._gates: list[Event] = []
        self._tasks: list[asyncio.Task[str]] = []

    def send(self, tenant: str) -> asyncio.Task[str]:
        """Make one."""

        def call(gate: Event) -> str:
            self.began.append(tenant)
            assert gate.wait(60)
            return tenant

        self._gates.append(gate := Event())
        self._tasks.append(task := asyncio.create_task(self.room.run(tenant, call, gate)))
        return task

    async def until_begun(self, *tenants: str) -> None:
        """Until these are all that have begun."""
        await until(lambda: len(self.began) >= len(tenants))
        assert self.began == list(tenants)

    def let_go(self, number: int) -> None:
        """End the one that was made after so many others."""
        self._gates[number].set()

    async def end(self) -> list[Any]:
        """End all of them, and say what became of each."""
        for gate in self._gates:
            gate.set()
        return await asyncio.gather(*self._tasks, return_exceptions=True)


async def until(look: Callable[[], bool]) -> None:
    """Until it is so."""
    async with asyncio.timeout(60):
        while not look():  # noqa: ASYNC110 - threads set no event of asyncio
            await asyncio.sleep(0.001)


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """In a loop of its own."""

    async def main() -> Any:
        return await work()

    return asyncio.run(main())


def test_of_calls_that_come_at_once_only_those_without_a_place_are_refused() -> None:
    """Two threads for a tenant and three places to wait: of nine calls in one turn of the loop four are refused for its own, and later there is room again."""

    async def work() -> None:
        calls = Calls(Threads(3, 6, "for nothing"))
        tasks = [calls.send("shop") for _ in range(9)]
        await until(lambda: sum(task.done() for task in tasks) == 4)
        answers = await calls.end()
        assert [each for each in answers if each == "shop"] == ["shop"] * 5
        assert sum(isinstance(each, TooManyAtOnce) for each in answers) == 4
        assert await calls.room.run("shop", lambda: "again") == "again"

    run(work)


def test_a_call_that_fails_gives_its_place_back() -> None:
    """One place, and a call that raises: the next is taken."""

    async def work() -> None:
        room = Threads(1, 0, "for nothing")
        with pytest.raises(ZeroDivisionError):
            await room.run("shop", lambda: 1 // 0)
        assert await room.run("shop", lambda: "taken") == "taken"

    run(work)


def test_who_has_none_running_does_not_wait_for_who_has_all() -> None:
    """A tenant that sends without end leaves a thread free, and another's call begins at once in it."""

    async def work() -> None:
        calls = Calls(Threads(3, 20, "for nothing"))
        for _ in range(8):
            calls.send("loud")
        await calls.until_begun("loud", "loud")
        calls.send("quiet")
        await calls.until_begun("loud", "loud", "quiet")
        assert "quiet" in await calls.end()

    run(work)


def test_tenants_take_turns() -> None:
    """Of those who wait goes first who has the fewest calls running, and of equals who has waited longest, whatever the length of their lines."""

    async def work() -> None:
        calls = Calls(Threads(1, 40, "for nothing"))
        calls.send("a")
        await calls.until_begun("a")
        for tenant in ("a", "a", "a", "b", "b", "c"):
            calls.send(tenant)
        await asyncio.sleep(0)  # all of them stand in line
        for number in (0, 1, 4, 6, 2, 5):
            begun = len(calls.began)
            calls.let_go(number)
            await until(lambda begun=begun: len(calls.began) > begun)  # type: ignore[misc]
        assert calls.began == ["a", "a", "b", "c", "a", "b", "a"]
        await calls.end()

    run(work)


def test_a_line_that_others_fill_is_no_fault_of_who_comes_last() -> None:
    """Where all places to wait are taken a tenant that has none is refused as by a service that is full, and before that it still finds one."""

    async def work() -> None:
        calls = Calls(Threads(1, 4, "for nothing"))
        for tenant in ("a", "a", "a", "b"):
            calls.send(tenant)
        refused = [calls.send("b"), calls.send("a")]  # the last place is for who has none
        await until(lambda: all(task.done() for task in refused))
        calls.send("c")
        last = calls.send("d")
        await until(last.done)
        answers = await calls.end()
        assert [type(each) for each in answers] == [str, str, str, str, Unavailable, TooManyAtOnce, str, Unavailable]

    run(work)


def test_who_leaves_the_line_is_not_waited_for() -> None:
    """A call that is given up while it waits takes neither a thread nor a place."""

    async def work() -> None:
        calls = Calls(Threads(1, 2, "for nothing"))
        calls.send("a")
        await calls.until_begun("a")
        gone = calls.send("b")
        await asyncio.sleep(0)
        gone.cancel()
        calls.send("b")
        calls.let_go(0)
        await calls.until_begun("a", "b")
        await calls.end()
        assert await calls.room.run("b", lambda: "free") == "free"

    run(work)


def test_calls_to_hosts_are_shared_and_so_are_the_places_to_wait_for_them() -> None:
    """One call at once, one that waits, and a third is refused; another tenant is not concerned; and what ended leaves nothing behind."""

    async def work() -> None:
        shares, gate, inside = Shares(1, 1), asyncio.Event(), []

        async def call(tenant: str) -> None:
            async with shares.of(tenant):
                inside.append(tenant)
                await gate.wait()

        tasks = [asyncio.create_task(call(tenant)) for tenant in ("a", "a", "a", "b")]
        await until(lambda: tasks[2].done() and len(inside) == 2)
        assert isinstance(tasks[2].exception(), TooManyAtOnce)
        assert sorted(inside) == ["a", "b"]
        gate.set()
        await asyncio.wait(tasks)
        async with shares.of("a"):
            pass

    run(work)


def test_a_lookup_that_nobody_waits_for_counts_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch whose time is over while its host is looked up keeps its place until the name server has answered: lookups cannot be broken off."""
    answered = Event()

    def resolve(*_: Any, **__: Any) -> list[Any]:
        assert answered.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(outbound, "_spelt", lambda *_: [])
    monkeypatch.setattr(outbound, "_TOLD_AFTER_S", 0.0)

    async def work() -> None:
        shares, settings = Shares(1, 0), Outbound(timeout_s=0.05)
        async with outbound.client(settings) as http:
            with pytest.raises(FetchFailed):
                async with shares.of("a"):
                    await outbound.fetch(http, "http://slow.example/x", settings, max_bytes=10)
        with pytest.raises(TooManyAtOnce):
            async with shares.of("a"):
                pass
        answered.set()

        def is_free() -> bool:
            return not shares._at

        await until(is_free)
        async with shares.of("a"):
            pass

    run(work)


def test_bytes_of_bodies_are_shared() -> None:
    """A tenant is refused for what it holds itself, then for what all hold, of which a fourth is for those who hold nothing; and all is given back."""
    room = BodyBytes(100, 50)
    room.take("a", 50)
    with pytest.raises(TooManyAtOnce):
        room.take("a", 1)
    room.take("b", 20)
    with pytest.raises(Unavailable):
        room.take("b", 6)
    room.take("c", 30)
    with pytest.raises(Unavailable):
        room.take("d", 1)
    for tenant, count in (("a", 50), ("b", 20), ("c", 30)):
        room.give_back(tenant, count)
        assert room.taken(tenant) == 0
    room.take("a", 50)


def test_a_tenant_sends_so_many_bytes_a_second() -> None:
    """After four seconds' worth at once it waits for what is more; others do not, and when it has rested it need not either."""
    now = 100.0
    pace = Pace(1000, lambda: now)
    assert [pace.wait_s("a", 2000), pace.wait_s("a", 2000), pace.wait_s("a", 500), pace.wait_s("b", 4000)] == [0.0, 0.0, 0.5, 0.0]
    now = 104.5
    assert pace.wait_s("a", 4000) == 0.0
    assert Pace(0).wait_s("a", 10**12) == 0.0
