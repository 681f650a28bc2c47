"""What a tenant may leave behind, through HTTP: uploads and test events."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import redis
from conftest import Api, Receiver, eventually
from ulid import ULID

from core.jobs import JobRecords
from core.settings import Settings
from core.storage import Storage, upload_key
from service.keys import KeyRing, NewKey
from service.local import LocalStack

REPLACE = {"operation": "replace_background", "background": {"color": "#ffffff"}}


@pytest.fixture
def small(settings: Settings, live_redis: redis.Redis, stack: LocalStack) -> Iterator[Api]:
    """A caller whose tenant may have two uploads and two waiting test events."""
    tenant = f"small-{str(ULID())[-8:].lower()}"
    JobRecords(live_redis, retention_s=3600).set_policy(tenant, {"uploads": 2, "pings": 2})
    key, _ = KeyRing(live_redis, settings).create(NewKey(tenant, "test", requests_per_minute=0))
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=70) as http:
        yield Api(http)


def presigned(api: Api, **body: object) -> dict[str, str]:
    upload: dict[str, str] = api.http.post("/v1/uploads/presigned", json=body).raise_for_status().json()
    return upload


def test_the_store_takes_the_size_that_was_told(api: Api, coffee: bytes) -> None:
    """A URL that was asked for with a size takes neither more nor less, nor a body of unknown size; with the right one the upload is an image."""
    upload = presigned(api, bytes=len(coffee))
    bodies = (coffee + b"x", coffee[:-1], iter([coffee, b"x"]))
    assert [httpx.put(upload["put_url"], content=body).status_code for body in bodies] == [403, 403, 403]
    assert api.post({**REPLACE, "image": upload["source"]}).json()["code"] == "upload_not_found"
    httpx.put(upload["put_url"], content=coffee).raise_for_status()
    assert api.run({**REPLACE, "image": upload["source"]})["status"] == "succeeded"


def test_a_file_that_is_too_large_gets_no_url(api: Api, settings: Settings) -> None:
    """422, with the field; and so is a size that is none."""
    for size in (settings.limits.max_image_bytes + 1, 0):
        answer = api.http.post("/v1/uploads/presigned", json={"bytes": size})
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "invalid_request", "bytes")


def test_an_upload_that_is_too_large_is_deleted_when_a_job_names_it(api: Api, settings: Settings, storage: Storage) -> None:
    """The job is refused by its field before the bytes are read, and the store holds them no more."""
    upload = presigned(api)

    def put_and_named() -> httpx.Response | None:
        httpx.put(upload["put_url"], content=bytes(settings.limits.max_image_bytes + 1)).raise_for_status()
        answer = api.post({**REPLACE, "image": upload["source"]})
        return None if answer.json()["code"] == "upload_not_found" else answer  # the steward was faster

    answer = eventually(put_and_named)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (413, "payload_too_large", "image")
    assert storage.keys(upload_key("local", upload["id"])) == []
    assert api.post({**REPLACE, "image": upload["source"]}).json()["code"] == "upload_not_found"


def test_a_tenant_has_so_many_uploads(small: Api, coffee: bytes, storage: Storage) -> None:
    """Sent or presigned, one more is 429 that says when the first expires, and its file is not kept."""
    presigned(small)
    small.http.post("/v1/uploads", files={"file": coffee}).raise_for_status()
    before = storage.keys("uploads/")
    answers = [small.http.post("/v1/uploads/presigned"), small.http.post("/v1/uploads", files={"file": coffee})]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(429, "too_many_uploads")}
    assert all(80_000 < int(answer.headers["retry-after"]) <= 90_000 for answer in answers)
    assert storage.keys("uploads/") == before


def test_an_endpoint_that_does_not_accept_is_sent_a_few_test_events(small: Api, receiver: Receiver) -> None:
    """Beyond those that may wait a ping is 429 that says when the next of them is tried; an endpoint that is made anew has its own."""
    receiver.answer = lambda _: 503
    receiver.headers = {"Retry-After": "7200"}
    for sent in (2, 4):
        made = small.http.post("/v1/webhooks", json={"url": receiver.url, "events": ["job.failed"]}).raise_for_status().json()
        ping = f"/v1/webhooks/{made['id']}/ping"
        assert [small.http.post(ping).status_code for _ in range(2)] == [202, 202]
        eventually(lambda sent=sent: len(receiver.deliveries) == sent)  # type: ignore[misc]
        answer = eventually(lambda ping=ping: int((told := small.http.post(ping)).headers["retry-after"]) > 3600 and told)  # type: ignore[misc]
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_pings")
        small.http.delete(f"/v1/webhooks/{made['id']}").raise_for_status()
