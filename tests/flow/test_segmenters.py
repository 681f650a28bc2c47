"""A second segmenter in the store of the running service: named by ``subject_model`` it finds another product than u2netp does."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import redis
from conftest import Api, box_mask, eventually, pixels_of, png
from queueing import accept, backdrop_worker, spec_of

from api_schemas.jobs import InputRef, JobStatus
from api_schemas.requests import job_request
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage

BACKDROP = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#2060c0"}, "output": {"layers": True}}
CUT_OUT = {"operation": "remove_background", "image": "file:photo"}
EXTENSION = {"operation": "outpaint", "image": "file:photo", "expand": {"left": 64}, "seed": 1}
Array = np.ndarray[Any, Any]


def found(api: Api, job: dict[str, Any]) -> Array:
    """The product of a cut-out: its alpha."""
    return pixels_of(api.output(job))[..., 3]


def test_the_catalogue_shows_it(api: Api) -> None:
    """GET /v1/models has the segmenter of the store with its licence and workers, and not the one whose licence forbids commercial use."""
    models = {item["card"]["id"]: item for item in api.http.get("/v1/models").raise_for_status().json()["items"]}
    assert models["lit"]["card"]["operations"] == ["remove_background"]
    assert models["lit"]["card"]["licence"] == {"id": "CC0-1.0", "url": None, "commercial_use": True}
    assert models["lit"]["card"]["native_size"] == 64
    assert models["lit"]["workers"] == models["u2netp"]["workers"] != []
    assert "forbidden" not in models


@pytest.mark.parametrize("field", ["subject_model", "model"])
def test_a_cut_out_is_of_what_the_named_segmenter_finds(api: Api, coffee: bytes, field: str) -> None:
    """The segmenter that finds what is lit returns another mask than u2netp, of the lit part of the photo, by either field."""
    default, named = api.run(CUT_OUT, photo=coffee), api.run({**CUT_OUT, field: "lit"}, photo=coffee)
    assert (default["model"], named["model"]) == ("u2netp", "lit")
    assert named["recipe"]["model"] == "lit"
    assert "subject_model" not in named["recipe"]
    lit, red = found(api, named) > 127, pixels_of(coffee)[..., 0].astype(int)
    assert np.mean(lit != (found(api, default) > 127)) > 0.1
    assert np.mean(lit == (red > 127)) > 0.8


def test_a_background_is_put_behind_what_the_named_segmenter_finds(api: Api, coffee: bytes) -> None:
    """``replace_background`` keeps what ``remove_background`` with the same ``subject_model`` cuts out; a repetition keeps it too."""
    job = api.run({**BACKDROP, "subject_model": "lit"}, photo=coffee)
    assert job["model"] == "backdrop"
    assert job["recipe"]["subject_model"] == "lit"
    assert api.run(BACKDROP, photo=coffee)["recipe"]["subject_model"] == "u2netp"
    kept = pixels_of(httpx.get(job["outputs"][0]["layers"]["cutout"]).content)[..., 3]
    np.testing.assert_array_equal(kept, found(api, api.run({**CUT_OUT, "subject_model": "lit"}, photo=coffee)))
    again = api.http.post(f"/v1/jobs/{job['id']}/repeat", json={}).raise_for_status().json()
    assert again["recipe"]["subject_model"] == "lit"


def test_a_mask_of_the_product_is_checked_by_the_named_segmenter(api: Api) -> None:
    """With a ``product_mask`` a cut-out's ``subject_model`` decides nothing but whether the mask looks inverted, and is the recipe's model."""
    ground = np.full((300, 300), 255, np.uint8)
    ground[90:210, 90:210] = 20
    photo, mask = png(np.repeat(ground[..., None], 3, axis=2)), png(np.where(ground > 127, np.uint8(255), np.uint8(0)))
    asked = {**CUT_OUT, "product_mask": "file:mask"}
    by_lit, by_default = (api.run({**asked, "subject_model": name}, photo=photo, mask=mask) for name in ("lit", "u2netp"))
    assert (by_lit["recipe"]["model"], by_default["recipe"]["model"]) == ("lit", "u2netp")
    warnings = [[warning["code"] for warning in job["outputs"][0]["report"]["warnings"]] for job in (by_lit, by_default)]
    assert warnings == [[], ["product_mask_inverted"]]  # the one that finds what is lit finds the ground, as the mask says
    np.testing.assert_array_equal(found(api, by_lit), found(api, by_default))


def test_an_extension_leaves_out_what_the_named_segmenter_finds(api: Api, coffee: bytes) -> None:
    """With the same seed another ``subject_model`` leaves out other things, so that another picture is painted; the photo in it is the same."""
    plain, lit = (api.run({**EXTENSION, "subject_model": name}, photo=coffee) for name in ("u2netp", "lit"))
    assert lit["recipe"]["subject_model"] == "lit"
    first, second = pixels_of(api.output(plain)), pixels_of(api.output(lit))
    np.testing.assert_array_equal(first[:, 64:], second[:, 64:])
    assert (first[:, :64] != second[:, :64]).any()


def test_the_recipe_pins_what_found_the_product(api: Api, coffee: bytes) -> None:
    """A job that is done tells the revision of its segmenter, as the catalogue has it; one that has its own mask, or is not done, tells none."""
    revisions = {item["card"]["id"]: item["card"]["revision"] for item in api.http.get("/v1/models").raise_for_status().json()["items"]}
    for name in ("u2netp", "lit"):
        assert api.run({**BACKDROP, "subject_model": name}, photo=coffee)["recipe"]["subject_model_revision"] == revisions[name]
        assert api.run({**CUT_OUT, "model": name}, photo=coffee)["recipe"]["model_revision"] == revisions[name]
    mask, _ = box_mask(coffee)
    masked = api.run({**BACKDROP, "product_mask": "file:mask"}, photo=coffee, mask=mask)["recipe"]
    asked = api.post(BACKDROP, query={"dry_run": True}, photo=coffee).json()["recipe"]
    assert not {"subject_model_revision", "edge_model"} & {*masked, *asked}
    assert asked["subject_model"] == "u2netp"


@pytest.mark.parametrize("request_", [CUT_OUT, BACKDROP, EXTENSION], ids=lambda request: request["operation"])
@pytest.mark.parametrize("name", ["nowhere", "forbidden", "exemplar"])
def test_what_is_not_served_is_refused_at_the_door(api: Api, coffee: bytes, request_: dict[str, Any], name: str) -> None:
    """A segmenter that is not there, that must not be served, or that is none is ``model_not_found`` of the field ``subject_model``."""
    answer = api.post({**request_, "subject_model": name}, photo=coffee)
    assert answer.status_code == 422
    assert (answer.json()["code"], answer.json()["field"]) == ("model_not_found", "subject_model")


def test_two_names_for_one_segmenter_are_refused(api: Api, coffee: bytes) -> None:
    """``model`` and ``subject_model`` of a cut-out may not differ; where nothing is looked for, ``subject_model`` is refused."""
    answer = api.post({**CUT_OUT, "model": "u2netp", "subject_model": "lit"}, photo=coffee)
    assert (answer.status_code, answer.json()["field"]) == (422, "subject_model")
    answer = api.post({**BACKDROP, "mask": "file:photo", "subject_model": "lit"}, photo=coffee)
    assert (answer.status_code, answer.json()["field"]) == (422, "subject_model")
    answer = api.post({"operation": "erase", "image": "file:photo", "mask": "file:photo", "subject_model": "lit"}, photo=coffee)
    assert (answer.json()["code"], answer.json()["field"]) == ("unknown_field", "subject_model")


def test_a_worker_without_the_segmenter_fails_the_job_by_name(
    own_redis: redis.Redis, settings: Settings, storage: Storage, coffee: bytes
) -> None:
    """A worker that takes a job whose segmenter it does not have ends it with ``model_not_found``, which names the segmenter and the field."""
    import threading

    storage.put("health/lit.png", coffee, "image/png")
    image = InputRef(key="health/lit.png", format="png", width=600, height=400, bytes=1, sha256="0")
    request = job_request.validate_python({**BACKDROP, "image": "image", "model": "backdrop", "subject_model": "lit"})
    spec = spec_of().model_copy(update={"inputs": {"image": image}, "request": request})
    records = JobRecords(own_redis, retention_s=60)
    accept(records, JobQueue(own_redis), spec)
    worker = backdrop_worker(own_redis, settings, storage)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        record = eventually(lambda: (record := records.get(spec.id, "shop")).status is JobStatus.FAILED and record)
    finally:
        worker.stop()
        thread.join()
    assert (record.error.code, record.error.field) == ("model_not_found", "subject_model")
    assert "does not have lit, and each that serves backdrop needs it" in record.error.message
