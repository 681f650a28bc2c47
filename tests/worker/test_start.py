"""The start of a real worker process: it is seen before it is warm, and compiling does not end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import redis
from conftest import CORE_TEST_DB, box_mask, eventually
from edge_models import edge_model
from queueing import accept, spec_of

from api_schemas.jobs import InputRef, JobStatus
from api_schemas.models import BACKDROP, U2NETP
from api_schemas.requests import job_request
from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.queue import JobQueue
from core.storage import Storage
from service.local import LocalStack, free_ports

WARMS_LONG = """
import sys, threading
from pathlib import Path
from api_schemas.models import EngineKind
from worker import __main__ as worker
from worker.engines import registry
from worker.engines.backdrop import BackdropEngine

class Compiling(BackdropEngine):
    reentrant = False

    def warm_up(self):
        print("thread", threading.current_thread().name, file=sys.stderr, flush=True)
        while not Path(sys.argv[-1]).exists():
            threading.Event().wait(0.02)
        return super().warm_up()

    def start(self, prepared):
        print("thread", threading.current_thread().name, file=sys.stderr, flush=True)
        return super().start(prepared)

registry.FACTORIES[EngineKind.BACKDROP] = lambda *_: Compiling()
sys.exit(worker.main(["paint"]))
"""
COMPILES_ANYWAY = """
import sys
from dataclasses import replace
from worker import __main__ as worker, tuning
from worker.engines import registry

def as_on_a_gpu(*arguments):
    return {name: replace(chosen, compile=True) for name, chosen in tuning.choose_all(*arguments).items()}

