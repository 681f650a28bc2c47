"""Real parts for all tests: one local stack (Valkey, S3, API, worker, steward) for the session, and what callers send to it."""

from __future__ import annotations

import io
import json
import os
import re
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything reads it: several test processes and their services share the cores
if "PYTEST_XDIST_WORKER" in os.environ:
    # Linux shares the processors among sessions first (sched_autogroup). In one for all, a service's work of low priority would wait for the other process's
    # tests, and its own test would poll meanwhile.
    os.setsid()

import httpx
import hypothesis
import numpy as np
import pytest
import redis
from onnx_graphs import segmenter
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from core.jobs import JobRecords
from core.queue import JobQueue, connect
from core.settings import Redis, Settings
from core.storage import Storage
from scripts.tiny_pipeline import build
from service.keys import new_key, new_webhook_secret, settings_entry
from service.local import LocalStack, StackOptions

hypothesis.settings.register_profile("long")
"""``make fuzz`` runs tests/flow/test_properties.py with it."""
ENDED = ("succeeded", "failed", "canceled", "expired")
CORE_TEST_DB = 1
"""Tests that talk to Redis themselves use a database of their own, away from the running stack's."""

TRACES = ("outfill:job:*", "outfill:jobs:*", "outfill:reservation:*", "outfill:accepting", "rq:job:*")
_JOB = re.compile(r"job_\w{26}")
NEIGHBOUR_KEY = new_key()
_TLS = ssl.create_default_context()
"""One for all clients: each would read the certificates of all authorities anew."""


def png(pixels: np.ndarray[Any, Any] | Image.Image) -> bytes:
    """An array or a picture as a PNG file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray[Any, Any]:
    """The pixels of a file, in its own mode."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT"


def box_mask(photo: bytes) -> tuple[bytes, np.ndarray[Any, Any]]:
    """A mask with a box a little off the middle, and where it is white."""
    height, width = pixels_of(photo).shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 : height // 2, width // 4 : width // 2] = 255
    return png(mask), mask > 0


def eventually(look: Callable[[], Any], *, timeout_s: float = 60.0, every_s: float = 0.05) -> Any:
    """What ``look`` finds, once it is truthy. Fails the test after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"nothing within {timeout_s} s")
        time.sleep(every_s)
    return found


class Traces:
    """Everything in Redis and S3 that belongs to jobs or uploads, looked at again and again."""

    def __init__(self, connection: Any, storage: Storage) -> None:
        """Look for the first time."""
        self._connection, self._storage = connection, storage
        self._seen = self._look()

    def new(self) -> set[str]:
        """Since the last look, but of jobs that were there: these go on, and end when they will."""
        before, self._seen = self._seen, self._look()
        jobs = set(_JOB.findall(" ".join(before)))
        return {trace for trace in self._seen - before if jobs.isdisjoint(_JOB.findall(trace))}

    def _look(self) -> set[str]:
        jobs = {key.decode() for pattern in TRACES for key in self._connection.keys(pattern)}
        jobs |= {member.decode() for member in self._connection.zrange("outfill:jobs:local", 0, -1)}
        return jobs | set(self._storage.keys("inputs/")) | set(self._storage.keys("uploads/"))


@dataclass
class Api:
    """A caller with a key."""

    http: httpx.Client

    def post(
        self, request: dict[str, Any], *, wait_s: int = 0, key: str | None = None, query: dict[str, Any] | None = None, **parts: bytes
    ) -> httpx.Response:
        """POST a job, under an idempotency key if there is one; ``parts`` are its files by name."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        headers |= {"Idempotency-Key": key} if key is not None else {}
        if parts:
            return self.http.post("/v1/jobs", data={"request": json.dumps(request)}, files=parts, headers=headers, params=query)
        return self.http.post("/v1/jobs", json=request, headers=headers, params=query)

    def accept(self, request: dict[str, Any], **parts: bytes) -> dict[str, Any]:
        """POST a job that must be accepted."""
        answer = self.post(request, **parts)  # type: ignore[arg-type]  # no part is named wait_s
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def read(self, job_id: str) -> dict[str, Any]:
        """GET a job."""
        job: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        return job

    def run(self, request: dict[str, Any], *, timeout_s: float = 120.0, **parts: bytes) -> dict[str, Any]:
        """POST a job and follow it to its end."""
        job_id = self.accept(request, **parts)["id"]
        ended: dict[str, Any] = eventually(lambda: (job := self.read(job_id))["status"] in ENDED and job, timeout_s=timeout_s)
        return ended

    def output(self, job: dict[str, Any], number: int = 0) -> bytes:
        """The bytes of one output of a job that succeeded."""
        assert job["status"] == "succeeded", job
        return httpx.get(job["outputs"][number]["url"]).raise_for_status().content


