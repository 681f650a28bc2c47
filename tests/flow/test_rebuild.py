"""Disaster: Redis is lost while jobs run, and rebuilt from the bucket. On a stack of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import redis
from conftest import ENDED, Api, Receiver, box_mask, eventually

from core.events import endpoints_key
from core.jobs import BACKUP, UNARCHIVED, JobRecords, job_key
from core.settings import Settings
from core.storage import Storage
from service.keys import KeyRing, NewKey
from service.local import LocalStack, StackOptions, settings_of
from service.rebuild import Findings, Rebuilder

JOBS, ENDED_BEFORE, CANCELED = 30, 8, 3


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LocalStack]:
    environment = {
        "OUTFILL_OUTBOUND__ALLOW_PRIVATE": "127.0.0.1/32",
        "OUTFILL_MODELS__DIRECTORIES": json.dumps({"tiny": str(tiny_model)}),
        "OUTFILL_WORKER__SERVE": "backdrop,tiny",
        "OUTFILL_STEWARD__PERIOD_S": "0.5",
        "OUTFILL_WEBHOOKS__RETRY_DELAYS_S": "[0.2, 0.2, 0.2]",
    }
    with LocalStack(StackOptions(tmp_path_factory.mktemp("frail"), environment=environment)) as stack:
        yield stack


@contextmanager
def called_as(stack: LocalStack, key: str) -> Iterator[Api]:
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=70) as http:
        yield Api(http)


def outfill(stack: LocalStack, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as an operator would beside the stack."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OUTFILL_")}
    command = [sys.executable, "-m", "service.cli", *words, "--data", str(stack.options.data)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**clean, "COLUMNS": "200"})


def settings_for(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in settings_of(stack.options.data).items():
        monkeypatch.setenv(name, value)
    return Settings()


def told(job: dict[str, Any]) -> dict[str, Any]:
    """What stays the same of a job from one reading to the next: all but presigned URLs."""
    shown = {**job, "outputs": [{**output, "url": None, "layers": None} for output in job["outputs"]]}
    return {name: value for name, value in shown.items() if name not in ("progress", "finished_at")}


def test_a_lost_redis_is_rebuilt_from_the_bucket(
    frail: LocalStack, coffee: bytes, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUSHALL while thirty jobs run, then one command: every job that had ended is read as before, with its outputs; keys, limits and endpoints are
    back with their secrets; the doctor leaves no object without a record; and new jobs run.
    """
    settings = settings_for(frail, monkeypatch)
    connection = redis.Redis(port=frail.redis_port)
    storage, records = Storage(settings.s3), JobRecords.of(connection, settings)
    key, _ = KeyRing(connection, settings).create(NewKey("shop", "till"))
    records.set_policy("shop", {"queued_jobs": 60, "webhook_secret": "whsec_" + "A" * 43 + "="})
    mask = box_mask(coffee)[0]
    with called_as(frail, key) as api:
        endpoint = api.http.post("/v1/webhooks", json={"url": receiver.url}).raise_for_status().json()
        upload = api.http.post("/v1/uploads", files={"file": coffee}).raise_for_status().json()
        request = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": 3, "model": "tiny"}
        ids = [api.accept({**request, "seed": number}, photo=coffee, mask=mask)["id"] for number in range(JOBS)]
        for job_id in ids[-CANCELED:]:
            api.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()

        def ended() -> dict[str, dict[str, Any]]:
            return {job_id: job for job_id in ids if (job := api.read(job_id))["status"] in ENDED}

        eventually(lambda: len(ended()) >= ENDED_BEFORE + CANCELED, timeout_s=200)
        eventually(lambda: not connection.exists(UNARCHIVED) and connection.exists(BACKUP))
        endpoints = connection.hgetall(endpoints_key("shop"))
        before = ended()
        with connection.pipeline(transaction=True) as pipe:  # which had ended at the very moment
            for job_id in ids:
                pipe.hget(job_key(job_id), "status")
            pipe.flushall()
            *states, _ = pipe.execute()
        at_the_moment = {job_id for job_id, state in zip(ids, states, strict=True) if state.decode() in ENDED}
        assert set(before) <= at_the_moment
        assert len(at_the_moment) < JOBS
        assert api.http.get("/v1/jobs").status_code == 401

        done = outfill(frail, "rebuild")
        assert done.returncode == 0, done.stdout + done.stderr

        after = {job_id: api.read(job_id) for job_id in at_the_moment}
        assert {job_id: told(after[job_id]) for job_id in before} == {job_id: told(job) for job_id, job in before.items()}
        assert sum(job["status"] == "canceled" for job in after.values()) >= CANCELED
        for job in after.values():
            for output in job["outputs"]:
                assert hashlib.sha256(httpx.get(output["url"]).raise_for_status().content).hexdigest() == output["sha256"]
        assert connection.hgetall(endpoints_key("shop")) == endpoints
        assert [each["id"] for each in api.http.get("/v1/webhooks").json()["items"]] == [endpoint["id"]]
        assert records.policy("shop")["queued_jobs"] == "60"
        assert connection.zscore("outfill:uploads", f"shop/{upload['id']}") is not None

        again = outfill(frail, "rebuild")
        assert "Back: 0 jobs" in again.stdout, again.stdout + again.stderr

        def clean() -> bool:  # workers drop what they still made for jobs that are lost
            outfill(frail, "doctor", "--repair")
            return outfill(frail, "doctor").returncode == 0

        eventually(clean, timeout_s=120, every_s=1)
        named = {name for job in map(records.find, at_the_moment) if job for name in (*job.input_keys(), *job.object_keys(), job.archive)}
        there = {name for prefix in ("inputs/", "outputs/", "records/") for name in storage.keys(prefix)}
        assert there == named

        def serves_tiny() -> bool:  # workers announce their models again
            return "tiny" in {
                item["card"]["id"] for item in api.http.get("/v1/models").raise_for_status().json()["items"] if item["workers"]
            }

        eventually(serves_tiny)
        assert api.run({**request, "seed": 1}, photo=coffee, mask=mask)["status"] == "succeeded"
        job = api.run({**request, "image": upload["source"], "seed": 1}, mask=mask)
        eventually(lambda: receiver.events(job["id"]))
    connection.close()


