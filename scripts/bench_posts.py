"""What two hundred callers wait for who post at once: ``make bench-posts``. One table from one run, and build/bench/posts.json.

Each of them posts a photo once, all in the same moment, to ``POST /v1/jobs``, as one tenant and as two hundred tenants, and to a bare route that stores the
bytes in S3 and enqueues with plain RQ (scripts/bare_route.py), one process each, in turns. Nobody works the jobs off. Beside the seconds it counts the answers that are no 202.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from api_schemas.models import BACKDROP
from scripts.bench_accept import REQUEST, bare_service
from scripts.figures import exit_status, figure, write_figures
from service.keys import new_key, new_webhook_secret, settings_entry
from service.local import LocalStack, StackOptions

CALLERS, ROUNDS = 200, 3
ONE, MANY, BARE = "POST /v1/jobs, one tenant", "POST /v1/jobs, 200 tenants", "bare route"
LIMITS = {"p99_over_bare_p99": 3.0, "answers_503": 0, "answers_not_202": 0}


class Burst:
    """Posts to one place: the seconds and the statuses of all rounds."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self.url, self.keys = url, keys
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()

    async def post(self, photo: bytes) -> None:
        """Once for each key, at once, each on a connection of its own that is open already, as those of shops are."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            url = httpx.URL(self.url).copy_with(path="/docs")
            await asyncio.gather(*(client.get(url) for _ in self.keys))

            async def one(key: str) -> None:
                began = time.perf_counter()
                headers = {"Authorization": f"Bearer {key}"}
                answer = await client.post(self.url, data={"request": json.dumps(REQUEST)}, files={"photo": photo}, headers=headers)
                self.seconds.append(time.perf_counter() - began)
                self.statuses[answer.status_code] += 1

            await asyncio.gather(*(one(key) for key in self.keys))

    def quantile(self, percent: int) -> float:
        """Seconds."""
        return statistics.quantiles(self.seconds, n=100)[percent - 1]


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    photo = (files("skimage.data") / "coffee.png").read_bytes()
    keys = [new_key() for _ in range(CALLERS)]
    entries = [settings_entry(f"shop-{number}", key, new_webhook_secret()) for number, key in enumerate(keys)]
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(StackOptions(Path(folder), environment={"OUTFILL_WORKER__SERVE": BACKDROP.id}), say=lambda _: None)
        own = json.loads(stack.environment()["OUTFILL_AUTH__KEYS"])
        stack.parts["api"].environment = {**stack.parts["api"].environment, "OUTFILL_AUTH__KEYS": json.dumps([*own, *entries])}
        with stack, bare_service(stack) as bare:
            ours = f"{stack.url}/v1/jobs"
            bursts = {
                ONE: Burst(ours, [stack.api_key] * CALLERS),
                MANY: Burst(ours, keys),
                BARE: Burst(bare, keys),
            }
            for url in (ours, bare):  # warm
                asyncio.run(Burst(url, [stack.api_key] * 10).post(photo))
            for number in range(ROUNDS):
                for name in sorted(bursts, reverse=bool(number % 2)):
                    asyncio.run(bursts[name].post(photo))
    return _report(bursts)


def _report(bursts: dict[str, Burst]) -> int:
    bare, ours = bursts[BARE], (bursts[ONE], bursts[MANY])
    ratio = max(each.quantile(99) for each in ours) / bare.quantile(99)
    result = {
        "p99_over_bare_p99": figure(ratio, LIMITS["p99_over_bare_p99"]),
        "answers_503": figure(sum(each.statuses[503] for each in ours), LIMITS["answers_503"]),
        "answers_not_202": figure(sum(each.statuses.total() - each.statuses[202] for each in ours), LIMITS["answers_not_202"]),
    }
    table = Table("", "p50", "p90", "p99", "answers")
    for name, burst in bursts.items():
        answers = ", ".join(f"{count}×{status}" for status, count in sorted(burst.statuses.items()))
        table.add_row(name, *(f"{burst.quantile(percent):.2f} s" for percent in (50, 90, 99)), answers)
    console = Console(width=120)
    console.print(table)
    for name, entry in result.items():
        holds = "holds" if entry["holds"] else "DOES NOT HOLD"
        console.print(f"{name}: {entry['value']:.2f} (limit {entry['limit']}): {holds}", highlight=False)
    write_figures("posts", result)
    return exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
