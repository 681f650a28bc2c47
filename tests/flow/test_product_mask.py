"""A mask of the product, by every way in, through the running service."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Api, box_mask, pixels_of, png

OPERATIONS: dict[str, dict[str, Any]] = {
    "remove_background": {"operation": "remove_background"},
    "replace_background": {"operation": "replace_background", "background": {"color": "#2060c0"}, "output": {"layers": True}},
}


def sources(api: Api, photo: bytes, mask: bytes, way: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """The image fields of a request, and the files that go with it."""
    if way == "file":
        return {"image": "file:photo", "product_mask": "file:mask"}, {"photo": photo, "mask": mask}
    if way == "data":
        urls = (f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in (photo, mask))
        return dict(zip(("image", "product_mask"), urls, strict=True)), {}
    uploads = [api.http.post("/v1/uploads", files={"file": each}).raise_for_status().json()["source"] for each in (photo, mask)]
    return dict(zip(("image", "product_mask"), uploads, strict=True)), {}


@pytest.mark.parametrize("way", ["file", "data", "upload"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_mask_of_the_product_says_what_is_kept(api: Api, coffee: bytes, operation: str, way: str) -> None:
    """By file part, data URL and upload: what is white is kept, and product_mask comes back as it went in."""
    mask, marked = box_mask(coffee)
    fields, files = sources(api, coffee, mask, way)
    job = api.run({**OPERATIONS[operation], **fields}, **files)  # type: ignore[arg-type]  # no part is named timeout_s
    output = pixels_of(api.output(job))
    np.testing.assert_array_equal(output[marked][:, :3], pixels_of(coffee)[marked])
    returned = pixels_of(httpx.get(job["outputs"][0]["layers"]["product_mask"]).content)
    np.testing.assert_array_equal(returned > 0, marked)
    assert job["outputs"][0]["report"]["subject"] is None
    assert job["warnings"] == []


def test_a_job_with_a_mask_of_the_product_is_repeated_with_it(api: Api, coffee: bytes) -> None:
    """The repetition has the first job's mask, by a copy of its own, and the same recipe."""
    mask, _ = box_mask(coffee)
    request = {**OPERATIONS["replace_background"], "image": "file:photo", "product_mask": "file:mask"}
    job = api.run(request, photo=coffee, mask=mask)
    answer = api.http.post(f"/v1/jobs/{job['id']}/repeat", headers={"Prefer": "wait=60"})
    again = answer.json()
    assert answer.status_code == 200, answer.text
    assert again["recipe"] == job["recipe"]
    np.testing.assert_array_equal(pixels_of(api.output(again)), pixels_of(api.output(job)))


def test_another_mask_of_the_product_is_another_request(api: Api, coffee: bytes) -> None:
    """Under one idempotency key the same mask is answered with the first job, and another mask is refused."""
    mask, marked = box_mask(coffee)
    request = {**OPERATIONS["remove_background"], "image": "file:photo", "product_mask": "file:mask"}
    first = api.post(request, key="one-mask", photo=coffee, mask=mask)
    again = api.post(request, key="one-mask", photo=coffee, mask=mask)
    assert first.json()["id"] == again.json()["id"]
    other = api.post(request, key="one-mask", photo=coffee, mask=png(np.where(marked, 0, 255).astype(np.uint8)))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_the_mask_of_old_still_works_and_names_the_new_one(api: Api, coffee: bytes) -> None:
    """A mask of the background does what it did, and the job, its dry run and its answer warn by code, naming product_mask; other masks warn of nothing."""
    mask, marked = box_mask(coffee)
    request = {**OPERATIONS["replace_background"], "image": "file:photo", "mask": "file:mask"}
    for told in (
        api.post(request, query={"dry_run": "true"}, photo=coffee, mask=mask).json(),
        job := api.run(request, photo=coffee, mask=mask),
    ):
        (warning,) = told["warnings"]
        assert (warning["code"], warning["field"]) == ("mask_deprecated", "mask")
        assert "product_mask" in warning["message"]
    np.testing.assert_array_equal(pixels_of(api.output(job))[~marked], pixels_of(coffee)[~marked])
    assert job["outputs"][0]["report"]["verdict"]["level"] == "pass"
    erased = api.accept({"operation": "erase", "image": "file:photo", "mask": "file:mask"}, photo=coffee, mask=mask)
    assert erased["warnings"] == []


def test_the_job_tells_of_an_inverted_mask(api: Api, coffee: bytes) -> None:
    """The report of the finished job holds the warning."""
    found = api.run({"operation": "remove_background", "image": "file:photo"}, photo=coffee)
    upside_down = httpx.get(found["outputs"][0]["layers"]["mask"]).content
    request = {**OPERATIONS["remove_background"], "image": "file:photo", "product_mask": "file:mask"}
    report = api.run(request, photo=coffee, mask=upside_down)["outputs"][0]["report"]
    assert [warning["code"] for warning in report["warnings"]] == ["product_mask_inverted"]
    assert report["verdict"]["level"] == "warn"