registry.choose_all = as_on_a_gpu
sys.exit(worker.main(["paint"]))
"""
PAINTS = "import sys; from worker import __main__ as worker; sys.exit(worker.main(['paint']))"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def environment(stack: LocalStack, storage: Storage, coffee: bytes) -> dict[str, str]:
    """A worker's settings, for the database of its own that these tests have."""
    storage.put("health/start.png", coffee, "image/png")
    return {
        **os.environ,
        **stack.environment(),
        "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{stack.redis_port}/{CORE_TEST_DB}",
        "OUTFILL_WORKER__SERVE": "backdrop",
        "OUTFILL_METRICS__PORT": str(free_ports(1)[0]),
    }


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a worker process, and ends it with the test."""
    begun: list[subprocess.Popen[str]] = []

    def start(code: str, environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *arguments]
        begun.append(subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def metrics(environment: Mapping[str, str]) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{environment['OUTFILL_METRICS__PORT']}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def a_job(own_redis: redis.Redis) -> str:
    """Queue a job; its id."""
    image = InputRef(key="health/start.png", format="png", width=600, height=400, bytes=1, sha256="0")
    return accept(JobRecords(own_redis, retention_s=60), JobQueue(own_redis), spec_of().model_copy(update={"inputs": {"image": image}})).id


def status(own_redis: redis.Redis, job_id: str) -> JobStatus:
    return JobRecords(own_redis, retention_s=60).get(job_id, "shop").status


def test_a_worker_announces_itself_before_it_is_warm(
    own_redis: redis.Redis, environment: dict[str, str], start: Start, tmp_path: Path
) -> None:
    """While an engine warms up, its worker is listed, healthy and scraped, and claims nothing; warm-up and work share a thread."""
    worker, job_id = start(WARMS_LONG, environment, str(tmp_path / "go")), a_job(own_redis)
    eventually(lambda: Catalogue(own_redis).live_workers())
    assert subprocess.run([sys.executable, "-m", "worker", "check"], env=environment, check=False).returncode == 0
    assert "outfill_worker_ready 0.0" in metrics(environment)
    assert status(own_redis, job_id) is JobStatus.QUEUED
    (tmp_path / "go").touch()
    eventually(lambda: status(own_redis, job_id) is JobStatus.SUCCEEDED)
    assert "outfill_worker_ready 1.0" in metrics(environment)
    worker.terminate()
    _, log = worker.communicate(timeout=60)
    assert worker.returncode == 0, log
    assert [line for line in log.splitlines() if line.startswith("thread")] == ["thread painter"] * 2


def test_a_worker_that_is_stopped_while_it_warms_up_ends_at_once(
    own_redis: redis.Redis, environment: dict[str, str], start: Start, tmp_path: Path
) -> None:
    """SIGTERM in the middle of a compilation: it withdraws what it announced, and exits 0 without waiting for the compiler."""
    worker = start(WARMS_LONG, environment, str(tmp_path / "never"))
    eventually(lambda: Catalogue(own_redis).live_workers())
    worker.send_signal(signal.SIGTERM)
    _, log = worker.communicate(timeout=30)
    assert worker.returncode == 0, log
    assert Catalogue(own_redis).live_workers() == []


@pytest.fixture
def noexec_cache(environment: dict[str, str], tiny_model: Path, noexec: Path) -> dict[str, str]:
    """The settings of a worker with a diffusion model, whose compiler's cache may not execute."""
    return {
        **environment,
        "OUTFILL_MODELS__DIRECTORIES": f'{{"tiny": "{tiny_model}"}}',
        "OUTFILL_WORKER__SERVE": "tiny,backdrop",
        "OUTFILL_WORKER__THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(noexec / "inductor"),
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",  # for one kernel they are not worth their time
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def test_a_worker_whose_compiler_fails_works_uncompiled(own_redis: redis.Redis, noexec_cache: dict[str, str], start: Start) -> None:
    """With a cache on a file system that may not execute, the model runs as it is: a warning, a metric, and jobs are done."""
    worker, job_id = start(COMPILES_ANYWAY, noexec_cache), a_job(own_redis)
    eventually(lambda: worker.poll() is not None or status(own_redis, job_id) is JobStatus.SUCCEEDED, timeout_s=150)
    assert worker.poll() is None, worker.communicate()[1]
    assert 'outfill_compile_info{model="tiny",state="failed"} 1.0' in metrics(noexec_cache)
    assert 'outfill_compile_info{model="tiny",state="eager"} 1.0' in metrics(noexec_cache)
    worker.terminate()
    _, log = worker.communicate(timeout=60)
    assert "compile_failed" in log
    assert "failed to map segment" in log


def test_a_worker_that_must_compile_and_cannot_is_refused(noexec_cache: dict[str, str]) -> None:
    """``OUTFILL_WORKER__COMPILE=on`` in such a place exits 1 with the name of the setting and the reason, and no trace."""
    environment = {**noexec_cache, "OUTFILL_WORKER__COMPILE": "on"}
    command = [sys.executable, "-m", "worker", "paint"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "OUTFILL_WORKER__COMPILE=on" in done.stderr
    assert "failed to map segment" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def drawing(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The settings of a worker that has no painting model, and an edge model."""
    return {
        **environment,
        "OUTFILL_MODELS__DIRECTORIES": f'{{"matting": "{edge_model(tmp_path / "matting", revision="7")}"}}',
        "OUTFILL_MODELS__EDGE_MODEL": "matting",
        "OUTFILL_WORKER__SERVE": "backdrop,u2netp",
        "OUTFILL_WORKER__DEVICE": "cpu",
    }


def test_a_worker_that_needs_torch_for_edges_alone_draws_with_it(
    own_redis: redis.Redis, drawing: dict[str, str], storage: Storage, coffee: bytes, start: Start
) -> None:
    """A worker without a painting model loads the edge model that the settings name; recipes pin it and the segmenter where a product is looked for."""
    storage.put("health/mask.png", box_mask(coffee)[0], "image/png")
    image, mask = (
        InputRef(key=f"health/{name}.png", format="png", width=600, height=400, bytes=1, sha256="0") for name in ("start", "mask")
    )
    records, queue, cut_out = (
        JobRecords(own_redis, retention_s=60),
        JobQueue(own_redis),
        {"operation": "remove_background", "image": "image"},
    )
    behind = {"operation": "replace_background", "image": "image", "background": "white", "subject_model": "u2netp"}
    worker, ids = start(PAINTS, drawing), []
    for request, model, inputs in (
        (behind, "backdrop", {"image": image}),
        (cut_out, "u2netp", {"image": image}),
        ({**cut_out, "product_mask": "product_mask"}, "u2netp", {"image": image, "product_mask": mask}),
    ):
        asked = {"request": job_request.validate_python({**request, "model": model}), "inputs": inputs}
        ids.append(accept(records, queue, spec_of(model=model).model_copy(update=asked)).id)
    eventually(lambda: worker.poll() is not None or all(status(own_redis, job_id).terminal for job_id in ids), timeout_s=150)
    assert worker.poll() is None, worker.communicate()[1]
    assert [status(own_redis, job_id) for job_id in ids] == [JobStatus.SUCCEEDED] * 3
    pinned = [{key: value for key, value in records.get(job_id, "shop").runtime.items() if "model" in key} for job_id in ids]
    drawn = {"edge_model": "matting", "edge_model_revision": "7"}
    assert pinned == [
        {"model_revision": BACKDROP.revision, "subject_model_revision": U2NETP.revision, **drawn},
        {"model_revision": U2NETP.revision, **drawn},
        {"model_revision": U2NETP.revision},
    ]
    worker.terminate()
    worker.communicate(timeout=60)


def test_an_edge_model_that_is_not_installed_stops_the_start(environment: dict[str, str]) -> None:
    """A worker whose settings name an edge model that is not there exits 1 with the name of the setting, and no trace."""
    command = [sys.executable, "-m", "worker", "paint"]
    wanted = {**environment, "OUTFILL_MODELS__EDGE_MODEL": "nowhere"}
    done = subprocess.run(command, env=wanted, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "OUTFILL_MODELS__EDGE_MODEL names an edge model that is not installed, or not served: nowhere" in done.stderr
    assert "Traceback" not in done.stderr
