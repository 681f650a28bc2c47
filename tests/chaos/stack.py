"""A stack whose workers and stewards can be hit, whose Valkey and S3 stand behind proxies, and whose processes are started again.

Valkey has a replica that can be promoted, where it is asked for.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from service.local import LocalStack, Part, StackOptions, free_ports

from .points import CLOCK, DIRECTORY, Faults
from .proxy import Mode, Proxy

ROOT = Path(__file__).parent.parent.parent


class ChaosStack(LocalStack):
    """The whole service with two stewards. ``clocks``: by how many seconds the clocks of some parts are wrong; ``replica``: whether Valkey has one."""

    def __init__(self, options: StackOptions, *, seed: int, clocks: Mapping[str, float], replica: bool = False) -> None:
        self.redis_proxy, self.s3_proxy, self.straight = Proxy(seed), Proxy(seed), Proxy(seed)
        """The last drops nothing, and leads those who look to the Valkey of the moment."""
        self._replica_port = free_ports(1)[0] if replica else 0
        self.faults = Faults(options.data / "chaos")
        self.said: list[str] = []
        """What the orchestrator saw end."""
        self._clocks = clocks
        self._ending, self._watch_ended, self._all_stopped = False, threading.Event(), threading.Event()
        super().__init__(options, say=self.said.append)
        self.redis_proxy.target = self.straight.target = self.redis_port
        self.s3_proxy.target = self.s3_port
        self._primary, self._replica = "valkey", "replica"
        """The names of their parts; they change places."""
        self._proxies = ExitStack()
        self._orchestrator = threading.Thread(target=self._orchestrate, name="orchestrator")

    def direct_environment(self) -> dict[str, str]:
        """The settings for who looks past the proxies."""
        return super().environment() | {"OUTFILL_REDIS__URL": f"redis://127.0.0.1:{self.straight.port}/0"}

    def environment(self) -> dict[str, str]:
        """The settings of every part: all of them go through the proxies."""
        return super().environment() | {
            "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{self.redis_proxy.port}/0",
            "OUTFILL_S3__ENDPOINT_URL": f"http://127.0.0.1:{self.s3_proxy.port}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            DIRECTORY: str(self.faults.directory),
            "OUTFILL_WORKER__SUBJECT_LOOKS": "1",  # a storm is of many jobs
            **({"OUTFILL_REDIS__REPLICAS": "1"} if self._replica_port else {}),
        }

    def _make_parts(self) -> Iterator[Part]:
        for part in super()._make_parts():
            role = "paint" if part.name.startswith("worker-") else part.name
            if part.name == "valkey":  # a write beyond its file size limit is then an error, as on a full disk, and no signal
                valkey = replace(part, command=["env", "--ignore-signal=XFSZ", *part.command])
                yield valkey
                if self._replica_port:
                    (self._data / "replica").mkdir(exist_ok=True)
                    command = [*valkey.command, "--port", str(self._replica_port), "--dir", str(self._data / "replica")]
                    follows = ["--replicaof", "127.0.0.1", str(self.redis_port)]
                    yield replace(valkey, name="replica", command=[*command, *follows], log=self._log("replica"))
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
            proxies.enter_context(self.straight)
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
        valkey = self.parts[self._primary]
        before = valkey.restarts
        self.kill(self._primary)
        wait_until(lambda: valkey.restarts > before and self._answers(self._primary), 120)

    def freeze_valkey(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        process = self.parts[self._primary].process
        if process is None:
            return
        os.kill(process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def promote(self, *, killed: bool) -> None:
        """Make the replica the primary, and the primary its replica: after its kill -9, or in the middle of its work, with all connections open.

        As Sentinel does: callers that come anew are led to the new one, and nobody waits for what the old one had not passed on.
        """
        old, new = self._primary, self._replica
        if not wait_until(lambda: self._info(new).get("master_link_status") == "up", 120):
            raise AssertionError("the replica does not follow")
        restarts = self.parts[old].restarts
        self.parts[old].command = [*_without_role(self.parts[old].command), "--replicaof", "127.0.0.1", str(self._valkey_port(new))]
        self.parts[new].command = _without_role(self.parts[new].command)
        if killed:
            self.kill(old)
        self._order(new, "REPLICAOF", "NO", "ONE")
        self.redis_proxy.target = self.straight.target = self._valkey_port(new)
        self._primary, self._replica = new, old
        if killed:
            wait_until(lambda: self.parts[old].restarts > restarts and self._answers(old), 120)
        else:
            self._order(old, "REPLICAOF", "127.0.0.1", str(self._valkey_port(new)))
        self.straight.hang_up()
        if not wait_until(lambda: self._info(old).get("master_link_status") == "up", 120):
            raise AssertionError("the old primary does not follow")

    def _valkey_port(self, name: str) -> int:
        return self.redis_port if name == "valkey" else self._replica_port

    def _order(self, name: str, *command: str) -> object:
        with redis.Redis(port=self._valkey_port(name)) as connection:
            return connection.execute_command(*command)

    def _answers(self, name: str) -> bool:
        with suppress(redis.RedisError):
            return bool(self._order(name, "PING"))
        return False

    def _info(self, name: str) -> dict[str, object]:
        with suppress(redis.RedisError), redis.Redis(port=self._valkey_port(name)) as connection:
            return dict(connection.info("replication"))
        return {}

    def s3_fails(self, mode: Mode, seconds: float) -> None:
        """S3 is away, or answers 500, for a while."""
        self.s3_proxy.become(mode)
        try:
            time.sleep(seconds)
        finally:
            self.s3_proxy.become(Mode.PASS)

    def fill_disk(self, seconds: float) -> None:
        """Valkey's AOF cannot grow for a while. It refuses writes then (MISCONF)."""
        process, logs = self.parts[self._primary].process, (self._data / self._primary).rglob("*.aof")
        log = max(logs, key=lambda path: path.stat().st_size)
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
        """Valkey itself, whichever is the primary, past what drops replies."""
        return redis.Redis(port=self.straight.port, socket_timeout=30, retry=Retry(ExponentialBackoff(1, 0.1), 20))


def _without_role(command: Sequence[str]) -> list[str]:
    """A server's command, without the primary that it follows."""
    words = list(command)
    if "--replicaof" in words:
        place = words.index("--replicaof")
        del words[place : place + 3]
    return words


def wait_until(look: Callable[[], object], timeout_s: float, every_s: float = 0.1) -> bool:
    """Whether ``look`` came true within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True
