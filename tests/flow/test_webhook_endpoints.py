"""Webhook endpoints: registered, changed, told of every job, tested and told again. On the running service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Api, Receiver, eventually
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service.local import LocalStack

REPLACE = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}
NO_ENDPOINT, NO_DELIVERY = "whk_01JD0000000000000000000000", "evt_01JD0000000000000000000000"


@pytest.fixture
def endpoint(api: Api, receiver: Receiver) -> Iterator[dict[str, Any]]:
    """An endpoint of the caller's, as it was answered when it was made."""
    answer = api.http.post("/v1/webhooks", json={"url": receiver.url, "description": "orders"})
    assert answer.status_code == 201, answer.text
    yield answer.json()
    api.http.delete(f"/v1/webhooks/{answer.json()['id']}")


def path(endpoint: dict[str, Any], action: str = "") -> str:
    return f"/v1/webhooks/{endpoint['id']}{action}"


def deliveries(api: Api, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = api.http.get("/v1/webhooks/deliveries", params=query).raise_for_status().json()["items"]
    return items


def test_an_endpoint_is_told_of_every_job(api: Api, endpoint: dict[str, Any], receiver: Receiver, coffee: bytes) -> None:
    """Jobs that name no webhook are told to it, signed with its own secret; so are those that do, besides their own URL."""
    plain = api.run(REPLACE, photo=coffee)
    both = api.run({**REPLACE, "webhook": {"url": receiver.url + "?own"}}, photo=coffee)
    eventually(lambda: len(receiver.events(plain["id"])) == 1 and len(receiver.events(both["id"])) == 2)
    headers, body = next(found for found in receiver.deliveries if json.loads(found[1])["data"]["id"] == plain["id"])
    told = Webhook(endpoint["secret"]).verify(body, headers)
    assert (told["type"], told["sequence"], told["data"]["status"]) == ("job.succeeded", 2, "succeeded")
    (delivery,) = eventually(
        lambda: [item for item in deliveries(api, endpoint=endpoint["id"], state="delivered") if item["job_id"] == plain["id"]]
    )
    assert (delivery["id"], delivery["attempts"][0]["status_code"]) == (headers["webhook-id"], 204)


def test_a_secret_is_shown_once(api: Api, endpoint: dict[str, Any], stack: LocalStack) -> None:
    """Only the answer that made it holds it: no other answer, and no log."""
    assert endpoint["secret"].startswith("whsec_")
    answers = [api.http.get("/v1/webhooks"), api.http.get(path(endpoint)), api.http.patch(path(endpoint), json={"description": "x"})]
    answers += [api.http.post(path(endpoint, "/ping")), api.http.get("/v1/webhooks/deliveries")]
    eventually(lambda: deliveries(api, endpoint=endpoint["id"], state="delivered"))
    assert all(answer.is_success and endpoint["secret"][6:] not in answer.text for answer in answers)
    for part in stack.parts.values():
        assert endpoint["secret"][6:] not in Path(part.log).read_text(errors="replace")


def test_a_rotated_secret_signs_beside_the_new_one(api: Api, endpoint: dict[str, Any], receiver: Receiver) -> None:
    """Within the overlap both verify; after a rotation without overlap only the newest does."""
    second = api.http.post(path(endpoint, "/rotate")).json()
    assert second["old_secret_signs_until"] is not None
    api.http.post(path(endpoint, "/ping"))
    headers, body = eventually(lambda: receiver.deliveries and receiver.deliveries[0])
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (endpoint["secret"], second["secret"]):
        assert Webhook(secret).verify(body, headers)["type"] == "webhook.ping"
    third = api.http.post(path(endpoint, "/rotate"), json={"overlap_s": 0}).json()
    assert third["old_secret_signs_until"] is None
    api.http.post(path(endpoint, "/ping"))
    headers, body = eventually(lambda: len(receiver.deliveries) == 2 and receiver.deliveries[1])
    assert Webhook(third["secret"]).verify(body, headers)
    for secret in (endpoint["secret"], second["secret"]):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)


def test_a_test_event_goes_the_way_of_all_others(api: Api, endpoint: dict[str, Any], receiver: Receiver) -> None:
    """A ping is owed at once, signed, delivered and logged."""
    owed = api.http.post(path(endpoint, "/ping"))
    assert (owed.status_code, owed.json()["event"], owed.json()["job_id"]) == (202, "webhook.ping", None)
    headers, body = eventually(lambda: receiver.deliveries and receiver.deliveries[0])
    told = Webhook(endpoint["secret"]).verify(body, headers)
    assert (told["type"], told["data"]) == ("webhook.ping", {"endpoint": endpoint["id"]})
    assert headers["webhook-id"] == owed.json()["id"]


