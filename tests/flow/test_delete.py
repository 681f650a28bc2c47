"""A job that its owner deletes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from conftest import ENDED, Api, Receiver, box_mask, eventually
from ulid import ULID

from core.storage import Storage

REPLACE: dict[str, Any] = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}
LONG: dict[str, Any] = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": 150, "num_images": 8}


def everything(connection: Any) -> Iterator[str]:
    """Every key of Redis with what it holds."""
    for key in connection.scan_iter(count=1000):
        kind = connection.type(key)
        if kind in (b"zset", b"list"):
            held = connection.zrange(key, 0, -1) if kind == b"zset" else connection.lrange(key, 0, -1)
        else:
            held = {b"hash": connection.hgetall, b"set": connection.smembers, b"stream": connection.xrange}.get(kind, connection.get)(key)
        yield f"{key} {held}"


def traces_of(job_id: str, connection: Any, storage: Storage) -> list[str]:
    """All of Redis and S3 that mentions a job."""
    found = [text for text in everything(connection) if job_id in text]
    return found + [key for prefix in ("inputs/", "outputs/") for key in storage.keys(prefix) if job_id in key]


def test_a_deleted_job_leaves_nothing(api: Api, coffee: bytes, receiver: Receiver, live_redis: redis.Redis, storage: Storage) -> None:
    """204, then 404; its record, files, events, idempotency key and a webhook that is still owed are gone from Redis and S3."""
    receiver.answer = lambda _: 500
    receiver.headers = {"Retry-After": "3600"}
    key = str(ULID())
    request = {**REPLACE, "webhook": {"url": receiver.url, "events": ["job.started", "job.succeeded"]}}
    job = api.post(request, key=key, wait_s=60, photo=coffee).json()
    assert job["status"] == "succeeded"
    eventually(lambda: len(receiver.events(job["id"])) == 2)
    url = job["urls"]["self"]
    assert len(traces_of(job["id"], live_redis, storage)) > 5
    assert api.http.delete(url).status_code == 204
    eventually(lambda: not traces_of(job["id"], live_redis, storage))
    for answer in (api.http.delete(url), api.http.get(url)):
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
    assert api.post(request, key=key, photo=coffee).json()["id"] != job["id"]


def test_a_deletion_that_broke_off_is_done_again(api: Api, coffee: bytes, live_redis: redis.Redis, storage: Storage) -> None:
    """An API that died halfway has deleted the files and left the record that leads to them: DELETE answers 204, and nothing is left."""
    job = api.run(REPLACE, photo=coffee)
    (tenant,) = {key.split("/")[1] for key in storage.keys("outputs/") if job["id"] in key}
    storage.delete_job(tenant, job["id"])
    assert api.read(job["id"])["status"] == "succeeded"
    assert api.http.delete(job["urls"]["self"]).status_code == 204
    eventually(lambda: not traces_of(job["id"], live_redis, storage))


def test_a_job_that_has_not_ended_is_not_deleted(api: Api, coffee: bytes) -> None:
    """409 that says to cancel first; once it is canceled the job can be deleted."""
    mask, _ = box_mask(coffee)
    job = api.accept(LONG, photo=coffee, mask=mask)
    url, cancel = job["urls"]["self"], job["urls"]["cancel"]
    answer = api.http.delete(url)
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_finished")
    assert cancel in answer.json()["detail"]
    api.http.post(cancel).raise_for_status()
    eventually(lambda: api.read(job["id"])["status"] in ENDED)
    assert api.http.delete(url).status_code == 204


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_only_its_owner_deletes_a_job(api: Api, neighbour: Api, coffee: bytes, end: str) -> None:
    """Another tenant's job is 404 and stays; its owner deletes it however it ended."""
    mask, _ = box_mask(coffee)
    job = api.run(REPLACE, photo=coffee) if end == "succeeded" else api.run({**LONG, "deadline_s": 1}, photo=coffee, mask=mask)
    assert neighbour.http.delete(job["urls"]["self"]).json()["code"] == "job_not_found"
    assert api.read(job["id"])["id"] == job["id"]
    assert api.http.delete(job["urls"]["self"]).status_code == 204
