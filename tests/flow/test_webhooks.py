"""Webhooks: signed, delivered until accepted, with one id."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from conftest import Api, Receiver, eventually
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service.local import LocalStack

REPLACE = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}


@pytest.fixture
def photo(coffee: bytes) -> bytes:
    return coffee


def test_a_finished_job_is_told_once_with_a_good_signature(api: Api, receiver: Receiver, stack: LocalStack, photo: bytes) -> None:
    """The receiver gets the finished job with working URLs, signed by the tenant's secret; a changed body does not verify."""
    job = api.run({**REPLACE, "webhook": {"url": receiver.url}, "metadata": {"sku": "A-1"}}, photo=photo)
    (payload,) = eventually(lambda: receiver.events(job["id"]))
    assert (payload["type"], payload["sequence"], payload["data"]["status"]) == ("job.succeeded", 2, "succeeded")
    assert payload["data"]["metadata"] == {"sku": "A-1"}
    assert httpx.get(payload["data"]["outputs"][0]["url"]).content == api.output(api.read(job["id"]))
    headers, body = receiver.deliveries[0]
    verifier = Webhook(stack.webhook_secret)
    assert verifier.verify(body, headers)["data"]["id"] == job["id"]
    with pytest.raises(WebhookVerificationError):
        verifier.verify(body.replace(b"A-1", b"A-2"), headers)


def test_a_refused_webhook_comes_again_with_the_same_id(api: Api, receiver: Receiver, photo: bytes) -> None:
    """Errors are retried on the schedule; every attempt has the same id and its own timestamped signature."""
    receiver.answer = lambda count: 500 if count < 3 else 204
    job = api.run({**REPLACE, "webhook": {"url": receiver.url}}, photo=photo)
    payloads = eventually(lambda: len(found := receiver.events(job["id"])) == 3 and found)
    assert len({payload["webhook_id"] for payload in payloads}) == 1


def test_a_webhook_that_is_never_accepted_is_given_up(api: Api, receiver: Receiver, live_redis: Any, photo: bytes) -> None:
    """After the last attempt the row leaves the outbox and is a dead letter, which its owner finds with every attempt."""
    receiver.answer = lambda _: 500
    job = api.run({**REPLACE, "webhook": {"url": receiver.url}}, photo=photo)
    payloads = eventually(lambda: len(found := receiver.events(job["id"])) == 4 and found)
    webhook_id = payloads[0]["webhook_id"]
    eventually(lambda: live_redis.zscore("outfill:dead", webhook_id) is not None)
    dead = next(
        item for item in api.http.get("/v1/webhooks/deliveries", params={"state": "dead"}).json()["items"] if item["id"] == webhook_id
    )
    assert (dead["job_id"], dead["url"], dead["next_attempt_at"]) == (job["id"], receiver.url, None)
    assert [attempt["status_code"] for attempt in dead["attempts"]] == [500] * 4
    assert not [lane for lane in live_redis.keys("outfill:lane:*") if live_redis.zscore(lane, webhook_id) is not None]


def test_an_odd_retry_after_counts_as_none(api: Api, receiver: Receiver, photo: bytes) -> None:
    """A Retry-After that makes no sense neither stops the attempts nor repeats them for ever."""
    receiver.answer = lambda _: 503
    receiver.headers = {"retry-after": "²"}
    job = api.run({**REPLACE, "webhook": {"url": receiver.url}}, photo=photo)
    payloads = eventually(lambda: len(found := receiver.events(job["id"])) == 4 and found)
    assert len({payload["webhook_id"] for payload in payloads}) == 1


def test_a_receiver_that_is_gone_is_not_asked_again(api: Api, receiver: Receiver, live_redis: Any, photo: bytes) -> None:
    """410 ends the attempts at once."""
    receiver.answer = lambda _: 410
    job = api.run({**REPLACE, "webhook": {"url": receiver.url}}, photo=photo)
    (payload,) = eventually(lambda: receiver.events(job["id"]))
    eventually(lambda: live_redis.zscore("outfill:dead", payload["webhook_id"]) is not None)
    assert len(receiver.events(job["id"])) == 1


def test_every_event_that_was_asked_for_is_told(api: Api, receiver: Receiver, photo: bytes) -> None:
    """Started and failed events come in sequence; the started one shows the job as running."""
    events = ["job.started", "job.failed"]
    job = api.run({**REPLACE, "webhook": {"url": receiver.url, "events": events}}, photo=photo[: len(photo) // 2])
    payloads = eventually(lambda: len(found := receiver.events(job["id"])) == 2 and found)
    told = {payload["type"]: (payload["sequence"], payload["data"]["status"]) for payload in payloads}
    assert told == {"job.started": (1, "running"), "job.failed": (2, "failed")}


def test_the_secret_is_nowhere_in_a_payload(api: Api, receiver: Receiver, stack: LocalStack, photo: bytes) -> None:
    """A payload holds no key and no secret."""
    job = api.run({**REPLACE, "webhook": {"url": receiver.url}}, photo=photo)
    eventually(lambda: receiver.events(job["id"]))
    text = json.dumps([body.decode() for _, body in receiver.deliveries])
    assert stack.api_key not in text
    assert stack.webhook_secret not in text