def test_a_delivery_is_sent_again_under_its_id(api: Api, endpoint: dict[str, Any], receiver: Receiver) -> None:
    """A dead letter, and one that was delivered, go out anew with the same webhook-id when their owner asks for it."""
    receiver.answer = lambda _: 500
    webhook_id = api.http.post(path(endpoint, "/ping")).json()["id"]
    eventually(lambda: [item["id"] for item in deliveries(api, endpoint=endpoint["id"], state="dead")] == [webhook_id])
    receiver.answer = lambda _: 204
    for sent in (5, 6):
        answer = api.http.post(f"/v1/webhooks/deliveries/{webhook_id}/redeliver")
        assert (answer.status_code, answer.json()["state"]) == (202, "pending")
        eventually(lambda sent=sent: len(receiver.deliveries) == sent and deliveries(api, endpoint=endpoint["id"], state="delivered"))  # type: ignore[misc]
    assert {headers["webhook-id"] for headers, _ in receiver.deliveries} == {webhook_id}
    assert deliveries(api, endpoint=endpoint["id"], state="dead") == []
    (log,) = deliveries(api, endpoint=endpoint["id"])
    assert [attempt["status_code"] for attempt in log["attempts"]] == [500, 500, 500, 500, 204, 204]


def test_a_disabled_endpoint_is_told_nothing(api: Api, endpoint: dict[str, Any], receiver: Receiver, coffee: bytes) -> None:
    """While it is disabled nothing is owed to it and a ping is 409; enabled again it is told what happens from then on."""
    assert api.http.patch(path(endpoint), json={"enabled": False}).json()["enabled"] is False
    answer = api.http.post(path(endpoint, "/ping"))
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook_disabled")
    api.run(REPLACE, photo=coffee)
    assert deliveries(api, endpoint=endpoint["id"]) == []
    api.http.patch(path(endpoint), json={"enabled": True, "events": ["job.started"]}).raise_for_status()
    job = api.run(REPLACE, photo=coffee)
    (told,) = eventually(lambda: receiver.events(job["id"]))
    assert told["type"] == "job.started"


def test_an_endpoint_that_answers_410_is_shown_as_gone(api: Api, endpoint: dict[str, Any], receiver: Receiver) -> None:
    """It is disabled, says why, and its owner enables it again."""
    receiver.answer = lambda _: 410
    api.http.post(path(endpoint, "/ping"))
    gone = eventually(lambda: not (found := api.http.get(path(endpoint)).json())["enabled"] and found)
    assert gone["disabled_reason"] == "gone"
    again = api.http.patch(path(endpoint), json={"enabled": True}).json()
    assert (again["enabled"], again["disabled_reason"]) == (True, None)


def test_a_webhook_of_a_deleted_job_cannot_be_sent_again(api: Api, endpoint: dict[str, Any], receiver: Receiver, coffee: bytes) -> None:
    """It goes with its job: 404."""
    job = api.run(REPLACE, photo=coffee)
    (told,) = eventually(lambda: receiver.events(job["id"]))
    api.http.delete(job["urls"]["self"]).raise_for_status()
    answer = api.http.post(f"/v1/webhooks/deliveries/{told['webhook_id']}/redeliver")
    assert (answer.status_code, answer.json()["code"]) == (404, "delivery_not_found")


def test_endpoints_and_deliveries_are_their_owners_own(api: Api, neighbour: Api, endpoint: dict[str, Any], receiver: Receiver) -> None:
    """To another tenant each is as if it did not exist, and its lists do not show them."""
    webhook_id = api.http.post(path(endpoint, "/ping")).json()["id"]
    calls = [
        neighbour.http.get(path(endpoint)),
        neighbour.http.patch(path(endpoint), json={"enabled": False}),
        neighbour.http.delete(path(endpoint)),
        neighbour.http.post(path(endpoint, "/rotate")),
        neighbour.http.post(path(endpoint, "/ping")),
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in calls} == {(404, "webhook_not_found")}
    answer = neighbour.http.post(f"/v1/webhooks/deliveries/{webhook_id}/redeliver")
    assert (answer.status_code, answer.json()["code"]) == (404, "delivery_not_found")
    assert neighbour.http.get("/v1/webhooks").json() == {"items": [], "next": None}
    assert webhook_id not in {item["id"] for item in deliveries(neighbour)}
    assert api.http.get(path(endpoint)).json()["enabled"] is True


