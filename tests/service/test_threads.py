"""The room that slow calls have."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from api_schemas.errors import Unavailable
from service.threads import Threads


def test_of_calls_that_come_at_once_only_those_without_a_place_are_refused() -> None:
    """Two threads and three that wait: of nine calls in one turn of the loop four are refused, and when the others are done there is room again."""
    go_on = Event()

    async def run() -> list[object]:
        room = Threads(2, 3, "full")
        calls = [asyncio.create_task(room.run(go_on.wait, 60)) for _ in range(9)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        while len(refused) < 4:
            done, _ = await asyncio.wait(set(calls) - refused, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            assert done
            refused |= done
        go_on.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [*answers, await room.run(lambda: "again")]

    *answers, again = asyncio.run(run())
    assert [each for each in answers if each is True] == [True] * 5
    assert sum(isinstance(each, Unavailable) for each in answers) == 4
    assert again == "again"


def test_a_call_that_fails_gives_its_place_back() -> None:
    """One place, and a call that raises: the next is taken."""

    async def run() -> str:
        room = Threads(1, 0, "full")
        with pytest.raises(ZeroDivisionError):
            await room.run(lambda: 1 // 0)
        return await room.run(lambda: "taken")

    assert asyncio.run(run()) == "taken"
