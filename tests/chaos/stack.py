"""A stack whose workers and stewards can be hit, whose Valkey and S3 stand behind proxies, and whose processes are started again."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import redis

from service.local import LocalStack, Part, StackOptions

from .points import CLOCK, DIRECTORY, Faults
from .proxy import Mode, Proxy

ROOT = Path(__file__).parent.parent.parent


class ChaosStack(LocalStack):
    """The whole service with two stewards. ``clocks``: by how many seconds the clocks of some parts are wrong."""

    def __init__(self, options: StackOptions, *, seed: int, clocks: Mapping[str, float]) -> None:
        self.redis_proxy, self.s3_proxy = Proxy(seed), Proxy(seed)
        self.faults = Faults(options.data / "chaos")
        self.said: list[str] = []
        """What the orchestrator saw end."""
        self._clocks = clocks
        self._ending, self._watch_ended, self._all_stopped = False, threading.Event(), threading.Event()
        super().__init__(options, say=self.said.append)
        self.redis_proxy.target, self.s3_proxy.target = self.redis_port, self.s3_port
        self._proxies = ExitStack()
        self._orchestrator = threading.Thread(target=self._orchestrate, name="orchestrator")

    def direct_environment(self) -> dict[str, str]:
        """The settings for who looks past the proxies."""
        return super().environment()

    def environment(self) -> dict[str, str]:
        """The settings of every part: all of them go through the proxies."""
        return super().environment() | {
            "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{self.redis_proxy.port}/0",
            "OUTFILL_S3__ENDPOINT_URL": f"http://127.0.0.1:{self.s3_proxy.port}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            DIRECTORY: str(self.faults.directory),
            "OUTFILL_WORKER__SUBJECT_LOOKS": "1",  # a storm is of many jobs
        }

    def _make_parts(self) -> Iterator[Part]:
        for part in super()._make_parts():
            role = "paint" if part.name.startswith("worker-") else part.name
            if part.name == "valkey":  # a write beyond its file size limit is then an error, as on a full disk, and no signal
                yield replace(part, command=["env", "--ignore-signal=XFSZ", *part.command])
            elif role in ("paint", "steward"):
                environment = {**part.environment, CLOCK: str(self._clocks.get(part.name, 0.0))}
                victim = replace(part, command=[sys.executable, "-m", "tests.chaos.victim", role], environment=environment)
                yield victim
                if role == "steward":
                    second = {**environment, "OUTFILL_METRICS__PORT": "0"}
                    yield replace(victim, name="steward-2", environment=second, log=self._log("steward-2"))
            else:
                yield part

    def __enter__(self) -> Self:
        with ExitStack() as proxies:
            proxies.enter_context(self.redis_proxy)
            proxies.enter_context(self.s3_proxy)
            super().__enter__()
            self._proxies = proxies.pop_all()
        self._orchestrator.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._watch_ended.wait()
        super().__exit__(*_)
        self._all_stopped.set()
        self._orchestrator.join()
        self._proxies.close()

    def _orchestrate(self) -> None:
        self.watch(lambda: self._ending)
        self._watch_ended.set()
        self._all_stopped.wait()  # what a thread has started may be made to end with it

    # -- faults of what it stands on ----------------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """Kill -9; the orchestrator starts it again."""
        process = self.parts[name].process
        if process is not None:
            process.kill()

    def kill_valkey(self) -> None:
        """Kill -9, and wait until the orchestrator has it up again from its AOF."""
        valkey = self.parts["valkey"]
        before = valkey.restarts
        self.kill("valkey")
        wait_until(lambda: valkey.restarts > before and self._redis_answers(), 120)

    def freeze_valkey(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        process = self.parts["valkey"].process
        if process is None:
            return
        os.kill(process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def s3_fails(self, mode: Mode, seconds: float) -> None:
        """S3 is away, or answers 500, for a while."""
        self.s3_proxy.become(mode)
        try:
            time.sleep(seconds)
        finally:
            self.s3_proxy.become(Mode.PASS)

    def fill_disk(self, seconds: float) -> None:
        """Valkey's AOF cannot grow for a while. It refuses writes then (MISCONF)."""
        process, log = self.parts["valkey"].process, max((self._data / "valkey").rglob("*.aof"), key=lambda path: path.stat().st_size)
        if process is None:
            return
        no_limit = resource.RLIM_INFINITY
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, no_limit))
        try:
            time.sleep(seconds)
        finally:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (no_limit, no_limit))

    def drop_replies(self, share: float, seconds: float) -> None:
        """Replies of Valkey are lost for a while, though the commands were carried out."""
        self.redis_proxy.drop_replies(share)
        try:
            time.sleep(seconds)
        finally:
            self.redis_proxy.drop_replies(0.0)

    def step_clocks(self, step_s: float, seconds: float) -> None:
        """The clocks of all workers jump, and back after a while."""
        self.faults.step_clocks(step_s)
        try:
            time.sleep(seconds)
        finally:
            self.faults.step_clocks(0.0)

    def connect(self) -> redis.Redis:
        """Valkey itself, past the proxy."""
        return redis.Redis(port=self.redis_port, socket_timeout=30)


def wait_until(look: Callable[[], object], timeout_s: float, every_s: float = 0.1) -> bool:
    """Whether ``look`` came true within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