@dataclass
class Receiver:
    """A webhook receiver on loopback. ``answer`` decides the status of each delivery."""

    url: str
    deliveries: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[int], int] = lambda _: 204
    headers: dict[str, str] = field(default_factory=dict)

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """The payloads that arrived for a job, with their webhook id."""
        found = [(headers, json.loads(body)) for headers, body in list(self.deliveries)]
        return [{**body, "webhook_id": headers["webhook-id"]} for headers, body in found if body["data"]["id"] == job_id]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on several threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small, structurally true inpainting pipeline with random weights."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    build(directory)
    return directory


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the embedded weights, a segmenter that finds what is lit, and one that must not be served; not what this machine has pulled."""
    store, weights = tmp_path_factory.mktemp("store"), Settings().models.store / "u2netp.onnx"
    (store / weights.name).symlink_to(weights)
    segmenter(store / "lit", licence={"id": "CC0-1.0", "commercial_use": True})
    segmenter(store / "forbidden", licence={"id": "CC-BY-NC-4.0", "commercial_use": False})
    return store


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, model_store: Path) -> Iterator[LocalStack]:
    """The whole service, running."""
    environment = {
        "OUTFILL_OUTBOUND__ALLOW_PRIVATE": "127.0.0.1/32",
        "OUTFILL_MODELS__STORE": str(model_store),
        "OUTFILL_MODELS__DIRECTORIES": json.dumps({"tiny": str(tiny_model)}),
        "OUTFILL_WORKER__SUBJECT_LOOKS": "2",  # how products are found has tests of its own, and most jobs here are of other things
        "OUTFILL_WEBHOOKS__RETRY_DELAYS_S": "[0.2, 0.2, 0.2]",
        "OUTFILL_STEWARD__PERIOD_S": "1",
        "OUTFILL_EVENTS__HEARTBEAT_S": "0.5",
        "OUTFILL_EVENTS__STREAMS_PER_TENANT": "60",
        "OUTFILL_LIMITS__MAX_BODY_BYTES": str(24 * 2**20),
        "OUTFILL_LIMITS__MAX_IMAGE_BYTES": str(8 * 2**20),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTFILL_AUTH__KEYS", json.dumps([settings_entry("neighbour", NEIGHBOUR_KEY, new_webhook_secret())]))
        parts = LocalStack(StackOptions(tmp_path_factory.mktemp("stack"), environment=environment))
    with parts as running:
        yield running


@pytest.fixture
def api(stack: LocalStack) -> Iterator[Api]:
    """A caller of the running service. What waits when its test is over is canceled: the next finds an idle worker."""
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=70, verify=_TLS) as http:
        yield Api(http)
        while waiting := http.get("/v1/jobs", params={"status": "queued", "limit": 100}).json()["items"]:
            for job in waiting:
                http.post(f"/v1/jobs/{job['id']}/cancel")


@pytest.fixture
def neighbour(stack: LocalStack) -> Iterator[Api]:
    """A caller of another tenant."""
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {NEIGHBOUR_KEY}"}, timeout=70, verify=_TLS) as http:
        yield Api(http)


@pytest.fixture
def settings(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the running service."""
    return _settings_of(stack, monkeypatch)


@pytest.fixture(scope="session")
def bucket(stack: LocalStack) -> Storage:
    """Made once: a client reads all of S3's operations."""
    with pytest.MonkeyPatch.context() as patch:
        return Storage(_settings_of(stack, patch).s3)


@pytest.fixture
def storage(settings: Settings, bucket: Storage) -> Storage:
    """The bucket of the running service."""
    return bucket


def _settings_of(stack: LocalStack, patch: pytest.MonkeyPatch) -> Settings:
    for name, value in stack.environment().items():
        patch.setenv(name, value)
    return Settings()


@pytest.fixture
def live_redis(stack: LocalStack) -> Iterator[redis.Redis]:
    """The Redis of the running service; look, do not touch."""
    with redis.Redis(port=stack.redis_port) as connection:
        yield connection


@pytest.fixture
def own_redis(stack: LocalStack) -> Iterator[redis.Redis]:
    """An empty database of the same real Valkey."""
    connection = connect(Redis.model_validate({"url": f"redis://127.0.0.1:{stack.redis_port}/{CORE_TEST_DB}"}))
    connection.flushdb()
    yield connection
    connection.close()


@pytest.fixture
def records(own_redis: redis.Redis) -> JobRecords:
    """Job records in that database."""
    return JobRecords(own_redis, retention_s=60)


@pytest.fixture
def queue(own_redis: redis.Redis) -> JobQueue:
    """The queues in that database."""
    return JobQueue(own_redis)


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """A directory of a file system that may not execute, as Docker mounts a tmpfs. Only root can mount one."""
    directory = tmp_path / "noexec"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", directory], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook receiver that is listening."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            inbox.deliveries.append(({key.lower(): value for key, value in self.headers.items()}, body))
            self.send_response(inbox.answer(len(inbox.deliveries)))
            for name, value in inbox.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        inbox = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield inbox
        server.shutdown()
        thread.join()


def sample(name: str) -> bytes:
    """A file of scikit-image's sample photos."""
    return (files("skimage.data") / name).read_bytes()


@pytest.fixture(scope="session")
def coffee() -> bytes:
    """A product photo: RGB, 600×400."""
    return sample("coffee.png")


@pytest.fixture(scope="session")
def rocket_rgba() -> bytes:
    """A photo with a real alpha channel: RGBA, 427×320, faded out at its upper corners."""
    with Image.open(io.BytesIO(sample("rocket.jpg"))) as photo:
        pixels = np.asarray(photo.convert("RGB").crop((100, 100, 527, 420)))
    height, width = pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    alpha = np.clip(255 - 2 * np.maximum(np.hypot(x - width / 2, y - height / 2) - 180, 0), 0, 255).astype(np.uint8)
    return png(np.dstack([pixels, alpha]))


@pytest.fixture(scope="session")
def clock_grey() -> bytes:
    """A photo in grey, 400×300."""
    return sample("clock_motion.png")
