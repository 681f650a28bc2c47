"""Work survives its workers. On a stack of its own, whose worker is killed and stopped."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from conftest import Api, Receiver, box_mask, eventually, pixels_of, png

from core.settings import Settings
from core.storage import Storage
from service import threads
from service.local import LocalStack, Part, StackOptions

JOBS, KILLS = 30, 2


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LocalStack]:
    """A stack with short leases."""
    environment = {
        "OUTFILL_OUTBOUND__ALLOW_PRIVATE": "127.0.0.1/32",
        "OUTFILL_MODELS__DIRECTORIES": json.dumps({"tiny": str(tiny_model)}),
        "OUTFILL_WORKER__SERVE": "backdrop,tiny",
        "OUTFILL_WORKER__LEASE_S": "4",
        "OUTFILL_STEWARD__PERIOD_S": "0.5",
        "OUTFILL_WEBHOOKS__RETRY_DELAYS_S": "[0.2, 0.2, 0.2]",
    }
    with LocalStack(StackOptions(tmp_path_factory.mktemp("fragile"), environment=environment)) as stack:
        yield stack


@pytest.fixture
def caller(fragile: LocalStack) -> Iterator[Api]:
    with httpx.Client(base_url=fragile.url, headers={"Authorization": f"Bearer {fragile.api_key}"}, timeout=70) as http:
        yield Api(http)


@pytest.fixture
def worker(fragile: LocalStack) -> Part:
    return fragile.parts["worker-1"]


def statuses(api: Api, ids: list[str]) -> list[str]:
    return [api.read(job_id)["status"] for job_id in ids]


def inpaint(steps: int, **more: Any) -> dict[str, Any]:
    return {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": steps, **more}


def test_jobs_outlive_two_killed_workers(
    caller: Api, worker: Part, fragile: LocalStack, receiver: Receiver, coffee: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the worker killed twice while they run, all succeed with one committed result and one webhook id each."""
    photo = png(pixels_of(coffee)[:160, :240])  # the path is tried, not the painting
    mask, _ = box_mask(photo)
    request = inpaint(8, webhook={"url": receiver.url, "events": ["job.succeeded", "job.failed"]})
    ids = [caller.accept(request, photo=photo, mask=mask)["id"] for _ in range(JOBS)]
    for number in range(KILLS):
        done = JOBS * (number + 1) // (KILLS + 2)
        eventually(lambda done=done: statuses(caller, ids).count("succeeded") >= done and "running" in statuses(caller, ids), timeout_s=120)  # type: ignore[misc]
        assert worker.process is not None
        worker.process.kill()
        worker.process.wait()
        worker.start()
    eventually(lambda: set(statuses(caller, ids)) == {"succeeded"}, timeout_s=200, every_s=0.5)
    jobs = [caller.read(job_id) for job_id in ids]
    assert max(job["attempts"] for job in jobs) > 1  # the kills did hit jobs that ran
    assert all(len(job["outputs"]) == 1 for job in jobs)
    told = eventually(lambda: all(receiver.events(job_id) for job_id in ids) and [receiver.events(job_id) for job_id in ids])
    assert all(len({event["webhook_id"] for event in events}) == 1 for events in told)
    assert all(event["type"] == "job.succeeded" for events in told for event in events)
    with redis.Redis(port=fragile.redis_port) as connection:
        eventually(
            lambda: not connection.keys("rq:wip:*") and not connection.keys("rq:queue:*:intermediate") and not connection.keys("rq:job:*")
        )
        eventually(lambda: connection.zcard("outfill:outbox") == 0)
        assert {key.decode(): int(value) for key, value in connection.hgetall("outfill:counts").items() if int(value)} == {
            "succeeded": JOBS
        }
    for name, value in fragile.environment().items():
        monkeypatch.setenv(name, value)
    storage = Storage(Settings().s3)
    for job in jobs:
        key = job["outputs"][0]["url"].partition("?")[0].partition("/outfill/")[2]
        assert key in storage.keys(f"outputs/local/{job['id']}/")


def test_a_store_that_hangs_keeps_nobody_waiting_who_does_not_need_it(caller: Api, fragile: LocalStack, coffee: bytes) -> None:
    """S3 frozen under more uploads than a tenant has threads: jobs are read and listed meanwhile, and all uploads are kept when S3 goes on."""
    job = caller.run({"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}, photo=coffee)
    s3, count = fragile.parts["s3"].process, 2 * threads.STORING
    assert s3 is not None
    mask, _ = box_mask(coffee)

    def upload(_: int) -> int:
        return httpx.post(f"{fragile.url}/v1/uploads", headers=caller.http.headers, files={"file": mask}, timeout=70).status_code

    s3.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(count) as pool:
            uploads = [pool.submit(upload, number) for number in range(count)]
            assert caller.read(job["id"])["status"] == "succeeded"
            assert caller.http.get("/v1/jobs").status_code == 200
            s3.send_signal(signal.SIGCONT)
            answers = Counter(each.result() for each in uploads)
    finally:
        s3.send_signal(signal.SIGCONT)
    assert answers == {201: count}


def test_a_stopped_worker_finishes_what_it_paints_and_gives_back_the_rest(caller: Api, worker: Part, coffee: bytes) -> None:
    """SIGTERM: the job that is being painted succeeds, those that wait cost no attempt, the exit status is 0, and the next worker goes on."""
    mask, _ = box_mask(coffee)
    painting = caller.accept(inpaint(60), photo=coffee, mask=mask)["id"]
    eventually(lambda: (caller.read(painting)["progress"] or {"step": 0})["step"] > 0)
    waiting = [caller.accept(inpaint(150, num_images=8), photo=coffee, mask=mask)["id"] for _ in range(6)]
    assert worker.process is not None
    worker.process.terminate()
    late = caller.accept(inpaint(2), photo=coffee, mask=mask)["id"]
    # A second signal gives back what is being painted too: the long jobs would take minutes.
    eventually(lambda: caller.read(painting)["status"] == "succeeded")
    worker.process.terminate()
    assert worker.process.wait(60) == 0
    left = [caller.read(job_id) for job_id in (*waiting, late)]
    assert {(job["status"], job["attempts"]) for job in left} == {("queued", 0)}
    for job_id in waiting:
        caller.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    worker.start()
    assert eventually(lambda: (job := caller.read(late))["status"] == "succeeded" and job)["attempts"] == 1