def test_the_doctor_finds_what_differs_and_deletes_nothing_that_may_come_back(
    frail: LocalStack, coffee: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object without a record and one that is missing are told by name; while records are lost `--repair` refuses."""
    settings = settings_for(frail, monkeypatch)
    storage, connection = Storage(settings.s3), redis.Redis(port=frail.redis_port)
    with called_as(frail, frail.api_key) as api:
        request = {
            "operation": "replace_background",
            "image": "file:photo",
            "product_mask": "file:mask",
            "background": {"color": "#ffffff"},
        }
        job_id = api.run(request, photo=coffee, mask=box_mask(coffee)[0])["id"]
        record = JobRecords.of(connection, settings).find(job_id)
        assert record is not None
        output = record.outputs[0].key
        kept = storage.get(output)
        storage.delete([output])
        storage.put("outputs/local/job_01JD0000000000000000000000/e/0.png", b"x", "image/png")
        found = Rebuilder(settings).examine()
        assert found.missing == [output]
        assert found.orphans == ["outputs/local/job_01JD0000000000000000000000/e/0.png"]
        storage.put(output, kept, "image/png")
        fields = cast("dict[bytes, bytes]", connection.hgetall(job_key(job_id)))
        connection.delete(job_key(job_id))
        refused = outfill(frail, "doctor", "--repair")
        assert refused.returncode == 1
        assert "run `outfill rebuild` first" in refused.stdout
        assert storage.get(output) == kept
        connection.hset(job_key(job_id), mapping=cast("dict[Any, Any]", fields))
        repaired = outfill(frail, "doctor", "--repair")
        assert "Deleted 1 objects" in repaired.stdout, repaired.stdout
        assert Rebuilder(settings).examine().orphans == []
        assert api.http.delete(f"/v1/jobs/{job_id}").status_code == 204
        assert [key for prefix in ("inputs/", "outputs/", "records/") for key in storage.keys(prefix) if job_id in key] == []
    connection.close()


def test_an_older_copy_of_redis_is_brought_up_to_date(frail: LocalStack, coffee: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored with worker and steward stopped, and rebuilt: a job that ended since is read as before, one that waited then runs again under its id, and
    the doctor names the objects of one that was deleted since.
    """
    connection = redis.Redis(port=frail.redis_port)
    valkey, worker, steward = (frail.parts[name] for name in ("valkey", "worker-1", "steward"))
    files, copy = frail.options.data / "valkey", frail.options.data / "copy"
    mask = box_mask(coffee)[0]
    request = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": 2, "model": "tiny", "seed": 1}
    with called_as(frail, frail.api_key) as api:
        deleted = api.run(request, photo=coffee, mask=mask)
        eventually(lambda: not connection.exists(UNARCHIVED))
        worker.stop()
        waits = api.accept(request, photo=coffee, mask=mask)["id"]
        shutil.copytree(files, copy)

        worker.start()
        first = eventually(lambda: (job := api.read(waits))["status"] in ENDED and job, timeout_s=120)
        since = api.run({**request, "seed": 2}, photo=coffee, mask=mask)
        eventually(lambda: not connection.exists(UNARCHIVED))
        assert api.http.delete(f"/v1/jobs/{deleted['id']}").status_code == 204

        for part in (worker, steward, valkey):
            part.stop()
        shutil.rmtree(files)
        shutil.copytree(copy, files)
        valkey.start()
        eventually(lambda: answers(connection))
        done = outfill(frail, "rebuild")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Back: 1 jobs" in done.stdout, done.stdout
        assert told(api.read(since["id"])) == told(since)
        assert api.read(waits)["status"] == "queued"
        rebuilder = Rebuilder(settings_for(frail, monkeypatch))
        missing = rebuilder.examine().missing
        assert missing
        assert all(deleted["id"] in name for name in missing)

        for part in (steward, worker):
            part.start()
        again = eventually(lambda: (job := api.read(waits))["status"] in ENDED and job, timeout_s=120)
        assert again["outputs"][0]["sha256"] == first["outputs"][0]["sha256"]
        assert api.http.delete(f"/v1/jobs/{deleted['id']}").status_code == 204

        def clean() -> bool:
            rebuilder.repair(rebuilder.examine())
            left = rebuilder.examine()
            return left == Findings(jobs=left.jobs)

        eventually(clean, timeout_s=60)
        assert httpx.get(api.read(since["id"])["outputs"][0]["url"]).status_code == 200
    connection.close()


def answers(connection: redis.Redis) -> bool:
    """Whether Redis has read its files."""
    with suppress(redis.RedisError):
        return bool(connection.ping())
    return False
