"""Calls in processes that can be ended, with real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import eventually

from api_schemas.errors import ImageCorrupt, ImageTooCostly, MaskEmpty
from imagefiles.sandbox import Allowance, Sandbox

PLENTY = Allowance(20.0, 2**28)
MIB = 2**20


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Two processes with the calls of tests/sandboxed_calls.py."""
    sandbox = Sandbox("sandboxed_calls", 2, memory=2**30)
    yield sandbox
    sandbox.close()


def pid_of(sandbox: Sandbox) -> int:
    """The process that has the next call."""
    return int(sandbox.call("environment", None, [], PLENTY).value["pid"])


def test_a_call_gets_what_it_is_given_and_answers(sandbox: Sandbox) -> None:
    """JSON and files go in, JSON and buffers come out, empty and large ones too."""
    files = [b"", b"small", os.urandom(5 * MIB)]
    answer = sandbox.call("echo", {"a": [1, None]}, files, PLENTY)
    assert answer.value == {"a": [1, None]}
    assert [bytes(buffer) for buffer in answer.buffers] == files


def test_the_buffers_of_an_answer_are_the_callers(sandbox: Sandbox) -> None:
    """What is written into one stays there when the process works on."""
    buffer = sandbox.call("echo", None, [b"abc"], PLENTY).buffers[0]
    buffer[0] = ord("x")
    sandbox.call("echo", None, [b"zzz"], PLENTY)
    assert bytes(buffer) == b"xbc"


def test_a_process_goes_behind_its_parent() -> None:
    """It has the niceness that it was given, whichever thread calls it first, in its parent's session, where that counts; and in a process group of its own, which no terminal ends."""
    sandbox = Sandbox("sandboxed_calls", 1, memory=2**30, niceness=7)
    with ThreadPoolExecutor(1, initializer=lambda: os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)) as behind:
        process = behind.submit(pid_of, sandbox).result()
    assert os.getpriority(os.PRIO_PROCESS, process) == os.getpriority(os.PRIO_PROCESS, 0) + 7
    assert os.getsid(process) == os.getsid(0)
    assert os.getpgid(process) == process
    sandbox.close()


def test_a_process_serves_many_calls(sandbox: Sandbox) -> None:
    """A call that behaves, or is refused, leaves its process for the next."""
    first = pid_of(sandbox)
    with pytest.raises(MaskEmpty) as caught:
        sandbox.call("refuse", None, [], PLENTY)
    assert (caught.value.detail, caught.value.field) == ("nothing is marked", "mask")
    assert pid_of(sandbox) == first


def test_a_call_that_takes_too_much_time_is_ended(sandbox: Sandbox) -> None:
    """It has its processor time and no more, and the next call has a new process."""
    first = pid_of(sandbox)
    with pytest.raises(ImageTooCostly, match="longer than 1 s"):
        sandbox.call("spin", None, [], Allowance(1.0, 2**28))
    assert pid_of(sandbox) != first


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone limits a process's memory")
def test_a_call_that_takes_too_much_memory_is_refused(sandbox: Sandbox) -> None:
    """It has its memory and no more; the next call has its own."""
    with pytest.raises(ImageTooCostly, match="more memory"):
        sandbox.call("hog", 100 * MIB, [], Allowance(20.0, 80 * MIB))
    assert sandbox.call("hog", 100 * MIB, [], Allowance(20.0, 120 * MIB)).value == 100 * MIB


@pytest.mark.parametrize("call", ["die", "break"])
def test_a_process_that_breaks_fails_its_call_alone(sandbox: Sandbox, call: str) -> None:
    """A decoder that crashes is the fault of its image, and other calls go on."""
    with pytest.raises(ImageCorrupt, match="breaks its decoder"):
        sandbox.call(call, None, [], PLENTY)
    assert sandbox.call("echo", 1, [], PLENTY).value == 1


def test_a_call_that_is_not_wanted_any_more_is_ended(sandbox: Sandbox, tmp_path: Path) -> None:
    """What says that it is not is raised, and the process is gone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    first = pid_of(sandbox)

    def wanted() -> None:
        raise TimeoutError("canceled")

    with pytest.raises(TimeoutError, match="canceled"):
        sandbox.call("hang", str(pipe), [], PLENTY, wanted)
    assert pid_of(sandbox) != first
    assert not Path(f"/proc/{first}").exists()


def test_a_process_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are not in its environment, nor is anything else but what an interpreter needs."""
    monkeypatch.setenv("OUTFILL_S3__SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    sandbox = Sandbox("sandboxed_calls", 1, memory=2**30)
    names = set(sandbox.call("environment", None, [], PLENTY).value["names"])
    sandbox.close()
    assert names <= {
        "PATH",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MALLOC_ARENA_MAX",
    }


def test_calls_share_the_memory(tmp_path: Path) -> None:
    """A call waits until what it is allowed is free, though a process is, and stops waiting when it is not wanted; an eighth is for small calls."""
    sandbox, pipe = Sandbox("sandboxed_calls", 2, memory=100 * MIB), tmp_path / "pipe"
    os.mkfifo(pipe)
    began: list[int] = []

    def wanted() -> None:
        began.append(1)

    def not_wanted() -> None:
        raise TimeoutError("canceled")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(sandbox.call, "hang", str(pipe), [], Allowance(20.0, 80 * MIB), wanted)
        eventually(lambda: began)
        with pytest.raises(TimeoutError, match="canceled"):
            sandbox.call("echo", 1, [], Allowance(20.0, 20 * MIB), not_wanted)
        assert sandbox.call("echo", 1, [], Allowance(20.0, 12 * MIB)).value == 1
        with pipe.open("rb"):
            first.result(timeout=60)
    assert sandbox.call("echo", 2, [], Allowance(20.0, 500 * MIB)).value == 2, (
        "a call is allowed no more than there is, and is not kept waiting"
    )
    sandbox.close()


def test_a_process_that_died_while_idle_is_nobodys_fault(sandbox: Sandbox) -> None:
    """One that the system has ended is replaced, and the next call is answered."""
    first = pid_of(sandbox)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: "State:\tZ" in Path(f"/proc/{first}/status").read_text())
    assert pid_of(sandbox) != first


def test_a_large_call_is_not_passed_for_ever(tmp_path: Path) -> None:
    """Calls of the same kind go in the order in which they came."""
    sandbox, pipe = Sandbox("sandboxed_calls", 3, memory=100 * MIB), tmp_path / "pipe"
    os.mkfifo(pipe)
    began: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sandbox.call, "hang", str(pipe), [], Allowance(20.0, 50 * MIB), lambda: began.append(1))
        eventually(lambda: began)
        waits: list[int] = []
        large = pool.submit(sandbox.call, "echo", "large", [], Allowance(20.0, 80 * MIB), lambda: waits.append(1))
        eventually(lambda: waits)

        def not_wanted() -> None:
            raise TimeoutError("canceled")

        with pytest.raises(TimeoutError, match="canceled"):  # it would fit, and came later
            sandbox.call("echo", 1, [], Allowance(20.0, 20 * MIB), not_wanted)
        with pipe.open("rb"):
            first.result(timeout=60)
        assert large.result(timeout=60).value == "large"
    sandbox.close()