def test_a_deleted_endpoint_is_gone(api: Api, endpoint: dict[str, Any]) -> None:
    """204, then 404, and the list does not show it."""
    assert endpoint["id"] in {item["id"] for item in api.http.get("/v1/webhooks").json()["items"]}
    assert api.http.delete(path(endpoint)).status_code == 204
    assert api.http.delete(path(endpoint)).json()["code"] == "webhook_not_found"
    assert endpoint["id"] not in {item["id"] for item in api.http.get("/v1/webhooks").json()["items"]}


CASES: list[tuple[str, str, Any, int, str, str | None]] = [
    ("POST", "", {}, 422, "missing_field", "url"),
    ("POST", "", {"url": "http://10.0.0.1/x"}, 422, "webhook_not_allowed", "url"),
    ("POST", "", {"url": "ftp://shop.example/x"}, 422, "webhook_not_allowed", "url"),
    ("POST", "", {"url": "http://user:pw@shop.example/"}, 422, "webhook_not_allowed", "url"),
    ("POST", "", {"url": "http://a/", "events": []}, 422, "invalid_request", "events"),
    ("POST", "", {"url": "http://a/", "events": ["job.done"]}, 422, "invalid_request", "events.0"),
    ("POST", "", {"url": "http://a/", "events": ["job.failed"] * 2}, 422, "invalid_request", "events"),
    ("PATCH", f"/{NO_ENDPOINT}", {"events": ["job.failed"] * 20_000}, 422, "invalid_request", "events"),
    ("POST", "", {"url": "http://a/", "secret": "whsec_x"}, 422, "unknown_field", "secret"),
    ("POST", "?dry_run=true", {"url": "http://a/"}, 422, "unknown_field", "dry_run"),
    ("GET", "?limit=5", None, 422, "unknown_field", "limit"),
    ("GET", f"/{NO_ENDPOINT}", None, 404, "webhook_not_found", None),
    ("GET", f"/{NO_ENDPOINT}?x=1", None, 422, "unknown_field", "x"),
    ("PATCH", f"/{NO_ENDPOINT}", {"enabled": True}, 404, "webhook_not_found", None),
    ("PATCH", f"/{NO_ENDPOINT}", {"enabled": None}, 422, "invalid_request", "enabled"),
    ("PATCH", f"/{NO_ENDPOINT}", {"url": "http://169.254.169.254/"}, 422, "webhook_not_allowed", "url"),
    ("PATCH", f"/{NO_ENDPOINT}", {"secret": "x"}, 422, "unknown_field", "secret"),
    ("POST", f"/{NO_ENDPOINT}/rotate", {"overlap_s": -1}, 422, "invalid_request", "overlap_s"),
    ("POST", f"/{NO_ENDPOINT}/rotate", {"overlap_s": 10**9}, 422, "invalid_request", "overlap_s"),
    ("POST", f"/{NO_ENDPOINT}/ping", None, 404, "webhook_not_found", None),
    ("GET", "/deliveries?state=lost", None, 422, "invalid_request", "state"),
    ("GET", "/deliveries?cursor=x", None, 422, "invalid_request", "cursor"),
    ("GET", "/deliveries?endpoint=x", None, 422, "invalid_request", "endpoint"),
    ("GET", "/deliveries?job=x", None, 422, "unknown_field", "job"),
    ("POST", f"/deliveries/{NO_DELIVERY}/redeliver", None, 404, "delivery_not_found", None),
]


@pytest.mark.parametrize(("method", "where", "body", "status", "code", "field"), CASES)
def test_what_cannot_be_honoured_is_refused(
    api: Api, method: str, where: str, body: Any, status: int, code: str, field: str | None
) -> None:
    """The status, the code and the field are right."""
    answer = api.http.request(method, f"/v1/webhooks{where}", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json().get("field")) == (status, code, field), answer.text


@pytest.mark.parametrize(
    ("method", "where"),
    [
        ("POST", ""),
        ("GET", ""),
        ("GET", "/deliveries"),
        ("GET", f"/{NO_ENDPOINT}"),
        ("PATCH", f"/{NO_ENDPOINT}"),
        ("DELETE", f"/{NO_ENDPOINT}"),
    ]
    + [("POST", f"/{NO_ENDPOINT}/{action}") for action in ("rotate", "ping")]
    + [("POST", f"/deliveries/{NO_DELIVERY}/redeliver")],
)
def test_without_a_key_nothing_is_told(stack: LocalStack, method: str, where: str) -> None:
    """Every route asks for a key."""
    assert httpx.request(method, f"{stack.url}/v1/webhooks{where}").status_code == 401
