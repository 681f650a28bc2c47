"""How fast Studio answers through the API: ``make bench-studio``. One table from one run, and build/bench/studio.json.

A cup on 256×256 pixels gets a new backdrop in 20 steps: POST, queue, worker, S3 and the poll that sees the end are all in it. The first figure
is the issue's, in seconds; the second sets eight of them at once against eight of the first, so that a faster machine changes nothing.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import httpx
from PIL import Image
from rich.console import Console
from rich.table import Table

from scripts.figures import exit_status, figure, timed, write_figures
from service.local import LocalStack, StackOptions

SIDE, STEPS, ROUNDS, TOGETHER = 256, 20, 7, 8
LIMITS = {"seconds_for_20_steps_at_256": 3.0, "eight_at_once_over_eight_alone": 1.0}
REQUEST = {
    "operation": "replace_background", "image": "file:photo", "model": "studio", "prompt": "white marble table, teal wall", "steps": STEPS,
    "seed": 1,
}  # fmt: skip


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    photo = _photo()
    with tempfile.TemporaryDirectory() as folder, LocalStack(StackOptions(Path(folder)), say=lambda _: None) as stack:
        headers = {"Authorization": f"Bearer {stack.api_key}"}
        with httpx.Client(base_url=stack.url, headers=headers, timeout=60) as api:
            _seconds(api, photo, 1)  # warm
            alone = statistics.median(_seconds(api, photo, 1) for _ in range(ROUNDS))
            together = statistics.median(_seconds(api, photo, TOGETHER) for _ in range(3))
    values = {"seconds_for_20_steps_at_256": alone, "eight_at_once_over_eight_alone": together / (TOGETHER * alone)}
    figures = {name: figure(value, LIMITS[name]) for name, value in values.items()}
    table = Table("figure", "value", "limit", "holds")
    for name, entry in figures.items():
        table.add_row(name, f"{entry['value']:.2f}", f"{entry['limit']:.1f}", "yes" if entry["holds"] else "NO")
    Console(width=120).print(table)
    write_figures("studio", figures)
    return exit_status(figures)


def _photo() -> bytes:
    """The coffee cup on a square of 256 pixels."""
    with Image.open(io.BytesIO((files("skimage.data") / "coffee.png").read_bytes())) as image:
        small = image.convert("RGB").crop((100, 0, 500, 400)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def _seconds(api: httpx.Client, photo: bytes, jobs: int) -> float:
    """From the first POST until the last job has succeeded."""

    def run() -> None:
        waiting = [_accept(api, photo, seed) for seed in range(jobs)]
        while waiting:
            ended = {job_id: api.get(f"/v1/jobs/{job_id}").raise_for_status().json()["status"] for job_id in waiting}
            if lost := [job_id for job_id, status in ended.items() if status in ("failed", "canceled")]:
                raise RuntimeError(f"{lost[0]} {ended[lost[0]]}")
            waiting = [job_id for job_id, status in ended.items() if status != "succeeded"]
            time.sleep(0.02)

    return timed(run)


def _accept(api: httpx.Client, photo: bytes, seed: int) -> str:
    answer = api.post("/v1/jobs", data={"request": json.dumps({**REQUEST, "seed": seed})}, files={"photo": photo}).raise_for_status()
    return str(answer.json()["id"])


if __name__ == "__main__":
    sys.exit(main())
