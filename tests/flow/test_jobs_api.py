"""Reading, listing, waiting for, and canceling jobs; uploads; what machines ask."""

from __future__ import annotations

import json
from typing import Any

import httpx
import redis
from conftest import ENDED, Api, box_mask, eventually, pixels_of

from core.storage import Storage
from service.local import LocalStack

REPLACE = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}
LONG = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": 150, "num_images": 8}


def test_a_created_job_is_accepted_with_its_place(api: Api, coffee: bytes) -> None:
    """202, a Location, and a job that is queued or on its way."""
    answer = api.post(REPLACE, photo=coffee)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert answer.json()["status"] in ("queued", "running", "succeeded")


def test_a_caller_may_wait_for_the_result(api: Api, coffee: bytes) -> None:
    """Prefer: wait answers 200 with the finished job; what was asked for beyond 55 seconds is 55."""
    answer = api.post(REPLACE, wait_s=60, photo=coffee)
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=55"


def test_a_wait_that_is_too_short_answers_with_the_job_as_it_is(api: Api, coffee: bytes) -> None:
    """When the time is over the answer is 202 and the job goes on."""
    mask, _ = box_mask(coffee)
    answer = api.post(LONG, wait_s=1, photo=coffee, mask=mask)
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    api.http.post(answer.json()["urls"]["cancel"])


def test_a_running_job_shows_its_steps_and_stops_when_canceled(api: Api, coffee: bytes, storage: Storage) -> None:
    """Progress grows while it runs; a cancel ends it before its last step, and nothing that it made is left."""
    mask, _ = box_mask(coffee)
    job = api.accept(LONG, photo=coffee, mask=mask)
    eventually(lambda: (api.read(job["id"])["progress"] or {"step": 0})["step"] > 0)
    assert api.http.post(job["urls"]["cancel"]).status_code == 200
    ended = eventually(lambda: (read := api.read(job["id"]))["status"] in ENDED and read)
    assert ended["status"] == "canceled"
    assert ended["progress"]["step"] < ended["progress"]["steps"] == 1200
    assert storage.keys(f"outputs/local/{job['id']}/") == []
    assert api.http.post(job["urls"]["cancel"]).status_code == 200


def test_a_finished_job_cannot_be_canceled(api: Api, coffee: bytes) -> None:
    """409 with a code."""
    job = api.run(REPLACE, photo=coffee)
    answer = api.http.post(job["urls"]["cancel"])
    assert (answer.status_code, answer.json()["code"]) == (409, "job_already_finished")


def test_a_deadline_that_passes_while_the_job_runs_fails_it(api: Api, coffee: bytes) -> None:
    """A job that cannot make its deadline ends with a code that says so."""
    mask, _ = box_mask(coffee)
    job = api.run({**LONG, "deadline_s": 1}, photo=coffee, mask=mask)
    assert (job["status"], job["error"]["code"]) in {("failed", "deadline_exceeded"), ("expired", "deadline_exceeded")}


def test_jobs_are_listed_in_pages_and_filtered(api: Api, coffee: bytes) -> None:
    """Pages follow one another without gaps, newest first; filters show only what fits."""
    made = [api.run(REPLACE, photo=coffee)["id"] for _ in range(3)]
    first = api.http.get("/v1/jobs", params={"limit": 2}).json()
    second = api.http.get("/v1/jobs", params={"limit": 2, "cursor": first["next"]}).json()
    ids = [job["id"] for job in first["items"] + second["items"]]
    assert ids[:3] == made[::-1]
    failed = api.http.get("/v1/jobs", params={"status": "failed", "limit": 100}).json()["items"]
    assert all(job["status"] == "failed" for job in failed)


def test_metadata_is_echoed_and_the_recipe_repeats_the_job(api: Api, coffee: bytes) -> None:
    """What the caller attached comes back; posting the recipe's settings again gives the same pixels."""
    mask, _ = box_mask(coffee)
    request: dict[str, Any] = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "a vase", "metadata": {"n": 1}}
    job = api.run(request, photo=coffee, mask=mask)
    assert job["metadata"] == {"n": 1}
    recipe = job["recipe"]
    assert recipe["model_revision"].startswith("sha256:")
    assert recipe["versions"]["diffusers"]
    repeat = {name: recipe[name] for name in ("prompt", "seed", "steps", "guidance_scale", "strength", "scheduler", "mask_options")}
    again = api.run({**request, **repeat}, photo=coffee, mask=mask)
    assert (pixels_of(api.output(job)) == pixels_of(api.output(again))).all()


def test_an_upload_can_be_used_by_name(api: Api, coffee: bytes) -> None:
    """A file kept by POST /v1/uploads serves as an image, for several jobs."""
    upload = api.http.post("/v1/uploads", files={"file": coffee}).json()
    for _ in range(2):
        assert api.run({**REPLACE, "image": upload["source"]})["status"] == "succeeded"


