"""The load tests refuse what they must not be pointed at. Locust patches gevent in, so it runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def locust(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "-u", "1", "-t", "1s", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTFILL_") and name not in ("URL", "KEY")}
    return subprocess.run(command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "host", ["http://203.0.113.7:8000", "https://outfill.example", "http://127.0.0.1.example:8000", "http://0.0.0.0:8000"]
)
def test_another_machine_is_refused(host: str) -> None:
    """Locust ends before its first request when the host is not loopback."""
    done = locust("--host", host, KEY="of_key")
    assert done.returncode != 0
    assert f"loopback only (127.0.0.1, ::1 or localhost), not {host}" in done.stderr


def test_a_run_needs_a_key() -> None:
    """Locust ends with the name of the variable when there is no key."""
    done = locust("--host", "http://127.0.0.1:1")
    assert done.returncode != 0
    assert "KEY" in done.stderr
