"""What one tenant can do to another with the worst files: ``make bench-tenants``. One table from one run, and build/bench/tenants.json.

A local stack with one worker. Tenant B posts a small job again and again, alone at first; then tenant A sends the worst file of each kind
(tests/hostile_files.py), as image, mask and background, in JSON, in forms and as uploads, without pause and eight at a time, for a minute, while B
goes on. Compared are the p95 of B's POST and the time until its job has ended; and the memory of the API's and the worker's processes, with
their children, above the idle ones' is held against a bound. A is a process of its own.

    python -m scripts.bench_tenants [--seconds 60] [--port P]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Self
from unittest import mock
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from api_schemas.models import BACKDROP, EXEMPLAR
from core.settings import Settings
from scripts.figures import exit_status, figure, figure_table, write_figures
from scripts.processes import family
from service.keys import new_key, new_webhook_secret, settings_entry
from service.local import LocalStack, StackOptions

AT_ONCE, SECONDS, IDLE_SECONDS, LEAD_S = 8, 60.0, 30.0, 3.0
LIMIT = 3.0
SLACK_MIB = 256.0
MEMORY_MIB = Settings.model_fields["limits"].default.decoding_bytes / 2**20 + SLACK_MIB
"""Of a process and its children above idle: what all decoding of one process may take at once, and what it does beside it."""
SIZE = (1500, 1000)
"""Of B's picture: its job takes about 0.4 s on two idle cores."""
B_REQUEST = {"operation": "replace_background", "image": "file:photo", "product_mask": "file:mask", "background": {"color": "#ffffff"}}
_MIB = 2**20
_LOOK_S = 0.1
_SERVER_ERROR = 500
_OPEN = ("queued", "running")


def main() -> int:
    """Run, print, write; 1 if a limit does not hold. With ``--attack`` be tenant A."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    parser.add_argument("--port", type=int, default=0, help="of the service; 0: any that is free")
    parser.add_argument("--keep", type=Path, help="run the service in a new directory in this one, and leave its logs there")
    parser.add_argument("--only", default="", help="of the hostile files those whose name this expression finds, to see which it is")
    parser.add_argument("--attack", nargs=3, metavar=("URL", "KEY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        return _attack(options.attack[0], options.attack[1], Path(options.attack[2]), options.seconds, options.only)
    hostile_key, honest_key = new_key(), new_key()
    keys = [settings_entry(name, key, new_webhook_secret(), requests_per_minute=0) for name, key in (("a", hostile_key), ("b", honest_key))]
    environment = {"OUTFILL_WORKER__SERVE": f"{BACKDROP.id},{EXEMPLAR.id}", "OUTFILL_WORKER__SUBJECT_LOOKS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(tempfile.mkdtemp(dir=options.keep)) if options.keep else Path(folder) / "stack"  # one of before may hold jobs still
        with mock.patch.dict("os.environ", {"OUTFILL_AUTH__KEYS": json.dumps(keys)}):
            stack = LocalStack(StackOptions(data, port=options.port, environment=environment), say=lambda _: None)
        with stack, _watched(stack):
            honest = _Honest(stack.url, honest_key)
            honest.go_on(5.0)  # warm
            idle = honest.go_on(options.idle_seconds)
            with _Memory(stack) as memory, _attacking(stack.url, hostile_key, Path(folder), options) as told:
                time.sleep(LEAD_S)  # the first files are on their way
                beside = honest.go_on(options.seconds)
            restarts = sum(part.restarts for part in stack.parts.values())
    return _report(idle, beside, memory, told, restarts)


# ---- Tenant B


@dataclass
class Waits:
    """What B waited for."""

    posts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    """From the POST on."""
    refused: list[str] = field(default_factory=list)


class _Honest:
    """Posts one job after the other and follows each to its end."""

    def __init__(self, url: str, key: str) -> None:
        self._api = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120)
        with Image.open(io.BytesIO((files("skimage.data") / "coffee.png").read_bytes())) as photo:
            pixels = np.asarray(photo.convert("RGB").resize(SIZE))
        mask = np.zeros(SIZE[::-1], np.uint8)
        mask[SIZE[1] // 4 : -SIZE[1] // 4, SIZE[0] // 4 : -SIZE[0] // 4] = 255
        self._files = {name: _png(array) for name, array in (("photo", pixels), ("mask", mask))}

    def go_on(self, seconds: float) -> Waits:
        waits, until = Waits(), time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            answer = self._api.post("/v1/jobs", data={"request": json.dumps(B_REQUEST)}, files=self._files)
            waits.posts.append(time.perf_counter() - began)
            if answer.status_code != httpx.codes.ACCEPTED:
                waits.refused.append(f"{answer.status_code} {answer.text[:200]}")
                time.sleep(_LOOK_S)
                continue
            job = answer.json()
            while job["status"] in _OPEN:
                time.sleep(0.02)
                job = self._api.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
            waits.ends.append(time.perf_counter() - began)
            if job["status"] != "succeeded":
                waits.refused.append(f"{job['status']} {job.get('error')}")
        return waits


def _png(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


# ---- Tenant A


@contextmanager
def _attacking(url: str, key: str, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A process that has the files ready, and has begun to send them. At its end it tells how it was answered."""
    command = [sys.executable, "-m", "scripts.bench_tenants", "--seconds", str(options.seconds + LEAD_S), "--only", options.only]
    command += ["--attack", url, key, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        if process.stdin is None or process.stdout is None or process.stdout.readline() != "ready\n":
            raise RuntimeError("the process of the other tenant did not start")
        process.stdin.write("go\n")
        process.stdin.close()
        told: dict[str, Any] = {}
        yield told
        told.update(json.loads(process.stdout.read()))


@dataclass(frozen=True)
class _Shot:
    """A request: its body lies in a file, so that sending it costs this machine little."""

    name: str
    path: str
    content_type: str
    body: Path


def _attack(url: str, key: str, folder: Path, seconds: float, only: str) -> int:
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    shots = [shot for shot in _shots(url, key, folder) if re.search(only, shot.name)]
    random.Random(1).shuffle(shots)  # noqa: S311 - the same order each time
    os.sync()  # 1.6 GB of bodies, which the kernel would write to the service's disk in the middle of the attack; a real A has a disk of its own
    print("ready", flush=True)
    sys.stdin.readline()
    statuses: Counter[str] = Counter()
    errors: list[str] = []
    lock, order, until = threading.Lock(), iter(range(10**9)), time.monotonic() + seconds

    def send() -> None:
        while time.monotonic() < until:
            with lock:
                shot = shots[next(order) % len(shots)]
            status = _sent(url, key, shot)
            with lock:
                statuses[str(status)] += 1
                if isinstance(status, str) or status >= _SERVER_ERROR:
                    errors.append(f"{shot.name}: {status}")

    threads = [threading.Thread(target=send) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"statuses": statuses, "errors": errors}), flush=True)
    return 0


