"""Fuzzed files through a running service, as pictures, masks and backgrounds of jobs and as forms; and their jobs to their ends."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from odd_files import GREY, RAMP, saved

from api_schemas.errors import AttemptsExhausted, EngineFailed, OutfillError
from service.local import LocalStack, StackOptions

from .files import Fuzzed, Role, made

ENVIRONMENT = {
    "OUTFILL_WORKER__SERVE": "exemplar,backdrop",
    "OUTFILL_WORKER__SUBJECT_LOOKS": "1",
    "OUTFILL_STEWARD__PERIOD_S": "1",
}
CALLERS = 4
PATIENCE_S = 180.0
"""For the jobs that are left when all files are sent."""
_PHOTO, _MASK = saved(RAMP), saved((GREY.mean() < GREY).astype("uint8") * 255)
_OPEN = ("queued", "running")
_AT_FAULT = tuple(error.code for error in (OutfillError, EngineFailed, AttemptsExhausted))


@dataclass
class Answers:
    """What the service said."""

    sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    """Status of ended jobs, or the code of their error."""
    server_errors: list[str] = field(default_factory=list)
    jobs_at_fault: list[str] = field(default_factory=list)
    """Jobs that failed for no reason that lies in their files."""
    stuck: list[str] = field(default_factory=list)
    restarts: int = 0
    """Of parts of the service that died."""


def request_of(role: Role, source: str) -> dict[str, Any]:
    """A job whose ``role`` is the file named by ``source``."""
    photo, mask = (f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in (_PHOTO, _MASK))
    white = {"color": "#ffffff"}
    requests: dict[Role, dict[str, Any]] = {
        "image": {"operation": "outpaint", "image": source, "expand": {"left": 8}},
        "mask": {"operation": "erase", "image": photo, "mask": source},
        "product_mask": {"operation": "replace_background", "image": photo, "product_mask": source, "background": white},
        "background": {"operation": "replace_background", "image": photo, "product_mask": mask, "background": {"image": source}},
    }
    return requests[role]


def send(api: httpx.Client, file: Fuzzed, way: str, *, dry: bool) -> httpx.Response:
    """Send a file: in the JSON (``data``), in a form (``form``), or brought before (``upload``, ``presigned``)."""
    query = {"dry_run": "true"} if dry else {}
    if file.role == "form":
        path = "/v1/jobs" if way in ("data", "form") else "/v1/uploads"
        # What no header can hold is for the reader alone.
        kind = file.content_type.encode("ascii", "replace").replace(b"\r", b"").replace(b"\n", b"").strip()[:60_000]
        return api.post(path, content=file.data, headers={"Content-Type": kind.decode()}, params=query if path == "/v1/jobs" else {})
    if way == "form":
        return api.post(
            "/v1/jobs", data={"request": json.dumps(request_of(file.role, "file:file"))}, files={"file": file.data}, params=query
        )
    if way == "upload":
        answer = api.post("/v1/uploads", files={"file": file.data})
        if answer.status_code != httpx.codes.CREATED:
            return answer
        source = answer.json()["source"]
    elif way == "presigned":
        answer = api.post("/v1/uploads/presigned")
        if answer.status_code != httpx.codes.CREATED:
            return answer
        source = answer.json()["source"]
        httpx.put(answer.json()["put_url"], content=file.data, timeout=60).raise_for_status()
    else:
        source = f"data:image/png;base64,{base64.b64encode(file.data).decode()}"
    return api.post("/v1/jobs", json=request_of(file.role, source), params=query)


@contextmanager
def running(folder: Path, *, say: Callable[[str], None] = print, port: int = 0) -> Iterator[LocalStack]:
    """A stack whose parts are started again when they die."""
    stopped = threading.Event()
    with LocalStack(StackOptions(folder, port=port, environment=ENVIRONMENT), say=say) as stack:
        watcher = threading.Thread(target=stack.watch, args=(stopped.is_set,))
        watcher.start()
        try:
            yield stack
        finally:
            stopped.set()
            watcher.join()


def send_all(stack: LocalStack, seed: int, numbers: Sequence[int], *, patience_s: float = PATIENCE_S) -> Answers:
    """Send the files of these numbers, a few at once, and follow the jobs of those that are accepted."""
    answers, lock = Answers(), threading.Lock()
    jobs: set[str] = set()
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=120) as api:

        def one(number: int) -> None:
            rng = random.Random(f"{seed}:{number}:http")
            file, way = made(seed, number), rng.choice(("data", "data", "form", "upload", "presigned"))
            try:
                answer = send(api, file, way, dry=rng.random() < 0.3)
            except httpx.HTTPError as error:
                with lock:
                    answers.sent += 1
                    answers.statuses["none"] += 1
                    answers.server_errors.append(f"{number} {file.kind} as {file.role} by {way}: {error!r}")
                return
            with lock:
                answers.sent += 1
                answers.statuses[str(answer.status_code)] += 1
                if answer.is_server_error:
                    answers.server_errors.append(f"{number} {file.kind} as {file.role} by {way}: {answer.status_code} {answer.text[:300]}")
                elif answer.status_code == httpx.codes.ACCEPTED:
                    jobs.add(answer.json()["id"])

        with ThreadPoolExecutor(CALLERS) as callers:
            list(callers.map(one, numbers))
        _follow(api, jobs, answers, patience_s)
    answers.restarts = sum(part.restarts for part in stack.parts.values())
    return answers


def _follow(api: httpx.Client, jobs: set[str], answers: Answers, patience_s: float) -> None:
    deadline, waiting = time.monotonic() + patience_s, sorted(jobs)  # of the last end: a machine that is slow has no stuck job
    while waiting and time.monotonic() < deadline:
        told = [api.get(f"/v1/jobs/{job}").raise_for_status().json() for job in waiting]
        waiting = [job["id"] for job in told if job["status"] in _OPEN]
        for job in told:
            if job["status"] not in _OPEN:
                deadline = time.monotonic() + patience_s
                end = (job.get("error") or {}).get("code") or job["status"]
                answers.ends[end] += 1
                if end in _AT_FAULT:
                    answers.jobs_at_fault.append(f"{job['id']}: {end}")
        time.sleep(0.2)
    answers.stuck = waiting
