"""The time of the engine thread by phase."""

from __future__ import annotations

import pytest

from worker.stopwatch import IDLE, Stopwatch


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stopwatch(clock: Clock) -> Stopwatch:
    return Stopwatch(clock)


def test_every_second_belongs_to_one_phase(stopwatch: Stopwatch, clock: Clock) -> None:
    """Calls are of their model and phase, what lies between them is idle, and together they are all the time there was."""
    clock.now += 1
    with stopwatch.during("sd15", "encode"):
        clock.now += 2
    clock.now += 4
    for model in ("sd15", "sdxl", "sd15"):
        with stopwatch.during(model, "step"):
            clock.now += 8
    with stopwatch.during("sdxl", "decode"):
        clock.now += 16
    found = stopwatch.seconds()
    assert found == {IDLE: 5, ("sd15", "encode"): 2, ("sd15", "step"): 16, ("sdxl", "step"): 8, ("sdxl", "decode"): 16}
    assert sum(found.values()) == clock.now - 1000


def test_a_long_call_is_counted_while_it_lasts(stopwatch: Stopwatch, clock: Clock) -> None:
    """Read in the middle of a call, the seconds that it has taken so far are there; so are those of waiting for work."""
    clock.now += 3
    assert stopwatch.seconds() == {IDLE: 3}
    with stopwatch.during("sd15", "step"):
        clock.now += 60
        assert stopwatch.seconds() == {IDLE: 3, ("sd15", "step"): 60}
        clock.now += 1
    assert stopwatch.seconds()["sd15", "step"] == 61


def test_a_call_that_raises_ends(stopwatch: Stopwatch, clock: Clock) -> None:
    """After a call that failed the thread is idle again."""

    def fail() -> None:
        with stopwatch.during("sd15", "step"):
            clock.now += 1
            raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        fail()
    clock.now += 5
    assert stopwatch.seconds() == {IDLE: 5, ("sd15", "step"): 1}


def test_a_call_within_a_call_is_taken_from_it(stopwatch: Stopwatch, clock: Clock) -> None:
    """No second is counted twice where one call is made inside another."""
    with stopwatch.during("sd15", "encode"):
        clock.now += 1
        with stopwatch.during("sd15", "step"):
            clock.now += 2
        clock.now += 4
    assert stopwatch.seconds() == {IDLE: 0, ("sd15", "encode"): 5, ("sd15", "step"): 2}


def test_the_watchdog_sees_the_call_under_way(stopwatch: Stopwatch, clock: Clock) -> None:
    """The age of the present call is told, and is 0 between calls, however long the thread has waited."""
    clock.now += 100
    assert stopwatch.call_s() == 0
    with stopwatch.during("sd15", "step"):
        clock.now += 7
        assert stopwatch.call_s() == 7
    clock.now += 100
    assert stopwatch.call_s() == 0
