"""The local stack: one owner for each data directory, and parts that come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from conftest import Api, eventually

from service.local import LocalStack, StackError, StackOptions


def test_two_stacks_do_not_share_their_data(stack: LocalStack) -> None:
    """A second stack on the same directory is refused before anything of it starts."""
    with pytest.raises(StackError, match="another stack"):
        LocalStack(StackOptions(stack.options.data))


def test_a_started_stack_can_run_jobs(tiny_model: Path, tmp_path: Path) -> None:
    """At the moment when a stack has started, its worker has announced all its models and claims jobs."""
    environment = {"OUTFILL_MODELS__DIRECTORIES": json.dumps({"tiny": str(tiny_model)}), "OUTFILL_WORKER__SERVE": "tiny"}
    with LocalStack(StackOptions(tmp_path, environment=environment)) as fresh:
        (port,) = fresh.worker_metrics_ports
        assert "outfill_worker_ready 1.0" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        models = httpx.get(f"{fresh.url}/v1/models", headers={"Authorization": f"Bearer {fresh.api_key}"}).json()["items"]
        assert "tiny" in {model["card"]["id"] for model in models if model["workers"]}


def test_niceness_counts_among_parts_and_a_terminal_reaches_none(stack: LocalStack) -> None:
    """All parts are of one session, within which Linux shares the processors by niceness, and of process groups of their own."""
    processes = [part.process.pid for part in stack.parts.values() if part.process is not None]
    assert {os.getsid(process) for process in processes} == {os.getsid(0)}
    assert {os.getpgid(process) for process in processes} == set(processes)


def test_a_port_that_is_taken_is_named(stack: LocalStack, tmp_path: Path) -> None:
    """A stack does not pretend to be up behind somebody else's server."""
    with pytest.raises(StackError, match=f"port {stack.api_port} is in use"):
        LocalStack(StackOptions(tmp_path, port=stack.api_port))


def test_a_part_that_dies_is_started_again(stack: LocalStack, api: Api) -> None:
    """A killed API is back, on the same port and with the same jobs."""
    part = stack.parts["api"]
    assert part.process is not None
    part.process.kill()
    part.process.wait()
    stack.watch(lambda: part.restarts > 0 and part.exit_code() is None)
    eventually(lambda: is_up(stack))
    assert api.http.get("/v1/jobs").status_code == 200


def is_up(stack: LocalStack) -> bool:
    try:
        return httpx.get(f"{stack.url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_of_it_listens_to_other_machines(stack: LocalStack) -> None:
    """Every port of every part, asked for or not, is on the loopback interface."""
    listening = {name: list(_listening(part.process.pid)) for name, part in stack.parts.items() if part.process is not None}
    assert len(listening["s3"]) > 1
    assert {address for addresses in listening.values() for address in addresses} == {"0100007F"}


def _listening(pid: int) -> Iterator[str]:
    """The local addresses, as the kernel writes them, of a process's listening sockets."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(descriptor.readlink()))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                yield local.partition(":")[0]


STUBBORN = """
import subprocess, sys, time
from pathlib import Path
from service.local import Part
part = Part("stubborn", [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"], {}, Path(sys.argv[1]))
part.start()
print(part.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's doing")
def test_what_it_started_ends_with_it_whatever_killed_it(tmp_path: Path) -> None:
    """Kill -9, and a part that does not hear SIGTERM is gone too: the next start finds its ports and its data free."""
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", STUBBORN, str(log)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        eventually(lambda: "deaf" in log.read_text())
        process.kill()
    eventually(lambda: not runs(pid))


def test_the_object_store_and_all_of_ours_die_at_once_and_valkey_in_order(stack: LocalStack) -> None:
    """The object store needs seconds to stop, and may hang; Valkey writes its log out first."""
    assert {part.name for part in stack.parts.values() if part.dies_by == "TERM"} == {"valkey"}


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
