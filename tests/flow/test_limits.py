"""A tenant's limits on its jobs, through HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis
from conftest import Api, box_mask, eventually
from ulid import ULID

from core.jobs import JobRecords
from core.settings import Settings
from service.keys import KeyRing, NewKey
from service.local import LocalStack

LONG: dict[str, Any] = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": 150, "num_images": 8}


@pytest.fixture
def capped(settings: Settings, live_redis: redis.Redis, stack: LocalStack) -> Iterator[Api]:
    """A caller whose tenant may have one job running and three waiting."""
    tenant = f"capped-{str(ULID())[-8:].lower()}"
    JobRecords(live_redis, retention_s=3600).set_policy(tenant, {"queued_jobs": 3, "running_jobs": 1})
    key, _ = KeyRing(live_redis, settings).create(NewKey(tenant, "test", requests_per_minute=0))
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=70) as http:
        yield Api(http)
        for job in http.get("/v1/jobs").json()["items"]:
            http.post(job["urls"]["cancel"])


def test_concurrent_posts_never_exceed_the_queue_limit_and_replays_cost_no_place(capped: Api, api: Api, coffee: bytes) -> None:
    """Of eight jobs posted at once, with one running, three are accepted and five are 429; sent again, the three are the same jobs; one that
    is canceled makes room; another tenant is not held up.
    """
    mask, _ = box_mask(coffee)
    running = capped.accept(LONG, photo=coffee, mask=mask)
    eventually(lambda: capped.read(running["id"])["status"] == "running")
    keys = [str(ULID()) for _ in range(8)]

    def post(key: str) -> httpx.Response:
        return capped.post(LONG, key=key, photo=coffee, mask=mask)

    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(keys, pool.map(post, keys), strict=True))
    accepted = {key: answer.json()["id"] for key, answer in answers.items() if answer.status_code == 202}
    refused = [answer for answer in answers.values() if answer.status_code != 202]
    assert len(accepted) == 3
    assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(429, "too_many_queued")}
    assert all(int(answer.headers["retry-after"]) > 0 and '"queued_jobs";q=3' in answer.headers["ratelimit-policy"] for answer in refused)
    assert {key: post(key).json()["id"] for key in accepted} == accepted
    assert {capped.read(job_id)["status"] for job_id in accepted.values()} == {"queued"}  # one runs, as many as may
    capped.http.post(f"/v1/jobs/{next(iter(accepted.values()))}/cancel").raise_for_status()
    assert post(str(ULID())).status_code == 202
    other = api.run({"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}, photo=coffee)
    assert other["status"] == "succeeded"
