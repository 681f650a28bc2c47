"""Bad input gets a clear error that names the field, early, and leaves nothing behind."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from conftest import ENDED, Api, Traces, eventually, png, png_header
from PIL import Image

from core.storage import Storage
from service.local import LocalStack

PHOTO = png(np.arange(16 * 12 * 3, dtype=np.uint8).reshape(12, 16, 3))


def mask(width: int = 16, height: int = 12, box: tuple[int, int, int, int] = (2, 2, 6, 6)) -> bytes:
    image = Image.new("L", (width, height))
    image.paste(255, box)
    return png(image)


def gif() -> bytes:
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


ERASE = {"operation": "erase", "image": "file:photo", "mask": "file:mask"}
REPLACE = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}
OUTPAINT = {"operation": "outpaint", "image": "file:photo", "expand": {"left": 4}}
INPAINT = {**ERASE, "operation": "inpaint", "prompt": "x"}

Case = tuple[dict[str, Any], dict[str, bytes], int, str, str | None]
CASES: dict[str, Case] = {
    "unknown_field": ({**ERASE, "colour": 1}, {"photo": PHOTO, "mask": mask()}, 422, "unknown_field", "colour"),
    "unknown_field_with_a_capital": ({**ERASE, "Colour": 1}, {"photo": PHOTO, "mask": mask()}, 422, "unknown_field", "Colour"),
    "unknown_field_named_as_an_operation": ({**ERASE, "erase": 1}, {"photo": PHOTO, "mask": mask()}, 422, "unknown_field", "erase"),
    "unknown_nested_field": ({**ERASE, "output": {"fmt": 1}}, {"photo": PHOTO, "mask": mask()}, 422, "unknown_field", "output.fmt"),
    "missing_field": ({"operation": "erase", "image": "file:photo"}, {"photo": PHOTO}, 422, "missing_field", "mask"),
    "unknown_operation": ({"operation": "sharpen", "image": "file:photo"}, {"photo": PHOTO}, 422, "invalid_request", "operation"),
    "mask_of_another_size": (ERASE, {"photo": PHOTO, "mask": mask(17)}, 422, "mask_size_mismatch", "mask"),
    "empty_mask": (ERASE, {"photo": PHOTO, "mask": mask(box=(0, 0, 0, 0))}, 422, "mask_empty", "mask"),
    "full_mask": (ERASE, {"photo": PHOTO, "mask": mask(box=(0, 0, 16, 12))}, 422, "mask_full", "mask"),
    "mask_without_alpha": (
        {**ERASE, "mask_options": {"polarity": "alpha"}},
        {"photo": PHOTO, "mask": mask()},
        422,
        "mask_has_no_alpha",
        "mask",
    ),
    "product_mask_of_another_size": (
        {**REPLACE, "product_mask": "file:mask"},
        {"photo": PHOTO, "mask": mask(17)},
        422,
        "mask_size_mismatch",
        "product_mask",
    ),
    "product_mask_of_nothing": (
        {"operation": "remove_background", "image": "file:photo", "product_mask": "file:mask"},
        {"photo": PHOTO, "mask": mask(box=(0, 0, 0, 0))},
        422,
        "mask_empty",
        "product_mask",
    ),
    "product_mask_beside_a_mask": (
        {**REPLACE, "mask": "file:mask", "product_mask": "file:mask"},
        {"photo": PHOTO, "mask": mask()},
        422,
        "invalid_request",
        "mask",
    ),
    "mask_options_of_a_product_mask": (
        {**REPLACE, "product_mask": "file:mask", "mask_options": {"invert": True}},
        {"photo": PHOTO, "mask": mask()},
        422,
        "invalid_request",
        "mask_options",
    ),
    "product_mask_of_an_inpaint": (
        {**INPAINT, "product_mask": "file:mask"},
        {"photo": PHOTO, "mask": mask()},
        422,
        "unknown_field",
        "product_mask",
    ),
    "not_an_image": (REPLACE, {"photo": b"hello"}, 422, "not_an_image", "image"),
    "huge_header": (REPLACE, {"photo": png_header(50_000, 50_000)}, 422, "image_too_large", "image"),
    "animated_gif": (REPLACE, {"photo": gif()}, 422, "animated_image", "image"),
    "loopback_url": ({**REPLACE, "image": "http://127.0.0.2/x.png"}, {}, 422, "url_not_allowed", "image"),
    "private_url": ({**REPLACE, "image": "https://10.1.2.3/x.png"}, {}, 422, "url_not_allowed", "image"),
    "metadata_url": ({**REPLACE, "image": "http://169.254.169.254/latest"}, {}, 422, "url_not_allowed", "image"),
    "odd_scheme": ({**REPLACE, "image": "ftp://example.com/x.png"}, {}, 422, "invalid_source", "image"),
    "file_in_capitals": ({**REPLACE, "image": "FILE:photo"}, {}, 422, "invalid_source", "image"),
    "upload_in_capitals": ({**REPLACE, "image": "Upload:upl_01JD0000000000000000000000"}, {}, 422, "invalid_source", "image"),
    "text_for_a_number": ({**ERASE, "num_images": "3"}, {"photo": PHOTO, "mask": mask()}, 422, "invalid_request", "num_images"),
    "light_without_a_cast_shadow": (
        {**REPLACE, "shadow": {"angle_deg": 90}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "shadow.angle_deg",
    ),
    "stored_source": ({**REPLACE, "image": "image"}, {}, 422, "invalid_source", "image"),
    "shouted_scheme": ({**REPLACE, "image": "FILE:photo"}, {"photo": PHOTO}, 422, "invalid_request", "photo"),
    "shouted_upload": ({**REPLACE, "image": "UPLOAD:upl_01JD0000000000000000000000"}, {}, 422, "invalid_source", "image"),
    "port_that_is_none": ({**REPLACE, "image": "http://1.1.1.1:99999999999999999999/"}, {}, 422, "url_not_allowed", "image"),
    "host_that_idna_does_not_know": ({**REPLACE, "image": "http://xn--a/x.png"}, {}, 422, "url_not_allowed", "image"),
    "webhook_with_a_port_that_is_none": (
        {**REPLACE, "webhook": {"url": "http://1.1.1.1:65536/"}},
        {"photo": PHOTO},
        422,
        "webhook_not_allowed",
        "webhook.url",
    ),
    "bad_base64": ({**REPLACE, "image": "data:image/png;base64,%%%"}, {}, 422, "invalid_source", "image"),
    "no_such_upload": ({**REPLACE, "image": "upload:upl_01JD0000000000000000000000"}, {}, 422, "upload_not_found", "image"),
    "upload_of_a_path": ({**REPLACE, "image": "upload:../x"}, {}, 422, "upload_not_found", "image"),
    "no_such_file": (REPLACE, {"other": PHOTO}, 422, "invalid_source", "image"),
    "a_file_too_many": (REPLACE, {"photo": PHOTO, "other": PHOTO}, 422, "invalid_request", "other"),
    "bad_background_picture": (
        {**REPLACE, "background": {"image": "file:behind"}},
        {"photo": PHOTO, "behind": b"no"},
        422,
        "not_an_image",
        "background.image",
    ),
    "two_backgrounds": ({**REPLACE, "prompt": "x"}, {"photo": PHOTO}, 422, "invalid_request", "background"),
    "bad_color": ({**REPLACE, "background": {"color": "whyte"}}, {"photo": PHOTO}, 422, "invalid_request", "background.color"),
    "bad_short_color": ({**REPLACE, "background": "whyte"}, {"photo": PHOTO}, 422, "invalid_request", "background"),
    "clear_background": ({**REPLACE, "background": "transparent"}, {"photo": PHOTO}, 422, "invalid_request", "background"),
    "background_of_a_number": ({**REPLACE, "background": 5}, {"photo": PHOTO}, 422, "invalid_request", "background"),
    "path_for_a_filename": ({**REPLACE, "output": {"filename": "../x"}}, {"photo": PHOTO}, 422, "invalid_request", "output.filename"),
    "filename_that_reads_backwards": (
        {**REPLACE, "output": {"filename": "shoe\u202egpj.exe"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.filename",
    ),
    "blank_filename": ({**REPLACE, "output": {"filename": " "}}, {"photo": PHOTO}, 422, "invalid_request", "output.filename"),
    "transparent_jpg": (
        {"operation": "remove_background", "image": "file:photo", "output": {"format": "jpg"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.format",
    ),
    "mask_of_a_cut_out": (
        {"operation": "remove_background", "image": "file:photo", "mask": "file:mask"},
        {"photo": PHOTO, "mask": mask()},
        422,
        "unknown_field",
        "mask",
    ),
    "quality_of_png": ({**REPLACE, "output": {"quality": 5}}, {"photo": PHOTO}, 422, "invalid_request", "output.quality"),
    "limit_of_png": ({**REPLACE, "output": {"max_bytes": 5000}}, {"photo": PHOTO}, 422, "invalid_request", "output.max_bytes"),
    "limit_of_a_lossless_webp": (
        {**REPLACE, "output": {"format": "webp", "max_bytes": 5000}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.max_bytes",
    ),
    "fit_of_one_side": ({**REPLACE, "output": {"width": 20, "fit": "cover"}}, {"photo": PHOTO}, 422, "invalid_request", "output.fit"),
    "padding_of_one_side": (
        {**OUTPAINT, "output": {"width": 20, "pad_color": "#fff"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.pad_color",
    ),
    "padding_of_cover": (
        {**OUTPAINT, "output": {"width": 20, "height": 20, "fit": "cover", "pad_color": "#fff"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.pad_color",
    ),
    "padding_beside_a_background": (
        {**REPLACE, "output": {"width": 20, "height": 20, "pad_color": "#fff"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.pad_color",
    ),
    "output_of_no_width": ({**REPLACE, "output": {"width": 0}}, {"photo": PHOTO}, 422, "invalid_request", "output.width"),
    "output_too_wide": ({**REPLACE, "output": {"width": 16385}}, {"photo": PHOTO}, 422, "invalid_request", "output.width"),
    "output_beyond_the_limit": (
        {**REPLACE, "placement": {}, "output": {"width": 16000, "height": 16000}},
        {"photo": PHOTO},
        422,
        "image_too_large",
        "output.width",
    ),
    "output_beyond_the_limit_by_its_height": (
        {**REPLACE, "placement": {}, "output": {"height": 16000}},
        {"photo": PHOTO},
        422,
        "image_too_large",
        "output.height",
    ),
    "output_enlarged_too_much": ({**REPLACE, "output": {"width": 65}}, {"photo": PHOTO}, 422, "invalid_request", "output.width"),
    "cover_enlarged_too_much": (
        {**REPLACE, "output": {"width": 20, "height": 49, "fit": "cover"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.width",
    ),
    "resolution_of_nothing": ({**REPLACE, "output": {"dpi": 0}}, {"photo": PHOTO}, 422, "invalid_request", "output.dpi"),
    "placement_of_an_outpainting": ({**OUTPAINT, "placement": {}}, {"photo": PHOTO}, 422, "unknown_field", "placement"),
    "placement_that_covers": (
        {**REPLACE, "placement": {}, "output": {"width": 20, "height": 20, "fit": "cover"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.fit",
    ),
    "fill_of_more_than_all": ({**REPLACE, "placement": {"fill": 1.1}}, {"photo": PHOTO}, 422, "invalid_request", "placement.fill"),
    "margins_that_leave_nothing": (
        {**REPLACE, "placement": {"margins": {"left": 0.5}}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "placement.margins.left",
    ),
    "ratio_and_width": (
        {"operation": "outpaint", "image": "file:photo", "canvas": {"ratio": "1:1", "width": 20}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "canvas.ratio",
    ),
    "canvas_of_one_side": (
        {"operation": "outpaint", "image": "file:photo", "canvas": {"width": 20}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "canvas.height",
    ),
    "ratio_that_is_none": (
        {"operation": "outpaint", "image": "file:photo", "canvas": {"ratio": "0:5"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "canvas.ratio",
    ),
    "ratio_that_it_has": (
        {"operation": "outpaint", "image": "file:photo", "canvas": {"ratio": "4:3"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "canvas.ratio",
    ),
    "ratio_of_too_many_pixels": (
        {"operation": "outpaint", "image": "file:photo", "canvas": {"ratio": "1:100"}},
        {"photo": png_header(4000, 3000)},
        422,
        "image_too_large",
        "canvas.ratio",
    ),
    "attempts_without_a_seed": (
        {**REPLACE, "checks": {"max_attempts": 2}},
        {"photo": PHOTO},
        422,
        "parameter_not_supported",
        "checks.max_attempts",
    ),
    "unknown_verdict": ({**REPLACE, "checks": {"min_verdict": "fail"}}, {"photo": PHOTO}, 422, "invalid_request", "checks.min_verdict"),
    "expand_and_canvas": (
        {**OUTPAINT, "canvas": {"width": 32, "height": 32}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "expand",
    ),
    "transparent_jpeg": (
        {"operation": "remove_background", "image": "file:photo", "output": {"format": "jpeg"}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "output.format",
    ),
    "ignored_parameter": ({**REPLACE, "steps": 5}, {"photo": PHOTO}, 422, "parameter_not_supported", "steps"),
    "ignored_prompt": ({**OUTPAINT, "model": "exemplar", "prompt": "x"}, {"photo": PHOTO}, 422, "parameter_not_supported", "prompt"),
    "unknown_model": ({**ERASE, "model": "nope"}, {"photo": PHOTO, "mask": mask()}, 422, "model_not_found", "model"),
    "model_of_another_operation": ({**ERASE, "model": "backdrop"}, {"photo": PHOTO, "mask": mask()}, 422, "model_not_found", "model"),
    "strength_without_a_step": (
        {**INPAINT, "steps": 2, "strength": 0.1},
        {"photo": PHOTO, "mask": mask()},
        422,
        "invalid_request",
        "strength",
    ),
    "canvas_too_small": (
        {"operation": "outpaint", "image": "file:photo", "canvas": {"width": 15, "height": 40}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "canvas",
    ),
    "outpaint_too_large": ({**OUTPAINT, "expand": {"left": 16000, "top": 16000}}, {"photo": PHOTO}, 422, "image_too_large", "expand"),
    "webhook_inside": ({**REPLACE, "webhook": {"url": "http://192.168.0.1/"}}, {"photo": PHOTO}, 422, "webhook_not_allowed", "webhook.url"),
    "large_image": (REPLACE, {"photo": b"x" * (8 * 2**20 + 1)}, 413, "payload_too_large", "image"),
    "large_body": (REPLACE, {"photo": b"x" * (24 * 2**20 + 1)}, 413, "payload_too_large", None),
    "seed_past_the_end": (
        {**INPAINT, "seed": 2**32 - 1, "num_images": 2},
        {"photo": PHOTO, "mask": mask()},
        422,
        "invalid_request",
        "seed",
    ),
    "nan_in_metadata": ({**REPLACE, "metadata": {"k": float("nan")}}, {"photo": PHOTO}, 422, "invalid_request", "metadata.k"),
    "misspelt_background": ({**REPLACE, "background": {"colour": "#ffffff"}}, {"photo": PHOTO}, 422, "unknown_field", "background.colour"),
    "half_a_gradient": (
        {**REPLACE, "background": {"gradient": {"start": "#fff"}}},
        {"photo": PHOTO},
        422,
        "missing_field",
        "background.gradient.end",
    ),
    "host_that_is_no_name": ({**REPLACE, "image": "http://a..b/x.png"}, {}, 422, "url_not_allowed", "image"),
    "webhook_event_twice": (
        {**REPLACE, "webhook": {"url": "http://127.0.0.1/", "events": ["job.failed"] * 2}},
        {"photo": PHOTO},
        422,
        "invalid_request",
        "webhook.events",
    ),
    "webhook_host_that_is_no_name": (
        {**REPLACE, "webhook": {"url": "http://a..b/"}},
        {"photo": PHOTO},
        422,
        "webhook_not_allowed",
        "webhook.url",
    ),
    "data_url_with_other_letters": ({**REPLACE, "image": "data:image/png;base64,ä"}, {}, 422, "invalid_source", "image"),
    "large_metadata": ({**REPLACE, "metadata": {"k": "v" * 3000}}, {"photo": PHOTO}, 422, "invalid_request", "metadata"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_and_leaves_nothing(api: Api, live_redis: redis.Redis, storage: Storage, name: str) -> None:
    """The status, the code and the field are right, and Redis and S3 hold nothing of it."""
    request, parts, status, code, field = CASES[name]
    traces = Traces(live_redis, storage)
    answer = api.post(request, **parts)  # type: ignore[arg-type]  # no part is named wait_s
    assert (answer.status_code, answer.json().get("code"), answer.json().get("field")) == (status, code, field), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert not traces.new()


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("large_")])
def test_a_dry_run_refuses_what_the_request_would(api: Api, name: str) -> None:
    """The status, the code and the field are those of the request itself."""
    request, parts, status, code, field = CASES[name]
    answer = api.post(request, query={"dry_run": True}, **parts)  # type: ignore[arg-type]  # no part is named wait_s
    assert (answer.status_code, answer.json().get("code"), answer.json().get("field")) == (status, code, field), answer.text


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("POST", "/v1/uploads"), ("GET", "/v1/models"), ("GET", "/metrics")]
)
def test_without_a_good_key_nothing_is_told(stack: LocalStack, headers: dict[str, str], method: str, path: str) -> None:
    """No key, a wrong key and another scheme are each 401."""
    answer = httpx.request(method, stack.url + path, headers=headers, json=REPLACE if path == "/v1/jobs" else None)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [(b"{", "application/json", "invalid_json"), (b"x", "text/plain", "invalid_request"), (b"[]", "application/json", "invalid_request")],
)
def test_bodies_that_are_not_requests_are_refused(api: Api, content: bytes, kind: str, code: str) -> None:
    """Broken JSON, other media types and other JSON are refused as such."""
    answer = api.http.post("/v1/jobs", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"operation": "erase", "image": "file:a", "operation": "remove_background"}', "operation"),
        ('{"operation": "remove_background", "image": "file:a", "metadata": {"k": 1, "j": 2, "k": 1}}', "k"),
    ],
)
def test_a_name_that_comes_twice_is_refused(api: Api, text: str, field: str) -> None:
    """Of two values with one name in an object of the JSON none is ignored: 422 that gives the name."""
    answer = api.http.post("/v1/jobs", data={"request": text}, files={"a": PHOTO})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "invalid_request", field)


@pytest.mark.parametrize(
    "header",
    [("Prefer", f"{wait}") for wait in ("wait=61", "wait=abc", "wait=" + "9" * 5000, "WAIT = 0", "respond-async, wait", "a=b; wait=-1")]
    + [("Idempotency-Key", key) for key in ("", "k" * 256, "two words", "schlüssel")],
)
def test_headers_that_cannot_be_honoured_are_refused(api: Api, header: tuple[str, str]) -> None:
    """Prefer: wait takes 1 to 60 seconds; an idempotency key is 1 to 255 visible ASCII characters."""
    answer = api.http.post("/v1/jobs", json=REPLACE, headers=httpx.Headers([header], encoding="utf-8"))
    assert (answer.status_code, answer.json()["field"]) == (422, header[0])


@pytest.mark.parametrize(
    ("header", "waits"), [("WAIT=60", True), ('respond-async, wait="60"', True), ("foo=await", False), ("await=60", False)]
)
def test_preferences_are_read_by_their_names(api: Api, header: str, waits: bool) -> None:  # noqa: FBT001
    """Case does not matter, and what is not known is ignored (RFC 7240)."""
    answer = api.http.post("/v1/jobs", data={"request": json.dumps(REPLACE)}, files={"photo": PHOTO}, headers={"Prefer": header})
    assert (answer.status_code, answer.headers.get("preference-applied")) == ((200, "wait=55") if waits else (202, None))
    eventually(lambda: api.read(answer.json()["id"])["status"] in ENDED)  # else the next test sees it end


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("dryrun=true", "unknown_field", "dryrun"),
        ("dry_run=perhaps", "invalid_request", "dry_run"),
        ("wait=5", "unknown_field", "wait"),
        ("dry_run=true&dry_run=false", "invalid_request", "dry_run"),
    ],
)
def test_query_parameters_that_cannot_be_honoured_are_refused(api: Api, query: str, code: str, field: str) -> None:
    """A misspelt dry run makes no job."""
    answer = api.http.post(f"/v1/jobs?{query}", data={"request": json.dumps(REPLACE)}, files={"photo": PHOTO})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, code, field)


_JOB = "/v1/jobs/job_01JD0000000000000000000000"


@pytest.mark.parametrize(
    ("method", "path", "query", "code"),
    [
        *((method, path, "x=1", "unknown_field") for method, path in (
            ("GET", _JOB), ("DELETE", _JOB), ("POST", f"{_JOB}/cancel"), ("POST", f"{_JOB}/repeat"), ("GET", f"{_JOB}/events"), ("GET", "/v1/jobs"),
            ("GET", "/v1/models"), ("GET", "/v1/usage"), ("POST", "/v1/uploads"), ("POST", "/v1/uploads/presigned"), ("GET", "/v1/webhooks"),
            ("GET", "/v1/webhooks/deliveries"),
        )),
        *((method, path, query, "invalid_request") for method, path, query in (
            ("GET", "/v1/jobs", "status=queued&status=failed"), ("GET", "/v1/usage", "since=2026-01-01&since=2026-01-02"),
            ("GET", "/v1/webhooks/deliveries", "state=dead&state=pending"),
        )),
    ],
)  # fmt: skip
def test_no_query_parameter_is_ignored(api: Api, method: str, path: str, query: str, code: str) -> None:
    """One that a route does not know, or that comes twice, is 422 that names it."""
    answer = api.http.request(method, f"{path}?{query}")
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, code, query.partition("=")[0])


def test_parts_of_an_upload_that_nobody_knows_are_refused(api: Api) -> None:
    """An upload is one file; a field beside it would be ignored."""
    answer = api.http.post("/v1/uploads", files={"file": PHOTO}, data={"name": "x"})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "unknown_field", "name")


def test_made_up_methods_are_counted_as_one(api: Api) -> None:
    """Callers cannot make the metrics grow."""
    for number in range(3):
        api.http.request(f"MADE{number}", "/v1/jobs")
    text = api.http.get("/metrics").text
    assert 'outfill_http_requests_total{method="other"' in text
    assert "MADE" not in text


def test_unknown_jobs_and_paths_are_404(api: Api) -> None:
    """What is not there is a problem too."""
    assert api.http.get("/v1/jobs/job_01JD0000000000000000000000").json()["code"] == "job_not_found"
    assert api.http.get("/v1/nothing").json()["code"] == "not_found"
    assert api.http.put("/v1/jobs").json()["code"] == "method_not_allowed"


def lying_png() -> bytes:
    """A PNG whose header is fine and whose pixels are noise."""
    return png(np.zeros((12, 16, 3), np.uint8))[:60] + bytes(range(200))


@pytest.mark.parametrize(("broken", "field"), [("photo", "image"), ("mask", "mask")])
@pytest.mark.parametrize("damage", ["truncated", "lying"])
def test_a_file_that_cannot_be_decoded_fails_its_job_at_once(api: Api, broken: str, field: str, damage: str) -> None:
    """A truncated or lying file is accepted by its header and fails its job with code and field, without a second attempt."""
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    parts = {"photo": png(noise), "mask": mask(160, 120, (20, 20, 60, 60))}
    parts[broken] = parts[broken][: len(parts[broken]) * 2 // 3] if damage == "truncated" else parts[broken][:60] + bytes(range(200))
    job = api.run(ERASE, **parts)  # type: ignore[arg-type]  # no part is named timeout_s
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert (job["error"]["code"], job["error"]["field"]) == ("image_corrupt", field)


def test_data_urls_are_taken(api: Api) -> None:
    """An image and a mask may travel inside the JSON."""
    urls = {name: "data:image/png;base64," + base64.b64encode(data).decode() for name, data in (("image", PHOTO), ("mask", mask()))}
    assert api.run({**ERASE, **urls})["status"] == "succeeded"