def test_a_large_file_can_be_put_to_the_store_directly(api: Api, coffee: bytes) -> None:
    """A presigned upload takes the bytes by PUT; before they arrive the upload is not found."""
    upload = api.http.post("/v1/uploads/presigned").json()
    assert api.post({**REPLACE, "image": upload["source"]}).json()["code"] == "upload_not_found"
    httpx.put(upload["put_url"], content=coffee).raise_for_status()
    assert api.run({**REPLACE, "image": upload["source"]})["status"] == "succeeded"


def test_an_upload_that_is_no_image_is_refused(api: Api, storage: Storage) -> None:
    """Uploads are checked like inputs, and a refused one is not kept."""
    before = storage.keys("uploads/")
    answer = api.http.post("/v1/uploads", files={"file": b"hello"})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "not_an_image", "file")
    assert storage.keys("uploads/") == before


def test_an_image_is_fetched_by_url(api: Api, storage: Storage, coffee: bytes) -> None:
    """An image may be named by URL; here a presigned URL of an allowed private store."""
    storage.put("health/coffee.png", coffee, "image/png")
    url = storage.presign_get("health/coffee.png")
    assert api.run({**REPLACE, "image": url})["status"] == "succeeded"


def test_output_urls_are_not_public(api: Api, coffee: bytes) -> None:
    """Without its signature an output URL is refused by the store."""
    url = api.run(REPLACE, photo=coffee)["outputs"][0]["url"]
    assert httpx.get(url).status_code == 200
    assert httpx.get(url.partition("?")[0]).status_code == 403


def test_models_tell_what_they_do_and_where(api: Api) -> None:
    """Every model names its licence and its operations, and the worker that serves it."""
    models = {item["card"]["id"]: item for item in api.http.get("/v1/models").json()["items"]}
    assert set(models) >= {"exemplar", "backdrop", "u2netp", "studio", "tiny"}
    assert models["tiny"]["card"]["licence"]["id"] == "CC0-1.0"
    assert all(item["workers"] for item in models.values())


def test_health_and_readiness_need_no_key(stack: LocalStack) -> None:
    """Probes get an answer without a key."""
    assert httpx.get(f"{stack.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{stack.url}/readyz").json() == {"redis": "ok", "s3": "ok"}


def test_metrics_of_all_processes_count_what_happened(api: Api, stack: LocalStack, coffee: bytes) -> None:
    """API, worker and steward export what the dashboard draws, and nothing of GPUs where there is none."""
    api.run(REPLACE, photo=coffee)
    from_api = api.http.get("/metrics").text
    assert 'outfill_jobs_accepted_total{model="backdrop",operation="replace_background",priority="standard"}' in from_api
    from_worker = httpx.get(f"http://127.0.0.1:{stack.worker_metrics_ports[0]}/metrics").text
    for name in (
        "outfill_queue_wait_seconds",
        "outfill_stage_seconds",
        "outfill_step_seconds",
        "outfill_batch_size",
        "outfill_images_total",
        "outfill_pixels_total",
        "outfill_job_seconds",
        'outfill_engine_seconds_total{model="backdrop",phase="step"}',
        'outfill_engine_seconds_total{model="",phase="idle"}',
        'outfill_model_calls_total{mode="eager",model="backdrop"}',
    ):
        assert name in from_worker
    assert 'outfill_model_warm_up_seconds{model="tiny"}' in from_worker
    assert "outfill_gpu" not in from_worker
    steward = f"http://127.0.0.1:{stack.steward_metrics_port}/metrics"
    eventually(lambda: 'outfill_jobs{state="succeeded"}' in httpx.get(steward).text)


def test_the_examples_of_the_documentation_work_when_pasted(api: Api) -> None:
    """Every example in the OpenAPI document is accepted as it stands and succeeds."""
    schema = api.http.get("/openapi.json").json()
    body = schema["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert len(body["examples"]) >= 3
    for name, example in body["examples"].items():
        assert api.run(example["value"])["status"] == "succeeded", name
    for reference in body["schema"]["oneOf"]:
        assert reference["$ref"].rpartition("/")[2] in schema["components"]["schemas"]


def test_the_number_of_references_in_openapi_is_the_number_that_resolve(api: Api) -> None:
    """No $ref of the OpenAPI document dangles."""
    schema = api.http.get("/openapi.json").json()
    names = set(schema["components"]["schemas"])
    references = {part.split('"')[0] for part in json.dumps(schema).split('"$ref": "#/components/schemas/')[1:]}
    assert references
    assert references <= names


def test_nothing_of_a_finished_job_stays_in_the_queue(api: Api, live_redis: redis.Redis, coffee: bytes) -> None:
    """After a job ended, RQ has no message, no lease and no execution of it."""
    job = api.run(REPLACE, photo=coffee)
    eventually(lambda: not [key for key in live_redis.keys("rq:*") if job["id"].encode() in key])
    assert all(live_redis.llen(key) == 0 for key in live_redis.keys("rq:queue:*"))
