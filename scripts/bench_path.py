"""What the path costs around the work: ``make bench-path``. Tables of one run, and build/bench/path.json.

The same jobs are done twice: in this process (decode, find the product, paint, compose, encode, one after the other), and through HTTP,
Redis, S3 and one worker. And a job's acceptance is set against what it cannot do without: the same bytes put into S3 and an id queued.
Then the CPU of a job, part by part, at 768×768 and at 24 megapixels; from accept to webhook it is that of all processes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from api_schemas.models import BACKDROP, EXEMPLAR
from core import queue
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from scripts.figures import exit_status, figure, figure_table, timed, write_figures
from scripts.path_parts import COLOUR, ERASE, INPAINT, Sample, parts_of, parts_once, sample, spec_of
from scripts.processes import cpu_s
from service.local import LocalStack, StackOptions
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import begin
from worker.images.subject import Segmenter
from worker.intake import prepare
from worker.report import Examiner
from worker.rounds import Rounds

JOBS = 30
ACCEPTS = 60
CPU_JOBS = 10
LIMITS = {"jobs_through_http_over_in_process": 1.5, "acceptance_over_put_and_enqueue": 3.0}
CPU_LIMITS = {"replace_background": 0.25, "inpaint": 0.3}
"""Seconds of a job of 768×768 pixels, beside segmenter and model; on two cores of 2026."""
SIZES = ((768, 768), (6000, 4000))


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    photo = (files("skimage.data") / "coffee.png").read_bytes()
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalStack(
            StackOptions(Path(folder), environment={"OUTFILL_WORKER__SERVE": f"{BACKDROP.id},{EXEMPLAR.id}"}), say=lambda _: None
        ) as stack,
    ):
        os.environ.update(stack.environment())
        settings = Settings()
        with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=60) as api:
            _through_http(api, photo, 2)  # warm
            in_process = _in_process(settings, photo, JOBS)
            through_http = _through_http(api, photo, JOBS)
            bare, accepted = _acceptance(settings, api, photo)
            jobs = {size: [sample(request, *size) for request in (COLOUR, INPAINT)] for size in SIZES}
            through, spot = _cpu_through_http(stack, api, sample(ERASE, *SIZES[0]), settings)
    seconds = {(size, job.request["operation"]): (job, parts_of(job, settings)) for size in SIZES for job in jobs[size]}
    figures = {
        "jobs_through_http_over_in_process": through_http / in_process,
        "acceptance_over_put_and_enqueue": accepted / bare,
    }
    ratios = {"jobs_through_http_over_in_process": (through_http, in_process), "acceptance_over_put_and_enqueue": (accepted, bare)}
    return _report(figures, ratios, _cpu_figures(seconds, through, spot))


def _in_process(settings: Settings, photo: bytes, jobs: int) -> float:
    """Seconds for the work alone."""
    segmenter, engine = Segmenter(settings.models.store / "u2netp.onnx"), BackdropEngine()
    spec = spec_of(Sample(COLOUR, BACKDROP, {"image": photo}, megapixels=0.24))

    def one() -> None:
        plan = prepare(spec, BACKDROP, lambda _: photo, segmenter, max_pixels=10**8)
        rounds = Rounds(spec, plan, Examiner(segmenter, settings.quality))
        slots = begin(engine, rounds.requests)
        engine.step(slots)
        rounds.take(engine.finish(slots))

    one()

    def run() -> None:
        for _ in range(jobs):
            one()

    return timed(run)


def _through_http(api: httpx.Client, photo: bytes, jobs: int) -> float:
    """Seconds from the first POST until the last job has ended."""

    def run() -> None:
        ids = [_accept(api, photo) for _ in range(jobs)]
        while ids:
            ids = [job_id for job_id in ids if api.get(f"/v1/jobs/{job_id}").json()["status"] in ("queued", "running")]
            time.sleep(0.05)

    return timed(run)


def _cpu_through_http(stack: LocalStack, api: httpx.Client, job: Sample, settings: Settings) -> tuple[dict[str, float], float]:
    """Seconds of CPU of a job by process, sandboxes and all; and in this process, in turns, since the same work takes twice as long beside neighbours."""
    processes = {name: part.process.pid for name, part in stack.parts.items() if part.process is not None}

    def spent() -> dict[str, float]:
        return {name: cpu_s([pid]) for name, pid in processes.items()}

    def run() -> None:
        answer = api.post("/v1/jobs", data={"request": json.dumps(job.request)}, files=dict(job.blobs), headers={"Prefer": "wait=55"})
        if answer.raise_for_status().json()["status"] != "succeeded":
            raise RuntimeError(answer.text)

    for _ in range(2):  # warm
        run()
        parts_once(job, settings)
    before, in_process = spent(), 0.0
    for _ in range(CPU_JOBS):
        run()
        in_process += sum(parts_once(job, settings).values())
    return {name: (seconds - before[name]) / CPU_JOBS for name, seconds in spent().items()}, in_process / CPU_JOBS


Measured = Mapping[tuple[tuple[int, int], str], tuple[Sample, dict[str, float]]]
"""A job and the seconds of its parts, by size and operation."""


def _cpu_figures(seconds: Measured, through: Mapping[str, float], in_process: float) -> dict[str, Any]:
    """Print what each part takes, and what all processes do beside them: ``through`` HTTP for a job that takes so long ``in_process``."""
    names = list(dict.fromkeys(name for _, parts in seconds.values() for name in parts))
    table = Table("CPU ms a megapixel", *(f"{operation} {width}×{height}" for (width, height), operation in seconds))
    for name in names:
        table.add_row(name, *(f"{1000 * parts.get(name, 0) / job.megapixels:.1f}" for job, parts in seconds.values()))
    own = {key: sum(spent for name, spent in parts.items() if name not in job.others) for key, (job, parts) in seconds.items()}
    small, large = SIZES
    around = sum(through.values()) - in_process
    console = Console(width=140)
    console.print(table)
    console.print(
        f"CPU s of a spot that is erased in 768×768, which takes {in_process:.2f} s in this process: "
        + ", ".join(f"{name} {spent:.2f}" for name, spent in through.items())
    )
    console.print(f"beside the parts above, in all processes: {around:.2f} s")
    figures = {f"{operation}_768_cpu_s": figure(own[small, operation] + around, limit) for operation, limit in CPU_LIMITS.items()}
    for operation in CPU_LIMITS:
        by_size = [own[size, operation] / seconds[size, operation][0].megapixels for size in SIZES]
        figures[f"{operation}_of_24_megapixels_over_768_a_megapixel"] = figure(by_size[1] / by_size[0], 1.0)
        console.print(f"{operation} at 24 megapixels: {own[large, operation]:.2f} s beside segmenter and model")
    return figures


def _acceptance(settings: Settings, api: httpx.Client, photo: bytes) -> tuple[float, float]:
    """Median seconds of a bare put and enqueue, and of POST /v1/jobs, taken in turns."""
    storage, rq_queue = Storage(settings.s3), JobQueue(queue.connect(settings.redis)).rq_queue("bench")
    bare: list[float] = []
    accepted: list[float] = []
    for number in range(ACCEPTS):
        began = time.perf_counter()
        storage.put(f"health/bench{number}", photo, "image/png")
        rq_queue.enqueue("outfill.bench", result_ttl=0)
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        job_id = _accept(api, photo)
        accepted.append(time.perf_counter() - began)
        api.post(f"/v1/jobs/{job_id}/cancel")
    return statistics.median(bare), statistics.median(accepted)


def _accept(api: httpx.Client, photo: bytes) -> str:
    answer = api.post("/v1/jobs", data={"request": json.dumps(COLOUR)}, files={"image": photo}).raise_for_status()
    return str(answer.json()["id"])


def _report(figures: dict[str, float], seconds: dict[str, tuple[float, float]], cpu: dict[str, Any]) -> int:
    table = Table("figure", "seconds", "against", "ratio", "limit", "holds")
    result = {}
    for name, value in figures.items():
        result[name] = figure(value, LIMITS[name])
        table.add_row(
            name,
            f"{seconds[name][0]:.3f}",
            f"{seconds[name][1]:.3f}",
            f"{value:.2f}",
            f"{LIMITS[name]:.1f}",
            "yes" if result[name]["holds"] else "NO",
        )
    console = Console(width=120)
    console.print(table)
    console.print(figure_table(cpu))
    result |= cpu
    write_figures("path", result)
    return exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