def _shots(url: str, key: str, folder: Path) -> Iterator[_Shot]:
    from hostile_files import hostile_files, hostile_forms  # noqa: PLC0415 - tests are on no path of scripts

    photo = _png(np.zeros((64, 64, 3), np.uint8))
    for number, (name, file) in enumerate(hostile_files().items()):
        as_image: dict[str, Any] = {"operation": "outpaint", "image": "", "expand": {"left": 8}}
        as_mask: dict[str, Any] = {"operation": "erase", "image": _data_url(photo), "mask": ""}
        as_background: dict[str, Any] = {"operation": "replace_background", "image": _data_url(photo), "background": {"image": ""}}
        requests = [(as_image, "image"), (as_mask, "mask"), (as_background, "background")]
        for which, (request, role) in enumerate(requests):
            target = request["background"] if role == "background" else request
            slot = "image" if role == "background" else role
            way = ("json", "form", "upload")[(number + which) % 3]
            query = "?dry_run=true" if (number + which) % 2 else ""
            if way == "form":
                target[slot] = "file:file"
                body = _form({"request": json.dumps(request).encode(), "file": file.data})
                kind = "multipart/form-data; boundary=XBOUNDARYX"
            else:
                target[slot] = _data_url(file.data) if way == "json" else _uploaded(url, key, file.data)
                body, kind = json.dumps(request).encode(), "application/json"
            path = folder / f"{name}-{role}"
            path.write_bytes(body)
            yield _Shot(f"{name} as {role} by {way}", f"/v1/jobs{query}", kind, path)
        path = folder / f"{name}-upload"
        path.write_bytes(_form({"file": file.data}))
        yield _Shot(f"{name} to be kept", "/v1/uploads", "multipart/form-data; boundary=XBOUNDARYX", path)
    for name, (kind, data) in hostile_forms().items():
        path = folder / name
        path.write_bytes(data)
        yield _Shot(name, "/v1/jobs", kind, path)


