"""The short form of ``make fuzz-files``, and what its bounds catch."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from odd_files import odd_files, saved

from service import intake

from .examined import MEMORY_MIB, SLOW_MACHINE, examine
from .file_trials import Runner, try_files
from .files import made
from .meter import Meter

PHOTO = saved(np.zeros((8, 8, 3), np.uint8))


def test_no_file_is_over_its_bounds() -> None:
    """Files of every format, drawn part by part: each is read or refused within its bounds, and nothing but our errors is raised."""
    result = try_files(1, 1800, keep=None)
    over = [tried for tried in result.findings if not tried.is_within(SLOW_MACHINE)]
    assert [f"{tried.number} {tried.kind} as {tried.role}: {tried.why}" for tried in over] == []
    assert result.tried == 1800
    assert result.verdicts["decoded"] > 200  # else they are only refused
    assert result.verdicts["a mask"] > 20


def test_a_file_is_made_again_by_its_number() -> None:
    """A seed and a number are enough to have a file again, and each kind is drawn."""
    first = [made(5, number) for number in range(300)]
    assert [made(5, number) for number in range(300)] == first
    assert set(Counter(file.kind for file in first)) == {"png", "jpeg", "webp", "avif", "tiff", "bmp", "other", "form"}


def _burn() -> None:
    end = time.process_time() + 1.2
    while time.process_time() < end:
        pass


def _take_memory() -> None:
    np.ones((MEMORY_MIB + 40) * 2**20, np.uint8)


def _take_memory_in_a_child() -> None:
    # More than any process of this one's family has had: of those that have ended the kernel tells the largest alone.
    mib = MEMORY_MIB + 100 + max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024
    subprocess.run([sys.executable, "-c", f"b'a' * ({mib} << 20)"], check=True)


def _burn_in_a_child() -> None:
    program = "import time\nwhile time.process_time() < 1.2: pass"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("costly", [_burn, _burn_in_a_child, _take_memory, _take_memory_in_a_child])
def test_what_costs_too_much_is_told(costly: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes more CPU or memory than a file may, itself or in a child, is over the bounds; as it is it is not."""
    assert examine(PHOTO, "image").is_bounded
    read = intake.read_header

    def slow(data: bytes, max_pixels: int) -> Any:
        costly()
        return read(data, max_pixels)

    monkeypatch.setattr(intake, "read_header", slow)
    assert not examine(PHOTO, "image").is_bounded


def test_an_error_of_no_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that raises what is none of our errors is a finding, with where it was raised."""

    def broken(data: bytes, max_pixels: int) -> Any:
        raise IndexError("index out of range")

    monkeypatch.setattr(intake, "read_header", broken)
    cost = examine(PHOTO, "image")
    assert not cost.is_bounded
    assert "IndexError: index out of range" in str(cost.fault)


def test_a_child_that_lives_on_is_measured() -> None:
    """What a child takes that was there before and stays counts too, as a process that decodes does."""
    program = "import sys\nfor line in sys.stdin: x = b'a' * (int(line) << 20); del x; print('done', flush=True)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def ask(mib: int) -> float:
            assert child.stdin is not None
            assert child.stdout is not None
            with Meter() as meter:
                print(mib, file=child.stdin, flush=True)
                assert child.stdout.readline() == "done\n"
            return meter.memory_mib

        ask(1)
        assert ask(100) > 90
        assert ask(1) < 20
        child.stdin.close()


def test_a_process_that_dies_is_told_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that ends the process that tries it is told by its number, and the next are tried."""
    with Runner() as runner:
        runner._process.kill()
        runner._process.wait()
        tried = list(runner.files(1, 0, 3))
    assert [each.number for each in tried] == [0, 1, 2]
    assert tried[0].why == "ended its process: SIGKILL"
    assert all(each.cost is not None for each in tried[1:])


def test_honest_files_are_within_the_bounds() -> None:
    """Every odd but honest file of docs/formats.md is within the bounds."""
    costs = {name: examine(file.data, "background") for name, file in odd_files().items()}
    assert [f"{name}: {cost.fault or cost.told()}" for name, cost in costs.items() if not cost.is_within(SLOW_MACHINE)] == []
