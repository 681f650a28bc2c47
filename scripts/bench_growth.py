"""What one tenant can leave in Redis: ``make bench-growth``. One table from one run, and build/bench/growth.json.

One tenant sends 100,000 requests to a local stack as fast as it is answered, each as large as is accepted and all POSTs of jobs under idempotency keys:
bodies that are refused; jobs that are canceled at once, some with a webhook that nobody answers; pings to sixteen endpoints that do not answer either; presigned
uploads. What Redis holds more than before is measured while it goes on and at its end. Buffers of clients and of the log are not counted.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import redis
from rich.console import Console
from rich.table import Table

from api_schemas.models import BACKDROP
from core.settings import Settings
from scripts.figures import at_least, exit_status, figure, figure_table, write_figures
from service.bodies import EXAMPLES
from service.keys import KeyRing, NewKey
from service.local import LocalStack, StackOptions

REQUESTS, CALLERS, ENDPOINTS = 100_000, 48, 16
TENANT = "growth"
LIMITS = {"redis_mb_at_most": 20.0, "redis_mb_at_the_end": 20.0}
NOWHERE = "http://198.51.99.9:8080/"
"""A public address that nobody answers at."""
JOB: dict[str, Any] = {
    **EXAMPLES["erase"]["value"],
    "operation": "inpaint",
    "prompt": "\U0001f5bc" * 4000,
    "negative_prompt": "\U0001f5bc" * 4000,
    "metadata": {"order": "x" * 2000},
}
"""For a model that no worker of this stack serves, so that it waits until it is canceled."""
TOLD: dict[str, Any] = {**JOB, "webhook": {"url": NOWHERE + "x" * 2000, "events": ["job.canceled"]}}


@dataclass
class Caller:
    """The tenant, and what it was answered."""

    http: httpx.AsyncClient
    endpoints: list[str] = field(default_factory=list)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)

    async def ask(self, name: str, method: str, path: str, **more: Any) -> httpx.Response:
        """One request, counted."""
        try:
            answer = await self.http.request(method, path, **more)
        except httpx.TransportError:  # the server closes connections that were idle for some seconds, as on a busy machine
            return await self.ask(name, method, path, **more)
        if answer.is_server_error and answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            raise RuntimeError(answer.text)
        self.answers[name, answer.status_code] += 1
        return answer

    def asked(self) -> int:
        """Requests so far."""
        return sum(self.answers.values())

    async def turn(self, number: int) -> None:
        """What it does for the ``number``th time."""
        match number % 10:
            case 1 | 2:
                await self.ask("refused", "POST", "/v1/jobs", json={**JOB, "expand": {"left": -1}}, headers=_key(number))
            case 3:
                await self.ask("refused after its image", "POST", "/v1/jobs", json={**JOB, "image": _NO_PICTURE}, headers=_key(number))
            case 4 | 5:
                await self.ask("pinged", "POST", f"/v1/webhooks/{self.endpoints[number % ENDPOINTS]}/ping")
            case 6 | 7:
                await self.ask("presigned", "POST", "/v1/uploads/presigned", json={"bytes": 1 + number})
            case _:
                made = await self.ask("created", "POST", "/v1/jobs", json=JOB if number % 1000 else TOLD, headers=_key(number))
                if made.status_code == httpx.codes.ACCEPTED:
                    await self.ask("canceled", "POST", made.json()["urls"]["cancel"])


_NO_PICTURE = "data:image/png;base64," + base64.b64encode(b"no picture" * 100).decode()


def _key(number: int) -> dict[str, str]:
    return {"Idempotency-Key": f"{number:255}".replace(" ", "k")}


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    environment = {"OUTFILL_WORKER__SERVE": BACKDROP.id}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalStack(StackOptions(Path(folder), environment=environment), say=lambda _: None) as stack,
        redis.Redis(port=stack.redis_port) as connection,
    ):
        key, _ = KeyRing(connection, Settings()).create(NewKey(TENANT, "bench", requests_per_minute=0))
        return asyncio.run(_run(stack.url, key, connection))


async def _run(url: str, key: str, connection: redis.Redis) -> int:
    limits = httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120, limits=limits) as http:
        caller = Caller(http)
        for number in range(ENDPOINTS):
            body = {"url": f"{NOWHERE}{number}/{'x' * 2000}", "events": ["job.expired"]}
            caller.endpoints.append((await http.post("/v1/webhooks", json=body)).raise_for_status().json()["id"])
        for number in range(20):  # what the first requests of each kind bring is not theirs: scripts, metrics
            await caller.turn(number)
        caller.answers.clear()
        before, keys = _held(connection), connection.dbsize()
        began = time.monotonic()
        most, end = await _watch(connection, asyncio.create_task(_all(caller)))
        seconds = time.monotonic() - began
    megabytes = {"redis_mb_at_most": most, "redis_mb_at_the_end": end}
    result = {"requests": at_least(caller.asked(), REQUESTS)}
    result |= {name: figure((held - before) / 1e6, LIMITS[name]) for name, held in megabytes.items()}
    _print(caller, result, f"{caller.asked()} requests in {seconds:.0f} s; {connection.dbsize() - keys} keys more")
    write_figures("growth", result)
    return exit_status(result)


async def _all(caller: Caller) -> None:
    numbers = itertools.count(20)

    async def take_turns() -> None:
        while caller.asked() < REQUESTS:
            await caller.turn(next(numbers))

    await asyncio.gather(*(take_turns() for _ in range(CALLERS)))


async def _watch(connection: redis.Redis, work: asyncio.Task[None]) -> tuple[int, int]:
    """The most that is held until the work is done, and what is held then."""
    most = 0
    while not work.done():
        most = max(most, _held(connection))
        await asyncio.wait([work], timeout=0.5)
    await work
    end = _held(connection)
    return max(most, end), end


def _held(connection: redis.Redis) -> int:
    """Bytes that Redis takes, without what it holds for its clients and for its log."""
    found = cast("dict[str, int]", connection.info("memory"))
    return found["used_memory"] - found["mem_clients_normal"] - found["mem_aof_buffer"]


def _print(caller: Caller, result: dict[str, Any], summary: str) -> None:
    answers = Table("requests", "answered", "times")
    for (name, status), times in sorted(caller.answers.items()):
        answers.add_row(name, str(status), str(times))
    console = Console(width=120)
    console.print(answers)
    console.print(summary, highlight=False)
    console.print(figure_table(result))


if __name__ == "__main__":
    sys.exit(main())
