"""What a caller waits for a 202: ``make bench-accept``. One table from one run, and build/bench/accept.json.

Fifty callers post the same photo at once, again and again: to ``POST /v1/jobs``, and to a bare route that stores the bytes in S3 and enqueues
with plain RQ (scripts/bare_route.py), one process each, on the Valkey and the S3 of one stack, in turns. Nobody works the jobs off.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from api_schemas.models import BACKDROP
from scripts.figures import exit_status, figure, write_figures
from service.local import LocalStack, StackOptions, free_ports

CALLERS, EACH, ROUNDS = 50, 4, 6
LIMITS = {"accept_p99_over_bare_p99": 2.0}
REQUEST = {"operation": "outpaint", "image": "file:photo", "expand": {"left": 16}}
"""For a model that no worker of this stack serves: what is measured is the acceptance, not the work beside it."""


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    photo = (files("skimage.data") / "coffee.png").read_bytes()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalStack(StackOptions(Path(folder), environment={"OUTFILL_WORKER__SERVE": BACKDROP.id}), say=lambda _: None) as stack,
        bare_service(stack) as bare,
    ):
        ours = f"{stack.url}/v1/jobs"
        headers = {"Authorization": f"Bearer {stack.api_key}"}
        taken: dict[str, list[float]] = {ours: [], bare: []}
        for url in (bare, ours):  # warm
            asyncio.run(_post_all(url, headers, photo, each=1))
        for number in range(ROUNDS):
            for url in (ours, bare) if number % 2 else (bare, ours):
                taken[url] += asyncio.run(_post_all(url, headers, photo, each=EACH))
    return _report(taken[ours], taken[bare])


@contextmanager
def bare_service(stack: LocalStack) -> Iterator[str]:
    """The bare route beside the stack; where to post to."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "scripts.bare_route:create_app", "--factory", "--port", str(port), "--no-access-log"]
    environment = {**os.environ, **stack.environment()}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as server:  # noqa: S603 - our own command
        try:
            while not _answers(f"http://127.0.0.1:{port}/docs"):
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/jobs"
        finally:
            server.terminate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own loopback URL
            return bool(answer.status == httpx.codes.OK)
    except (urllib.error.URLError, OSError):
        return False


async def _post_all(url: str, headers: dict[str, str], photo: bytes, *, each: int) -> list[float]:
    """Seconds of each request, of all callers."""
    limits = httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
    async with httpx.AsyncClient(headers=headers, timeout=120, limits=limits) as client:

        async def caller() -> list[float]:
            found = []
            for _ in range(each):
                began = time.perf_counter()
                answer = await client.post(url, data={"request": json.dumps(REQUEST)}, files={"photo": photo})
                found.append(time.perf_counter() - began)
                if answer.status_code != httpx.codes.ACCEPTED:
                    raise RuntimeError(answer.text)
            return found

        return [seconds for found in await asyncio.gather(*(caller() for _ in range(CALLERS))) for seconds in found]


def _report(ours: list[float], bare: list[float]) -> int:
    def p99(seconds: list[float]) -> float:
        return statistics.quantiles(seconds, n=100)[98]

    result = {"accept_p99_over_bare_p99": figure(p99(ours) / p99(bare), LIMITS["accept_p99_over_bare_p99"])}
    table = Table("", "p50", "p90", "p99", "a second, each")
    for name, seconds in (("POST /v1/jobs", ours), ("bare route", bare)):
        cuts = statistics.quantiles(seconds, n=100)
        rate = CALLERS / statistics.mean(seconds)
        table.add_row(name, f"{cuts[49]:.3f} s", f"{cuts[89]:.3f} s", f"{cuts[98]:.3f} s", f"{rate:.1f}")
    console = Console(width=120)
    console.print(table)
    entry = result["accept_p99_over_bare_p99"]
    console.print(
        f"p99 over p99: {entry['value']:.2f} (limit {entry['limit']}): {'holds' if entry['holds'] else 'DOES NOT HOLD'}", highlight=False
    )
    write_figures("accept", result)
    return exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
