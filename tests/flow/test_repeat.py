"""A job that is made again from another."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from conftest import ENDED, Api, Receiver, Traces, box_mask, eventually, pixels_of
from ulid import ULID

from core.jobs import JobRecords
from core.queue import connect
from core.settings import Settings
from core.storage import Storage

REPLACE: dict[str, Any] = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}
INPAINT: dict[str, Any] = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "a vase", "steps": 2}
EACH: dict[str, dict[str, Any]] = {
    "inpaint": {**INPAINT, "previews": True, "output": {"format": "webp", "layers": True}},
    "erase": {"operation": "erase", "image": "file:photo", "mask": "file:mask", "num_images": 2},
    "outpaint": {"operation": "outpaint", "image": "file:photo", "expand": {"left": 8}},
    "color": {**REPLACE, "mask": "file:mask", "mask_options": {"polarity": "black_edits"}, "shadow": {}},
    "picture": {**REPLACE, "background": {"image": "file:behind"}},
    "remove_background": {"operation": "remove_background", "image": "file:photo"},
}


def repeat(api: Api, job: dict[str, Any], changes: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    """Repeat a job and follow the repetition to its end."""
    answer = api.http.post(f"/v1/jobs/{job['id']}/repeat", json=changes, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == answer.json()["urls"]["self"]
    ended: dict[str, Any] = eventually(lambda: (read := api.read(answer.json()["id"]))["status"] in ENDED and read)
    return ended


@pytest.mark.parametrize("name", EACH)
def test_a_repeated_job_paints_the_same(api: Api, coffee: bytes, clock_grey: bytes, name: str) -> None:
    """A repetition without changes has the recipe, the metadata and the pixels of the first, and an id of its own."""
    request, (mask, _) = {**EACH[name], "metadata": {"order": 7}}, box_mask(coffee)
    files = {"photo": coffee, "mask": mask, "behind": clock_grey}
    named = {part: data for part, data in files.items() if f"file:{part}" in str(request)}
    job = api.run(request, **named)  # type: ignore[arg-type]  # no part is named timeout_s
    again = repeat(api, job)
    assert again["id"] != job["id"]
    assert (again["recipe"], again["metadata"]) == (job["recipe"], {"order": 7})
    for number in range(len(job["outputs"])):
        assert (pixels_of(api.output(again, number)) == pixels_of(api.output(job, number))).all()


def test_a_repetition_may_differ_where_its_body_says_so(api: Api, coffee: bytes, receiver: Receiver) -> None:
    """Seed, number of images, metadata and webhook are taken from the body, the rest from the first job; a null seed is drawn anew."""
    mask, _ = box_mask(coffee)
    job = api.run({**INPAINT, "seed": 41, "metadata": {"order": 7}}, photo=coffee, mask=mask)
    changes = {"seed": 5, "num_images": 2, "priority": "interactive", "metadata": {}, "webhook": {"url": receiver.url}}
    again = repeat(api, job, changes)
    assert [output["seed"] for output in again["outputs"]] == [5, 6]
    assert again["metadata"] == {}
    assert again["recipe"]["prompt"] == "a vase"
    eventually(lambda: receiver.events(again["id"]))
    assert repeat(api, again, {"seed": None, "webhook": None})["recipe"]["seed"] != 5
    assert len(receiver.deliveries) == 1


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"prompt": "x"}, "unknown_field", "prompt"),
        ({"seed": -1}, "invalid_request", "seed"),
        ({"seed": 1}, "parameter_not_supported", "seed"),
        ({"webhook": {"url": "http://192.168.0.1/"}}, "webhook_not_allowed", "webhook.url"),
        ({"metadata": {"k": "v" * 3000}}, "invalid_request", "metadata"),
        ([], "invalid_request", None),
    ],
)
def test_changes_that_cannot_be_honoured_are_refused(
    api: Api, coffee: bytes, live_redis: redis.Redis, storage: Storage, changes: Any, code: str, field: str | None
) -> None:
    """Unknown fields, bad values and what the model would ignore are 422 with the field, and nothing is kept."""
    job = api.run(REPLACE, photo=coffee)
    traces = Traces(live_redis, storage)
    answer = api.http.post(f"/v1/jobs/{job['id']}/repeat", json=changes)
    assert (answer.status_code, answer.json()["code"], answer.json().get("field")) == (422, code, field)
    assert not traces.new()


def test_what_an_operation_lacks_its_repetition_lacks_too(api: Api, coffee: bytes) -> None:
    """A cut-out has no number of images: that is told as such, and not as a field that nobody knows; null asks for nothing."""
    job = api.run({"operation": "remove_background", "image": "file:photo"}, photo=coffee)
    url = f"/v1/jobs/{job['id']}/repeat"
    answer = api.http.post(url, json={"num_images": 2})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "parameter_not_supported", "num_images")
    assert api.http.post(url, json={"num_images": None}).status_code == 202


def test_a_misspelt_query_repeats_nothing(api: Api, coffee: bytes) -> None:
    """A repetition has no query parameters, so that dry_run is refused and not ignored; a body is JSON."""
    job = api.run(REPLACE, photo=coffee)
    url = f"/v1/jobs/{job['id']}/repeat"
    answer = api.http.post(url, params={"dry_run": True})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "unknown_field", "dry_run")
    assert api.http.post(url, content=b"seed=1", headers={"content-type": "text/plain"}).json()["field"] == "Content-Type"


def test_a_repetition_outlives_the_first_job(api: Api, coffee: bytes, settings: Settings, storage: Storage) -> None:
    """The inputs are its own: once the first job is deleted the repetition can be repeated still, and the first cannot."""
    job = api.run(REPLACE, photo=coffee)
    again = repeat(api, job)
    with connect(settings.redis) as connection:
        records = JobRecords(connection, retention_s=60)
        storage.delete_job("local", job["id"])
        records.delete(records.get(job["id"], "local").spec)
    assert api.http.post(f"/v1/jobs/{job['id']}/repeat").json()["code"] == "job_not_found"
    assert repeat(api, again)["status"] == "succeeded"


def test_a_job_whose_inputs_are_gone_is_not_repeated(api: Api, coffee: bytes, live_redis: redis.Redis, storage: Storage) -> None:
    """409 with a code of its own, and nothing of the repetition is left."""
    job = api.run(REPLACE, photo=coffee)
    storage.delete(storage.keys(f"inputs/local/{job['id']}/"))
    traces = Traces(live_redis, storage)
    answer = api.http.post(f"/v1/jobs/{job['id']}/repeat")
    assert (answer.status_code, answer.json()["code"]) == (409, "inputs_gone")
    assert not traces.new()


def test_only_its_owner_repeats_a_job(api: Api, neighbour: Api, coffee: bytes) -> None:
    """Another tenant's job is 404, as one that never was."""
    job = api.run(REPLACE, photo=coffee)
    for unseen in (job["id"], "job_01JD0000000000000000000000"):
        answer = neighbour.http.post(f"/v1/jobs/{unseen}/repeat")
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_a_retried_repetition_is_one_job(api: Api, coffee: bytes) -> None:
    """Under an Idempotency-Key a repetition that is sent again is the first one; with other changes the key is refused."""
    job, key = api.run(REPLACE, photo=coffee), str(ULID())
    again = repeat(api, job, {"priority": "bulk"}, **{"Idempotency-Key": key})
    assert repeat(api, job, {"priority": "bulk"}, **{"Idempotency-Key": key})["id"] == again["id"]
    answer = api.http.post(f"/v1/jobs/{job['id']}/repeat", headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_caller_may_wait_for_a_repetition(api: Api, coffee: bytes) -> None:
    """Prefer: wait answers 200 with the finished repetition."""
    job = api.run(REPLACE, photo=coffee)
    answer = api.http.post(f"/v1/jobs/{job['id']}/repeat", headers={"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
