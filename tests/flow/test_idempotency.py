"""A POST that is sent again under its Idempotency-Key."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from conftest import Api, box_mask, eventually
from ulid import ULID

from api_schemas.jobs import new_id
from core.jobs import JobRecords, Reservation, reservation_key
from core.queue import connect
from core.settings import Settings
from service.keys import hash_key
from service.local import LocalStack

REPLACE: dict[str, Any] = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}


@pytest.fixture
def key() -> str:
    """A key of this test's own."""
    return f"order/{ULID()}"


@pytest.fixture
def key_id(stack: LocalStack) -> str:
    """The id of the API key that ``api`` calls with."""
    return f"set_{hash_key(stack.api_key)[:12]}"


@pytest.fixture
def connection(settings: Settings) -> Iterator[Any]:
    """The service's Redis, to leave there what an API that died would have left."""
    with connect(settings.redis) as found:
        yield found


def ids_tagged(api: Api, tag: str) -> list[str]:
    """The jobs whose metadata bears ``tag``."""
    items = api.http.get("/v1/jobs", params={"limit": 100}).json()["items"]
    return [job["id"] for job in items if job["metadata"].get("tag") == tag]


def test_a_retried_post_returns_the_first_job(api: Api, key: str, coffee: bytes) -> None:
    """The same key with the same body and files answers with the same job, whatever became of it, and makes no other."""
    request = {**REPLACE, "metadata": {"tag": key}}
    first = api.post(request, key=key, photo=coffee)
    assert first.status_code == 202
    again = api.post(request, key=key, photo=coffee)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again.headers["location"] == first.headers["location"]
    eventually(lambda: api.read(first.json()["id"])["status"] == "succeeded")
    assert api.post(request, key=key, photo=coffee).json()["status"] == "succeeded"
    assert ids_tagged(api, key) == [first.json()["id"]]


def test_a_retry_may_wait_for_the_first_job(api: Api, key: str, coffee: bytes) -> None:
    """Prefer: wait is no part of the body: a retry with it answers 200 with the finished first job."""
    first = api.post(REPLACE, key=key, photo=coffee).json()
    again = api.post(REPLACE, key=key, wait_s=60, photo=coffee)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, first["id"], "succeeded")


def test_another_spelling_of_the_same_request_is_the_same(api: Api, key: str, coffee: bytes) -> None:
    """The order of fields, and a default that is written out, make no other request."""
    first = api.post(REPLACE, key=key, photo=coffee).json()
    spelt = {"priority": "standard", **dict(reversed(REPLACE.items())), "output": {"format": "png"}}
    assert api.post(spelt, key=key, photo=coffee).json()["id"] == first["id"]


def test_a_key_that_comes_with_another_request_is_refused(api: Api, key: str, coffee: bytes) -> None:
    """Another field, another operation and another file's bytes are each 422, and name the header."""
    mask, _ = box_mask(coffee)
    erase = {"operation": "erase", "image": "file:photo", "mask": "file:mask"}
    api.post(erase, key=key, photo=coffee, mask=mask)
    others = [
        ({**erase, "seed": 7}, {"photo": coffee, "mask": mask}),
        ({**erase, "operation": "inpaint", "prompt": "x"}, {"photo": coffee, "mask": mask}),
        (erase, {"photo": coffee, "mask": mask + b"\0"}),
    ]
    for request, parts in others:
        answer = api.post(request, key=key, **parts)  # type: ignore[arg-type]  # no part is named wait_s or key
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "idempotency_key_reused", "Idempotency-Key")


def test_a_refused_request_frees_its_key(api: Api, key: str, coffee: bytes) -> None:
    """What failed may be sent again under its key, corrected or as it was."""
    assert api.post(REPLACE, key=key, photo=b"hello").json()["code"] == "not_an_image"
    upload = api.http.post("/v1/uploads/presigned").json()
    request = {**REPLACE, "image": upload["source"]}
    assert api.post(request, key=key).json()["code"] == "upload_not_found"
    httpx.put(upload["put_url"], content=coffee).raise_for_status()
    assert api.post(request, key=key).status_code == 202


def test_requests_at_once_with_one_key_make_one_job(api: Api, key: str, coffee: bytes) -> None:
    """Of eight posts at once each is answered with the one job or told to come again."""
    request = {**REPLACE, "metadata": {"tag": key}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post(request, key=key, photo=coffee), range(8)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 409)
    assert [*made] == ids_tagged(api, key)


def test_a_key_is_its_tenants_own(api: Api, neighbour: Api, key: str, coffee: bytes) -> None:
    """The same key and body of another tenant make a job of its own."""
    mine, other = api.post(REPLACE, key=key, photo=coffee), neighbour.post(REPLACE, key=key, photo=coffee)
    assert (mine.status_code, other.status_code) == (202, 202)
    assert mine.json()["id"] != other.json()["id"]


def test_an_api_that_died_before_the_job_holds_the_key_for_a_lease(api: Api, key: str, key_id: str, coffee: bytes, connection: Any) -> None:
    """While the key is claimed and no job made, a retry is 409 with Retry-After; once the lease has lapsed it is accepted."""
    first = api.post(REPLACE, key=key, photo=coffee).json()
    row = reservation_key(key_id, key)
    digest = connection.hget(row, "request").decode()
    connection.delete(row)
    JobRecords(connection, retention_s=60).reserve(Reservation("local", key_id, key, digest, token=new_id("res")))
    answer = api.post(REPLACE, key=key, photo=coffee)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (409, "idempotency_key_in_use", "Idempotency-Key")
    assert int(answer.headers["retry-after"]) > 0
    connection.delete(row)  # the lease lapses
    again = api.post(REPLACE, key=key, photo=coffee)
    assert again.status_code == 202
    assert again.json()["id"] != first["id"]


def test_an_api_that_died_before_its_answer_is_finished_by_the_retry(
    api: Api, key: str, key_id: str, coffee: bytes, connection: Any
) -> None:
    """A job that was bound to its key and not queued yet is queued by the retry, which is answered with it."""
    from api_schemas.jobs import JobSpec, utc_now
    from core.jobs import job_key
    from core.storage import Storage, input_key

    first = api.post(REPLACE, key=key, wait_s=60, photo=coffee).json()
    done = JobSpec.model_validate_json(connection.hget(job_key(first["id"]), "spec"))
    row, records, job_id = reservation_key(key_id, key), JobRecords(connection, retention_s=3600), new_id("job")
    digest = connection.hget(row, "request").decode()
    connection.delete(row)
    image = done.inputs["image"].model_copy(update={"key": input_key("local", job_id, "image")})
    died = done.model_copy(update={"id": job_id, "inputs": {"image": image}, "created_at": utc_now()})
    records.create(died)
    Storage(Settings().s3).put(image.key, coffee, "image/png")
    assert records.bind(Reservation("local", key_id, key, digest, token=new_id("res")), job_id)
    assert records.accepting(job_id)
    answer = api.post(REPLACE, key=key, wait_s=60, photo=coffee)
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, job_id, "succeeded")
    assert not records.accepting(job_id)