def _data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _form(parts: Mapping[str, bytes]) -> bytes:
    made = b""
    for name, data in parts.items():
        told = f'Content-Disposition: form-data; name="{name}"' + ("" if name == "request" else '; filename="a.png"')
        made += b"--XBOUNDARYX\r\n" + told.encode() + b"\r\n\r\n" + data + b"\r\n"
    return made + b"--XBOUNDARYX--\r\n"


def _uploaded(url: str, key: str, data: bytes) -> str:
    """What a job names a file by that was brought once, past the API."""
    answer = httpx.post(f"{url}/v1/uploads/presigned", headers={"Authorization": f"Bearer {key}"}, timeout=60)
    upload = answer.raise_for_status().json()
    with contextlib.suppress(httpx.HTTPError):  # where the store refuses it there is nothing to read
        httpx.put(upload["put_url"], content=data, timeout=60)
    return str(upload["source"])


def _sent(url: str, key: str, shot: _Shot) -> int | str:
    """The status of an answer, or what there was instead of one."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=180, blocksize=2**18)
    try:
        with shot.body.open("rb") as body:
            size = str(shot.body.stat().st_size)
            headers = {"Authorization": f"Bearer {key}", "Content-Type": shot.content_type, "Content-Length": size}
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it had arrived
                connection.request("POST", shot.path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
    except (OSError, http.client.HTTPException) as error:
        return "refused early" if isinstance(error, ConnectionResetError) else repr(error)
    finally:
        connection.close()


# ---- The service's processes


@contextmanager
def _watched(stack: LocalStack) -> Iterator[None]:
    """Parts that die are started again, and counted."""
    stopped = threading.Event()
    watcher = threading.Thread(target=stack.watch, args=(stopped.is_set,))
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()


class _Memory:
    """The most that parts of the stack have with their children while this is open, above what they had before, in MiB."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._parts = [name for name in stack.parts if name == "api" or name.startswith("worker-")]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.idle: dict[str, float] = {}
        self.most: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.idle = {name: self._resident(name) for name in self._parts}
        self.most = dict(self.idle)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def more(self) -> dict[str, float]:
        """Of each part."""
        return {name: self.most[name] - self.idle[name] for name in self._parts}

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for name in self._parts:
                self.most[name] = max(self.most[name], self._resident(name))

    def _resident(self, name: str) -> float:
        """Memory that is its own or shared in memory; code and files do not count."""
        process = self._stack.parts[name].process
        return 0.0 if process is None else sum(map(_own_mib, family([process.pid])))


def _own_mib(process: int) -> float:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))) * 1024 / _MIB
    return 0.0


# ---- What came of it


def _p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20)[18] if len(seconds) > 1 else max(seconds, default=float("inf"))


def _report(idle: Waits, beside: Waits, memory: _Memory, told: Mapping[str, Any], restarts: int) -> int:
    console = Console(width=140)
    table = Table("tenant B", "jobs", "POST p50", "POST p95", "end p50", "end p95", "end, worst")
    for name, waits in (("alone", idle), ("beside A", beside)):
        cells = (statistics.median(waits.posts), _p95(waits.posts), statistics.median(waits.ends or [float("inf")]), _p95(waits.ends))
        table.add_row(name, str(len(waits.ends)), *(f"{value:.3f} s" for value in cells), f"{max(waits.ends, default=float('inf')):.3f} s")
    console.print(table)
    for name, mib in memory.more.items():
        console.print(f"{name}: {memory.idle[name]:.0f} MiB idle, at most {mib:.0f} MiB more, children included", highlight=False)
    counts = ", ".join(f"{number} × {status}" for status, number in sorted(told["statuses"].items()))
    console.print(f"tenant A, answers: {counts}", highlight=False)
    for line in sorted({*told["errors"], *beside.refused})[:20]:
        console.print(line, markup=False)
    failed = sum(not error.endswith((": 503", "refused early")) for error in told["errors"])
    figures = {
        "post_p95_over_idle": figure(_p95(beside.posts) / _p95(idle.posts), LIMIT),
        "end_p50_over_idle": figure(statistics.median(beside.ends or [float("inf")]) / statistics.median(idle.ends), LIMIT),
        "end_p95_over_idle": figure(_p95(beside.ends) / _p95(idle.ends), LIMIT),
        **{f"{name}_mib_above_idle": figure(mib, MEMORY_MIB) for name, mib in memory.more.items()},
        "jobs_of_b_refused_or_failed": figure(len(beside.refused), 0),
        "answers_of_500_to_a": figure(failed, 0),
        "parts_that_died": figure(restarts, 0),
    }
    console.print(figure_table(figures))
    write_figures("tenants", figures)
    return exit_status(figures)


if __name__ == "__main__":
    sys.exit(main())
