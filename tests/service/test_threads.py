"""The room that slow calls have, and the share of it that each tenant has."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from threading import Event
from typing import Any

import pytest

from api_schemas.errors import FetchFailed, TooManyAtOnce
from core import outbound
from core.settings import Outbound
from service.threads import WAITING_BYTES, BodyBytes, Pace, Place, Shares, Threads

PATIENCE_S = 60.0


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


def test_however_many_come_at_once_wait_for_their_turn() -> None:
    """Three threads, and five hundred calls of one tenant in one turn of the loop: none is refused, and all are answered."""

    async def work() -> None:
        calls = Calls(Threads(3, "for nothing", PATIENCE_S))
        for _ in range(500):
            calls.send("shop")
        assert await calls.end() == ["shop"] * 500

    run(work)


def test_whose_turn_does_not_come_in_time_is_told_how_long_it_waited() -> None:
    """It is refused for the time that it waited and what was before it, gives its place up, and takes no thread later."""

    async def work() -> None:
        calls = Calls(Threads(1, "for nothing", 0.05))
        calls.send("a")
        await calls.until_begun("a")
        refused = await asyncio.gather(*(calls.send(tenant) for tenant in ("a", "b")), return_exceptions=True)
        told = "the request waited 0.05 s in all, at last for nothing; "
        assert [str(each) for each in refused] == [f"{told}1 more of yours are there", f"{told}those of other callers were before it"]
        assert {type(each) for each in refused} == {TooManyAtOnce}
        calls.let_go(0)
        assert await calls.room.run("b", lambda: "free") == "free"
        await calls.end()

    run(work)


def test_the_time_that_a_request_waits_is_that_of_all_its_steps() -> None:
    """What it waited at one step it has no longer at the next, so that it is answered before a proxy gives it up."""

    async def work() -> None:
        calls = Calls(Threads(1, "for nothing", 60.0))
        calls.send("b")
        await calls.until_begun("b")
        with Place(BodyBytes(2**20, 2**20), lambda: "a") as place:
            place.waited_s = 60.0
            with pytest.raises(TooManyAtOnce, match="waited 60 s in all"):
                await calls.room.run("a", lambda: None)
            calls.let_go(0)
            await until(lambda: not calls.room._running)
            await calls.room.run("a", lambda: None)  # what need not wait does not ask
        await calls.end()

    run(work)


def test_who_waits_counts_by_bytes() -> None:
    """A request that waits holds as much as it keeps in memory, once, whatever its steps; where its tenant may hold no more it is refused."""

    async def request(bodies: BodyBytes, room: Threads, gate: asyncio.Event) -> int:
        with Place(bodies, lambda: "a"):
            await room.run("a", lambda: None)
            await room.run("a", lambda: None)
            await gate.wait()
            return bodies.taken("a")

    async def work() -> None:
        bodies, calls, gate = (
            BodyBytes(10 * WAITING_BYTES, 2 * WAITING_BYTES),
            Calls(Threads(1, "for nothing", PATIENCE_S)),
            asyncio.Event(),
        )
        calls.send("b")
        await calls.until_begun("b")
        tasks = [asyncio.create_task(request(bodies, calls.room, gate)) for _ in range(3)]
        await until(tasks[2].done)
        assert isinstance(tasks[2].exception(), TooManyAtOnce)
        calls.let_go(0)
        gate.set()
        assert max(await asyncio.gather(*tasks[:2])) == 2 * WAITING_BYTES
        assert bodies.taken("a") == 0
        await calls.end()

    run(work)


def test_a_call_that_fails_gives_its_place_back() -> None:
    """One place, and a call that raises: the next is taken."""

    async def work() -> None:
        room = Threads(1, "for nothing", PATIENCE_S)
        with pytest.raises(ZeroDivisionError):
            await room.run("shop", lambda: 1 // 0)
        assert await room.run("shop", lambda: "taken") == "taken"

    run(work)


def test_who_has_none_running_does_not_wait_for_who_has_all() -> None:
    """A tenant that sends without end leaves a thread free, and another's call begins at once in it."""

    async def work() -> None:
        calls = Calls(Threads(3, "for nothing", PATIENCE_S))
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
        calls = Calls(Threads(1, "for nothing", PATIENCE_S))
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


def test_who_leaves_the_line_is_not_waited_for() -> None:
    """A call that is given up while it waits takes neither a thread nor a place."""

    async def work() -> None:
        calls = Calls(Threads(1, "for nothing", PATIENCE_S))
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
    """One call at once, and those that wait too long are refused; another tenant is not concerned; and what ended leaves nothing behind."""

    async def work() -> None:
        shares, gate, inside = Shares(1, 0.05), asyncio.Event(), []

        async def call(tenant: str) -> None:
            async with shares.of(tenant):
                inside.append(tenant)
                await gate.wait()

        tasks = [asyncio.create_task(call(tenant)) for tenant in ("a", "a", "a", "b")]
        await until(lambda: tasks[1].done() and tasks[2].done() and len(inside) == 2)
        assert [type(each.exception()) for each in tasks[1:3]] == [TooManyAtOnce] * 2
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
        shares, settings = Shares(1, 0.05), Outbound(timeout_s=0.05)
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
    with pytest.raises(TooManyAtOnce, match="all callers hold 70 bytes, and 100 may be held"):
        room.take("b", 6)
    room.take("c", 30)
    with pytest.raises(TooManyAtOnce, match="all callers"):
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
