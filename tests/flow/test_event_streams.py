"""Server-sent events of a job. On the running service."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from conftest import ENDED, Api, box_mask, eventually

from service.app import LISTENING
from service.local import API_COMMAND, LocalStack, Part, _resolve, free_ports

REPLACE = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}
LONG = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": 150, "num_images": 8}


@dataclass
class Event:
    """One event as it came."""

    name: str
    data: dict[str, Any]
    id: str | None


def parsed(lines: Iterator[str]) -> Iterator[Event | str]:
    """Events, and comments as text."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield line
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}


@contextmanager
def following(api: Api, job_id: str, last_event_id: str | None = None) -> Iterator[Iterator[Event | str]]:
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with api.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield parsed(answer.iter_lines())


def states(events: list[Event | str]) -> list[str]:
    return [event.data["status"] for event in events if isinstance(event, Event) and event.name == "state"]


@dataclass
class Follower:
    """A caller who follows a job on a thread of its own."""

    events: list[Event | str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def follow(self, api: Api, job_id: str) -> None:
        with following(api, job_id) as events:
            for event in events:
                self.events.append(event)
        self.ended.set()


@pytest.fixture
def long_job(api: Api, coffee: bytes) -> Iterator[dict[str, Any]]:
    """A job that runs until it is canceled."""
    mask, _ = box_mask(coffee)
    job = api.accept({**LONG, "previews": True}, photo=coffee, mask=mask)
    yield job
    api.http.post(job["urls"]["cancel"])
    eventually(lambda: api.read(job["id"])["status"] in ENDED)


def test_a_job_is_followed_from_its_start_to_its_end(api: Api, coffee: bytes) -> None:
    """The states come in order, each as the whole job, and the stream ends after the last of them."""
    job = api.accept(REPLACE, photo=coffee)
    with following(api, job["id"]) as events:
        found = list(events)
    seen = states(found)
    assert seen[-1] == "succeeded"
    assert seen == [status for status in ("queued", "running", "succeeded") if status in seen]
    last = [event for event in found if isinstance(event, Event)][-1]
    assert api.output(last.data) == api.output(api.read(job["id"]))
    assert job["urls"]["events"] == f"/v1/jobs/{job['id']}/events"


def test_progress_and_previews_come_while_it_is_painted(api: Api, long_job: dict[str, Any]) -> None:
    """Steps grow, previews can be fetched, and a cancel ends the stream with the state that it leads to."""
    steps: list[int] = []
    with following(api, long_job["id"]) as events:
        for event in events:
            if isinstance(event, Event) and event.name == "progress":
                steps.append(event.data["step"])
            if isinstance(event, Event) and event.name == "preview" and len(steps) > 1:
                assert httpx.get(event.data["url"]).headers["content-type"] == "image/jpeg"
                break
        api.http.post(long_job["urls"]["cancel"]).raise_for_status()
        rest = list(events)
    assert steps == sorted(steps)
    assert states(rest)[-1] == "canceled"


def test_who_comes_back_misses_nothing_and_hears_nothing_twice(api: Api, long_job: dict[str, Any]) -> None:
    """With Last-Event-ID the states after that one are told, and no other; after the last of them 204 says not to come back."""
    eventually(lambda: api.read(long_job["id"])["status"] == "running")
    with following(api, long_job["id"]) as events:
        first = next(event for event in events if isinstance(event, Event))
    assert (first.name, first.data["status"]) == ("state", "running")
    api.http.post(long_job["urls"]["cancel"]).raise_for_status()
    eventually(lambda: api.read(long_job["id"])["status"] in ENDED)
    with following(api, long_job["id"], first.id) as events:
        (last,) = [event for event in events if isinstance(event, Event)]
    assert (last.data["status"], last.id is not None) == ("canceled", True)
    with following(api, long_job["id"], "0-0") as events:
        assert states(list(events)) == ["running", "canceled"]
    answer = api.http.get(long_job["urls"]["events"], headers={"Last-Event-ID": str(last.id)})
    assert (answer.status_code, answer.content) == (204, b"")


def test_an_id_of_another_stream_is_told_everything(api: Api, coffee: bytes) -> None:
    """An id that the job's stream has not come to, as after a Redis that was restored, misses nothing: the job is told as it is."""
    job = api.run(REPLACE, photo=coffee)
    with following(api, job["id"], f"{10**15}-0") as events:
        assert states(list(events)) == ["succeeded"]


def test_a_quiet_stream_says_that_it_lives(api: Api, neighbour: Api, long_job: dict[str, Any], coffee: bytes) -> None:
    """While there is nothing to tell comments come."""
    mask, _ = box_mask(coffee)
    waiting = [api.accept({**LONG, "priority": "bulk"}, photo=coffee, mask=mask) for _ in range(12)]  # more than the worker holds at once
    with following(api, waiting[-1]["id"]) as events:
        assert next(event for event in events if isinstance(event, str)).startswith(":")
    for job in waiting:
        api.http.post(job["urls"]["cancel"])


def test_fifty_listeners_need_one_connection_to_redis(
    api: Api, long_job: dict[str, Any], live_redis: redis.Redis, stack: LocalStack
) -> None:
    """Fifty callers follow a job and five wait for others on one connection; all fifty hear the end."""
    followers = [Follower() for _ in range(50)]
    with ExitStack() as clients:
        headers = {"Authorization": f"Bearer {stack.api_key}"}
        for follower in followers:
            http = clients.enter_context(httpx.Client(base_url=stack.url, headers=headers, timeout=120))
            threading.Thread(target=follower.follow, args=(Api(http), long_job["id"])).start()
        eventually(lambda: all(follower.events for follower in followers))
        names = [client["name"] for client in live_redis.client_list()]
        assert names.count(LISTENING) == 1
        api.http.post(long_job["urls"]["cancel"]).raise_for_status()
        assert all(follower.ended.wait(60) for follower in followers)
    assert {states(follower.events)[-1] for follower in followers} == {"canceled"}
    (channels,) = eventually(lambda: [found := live_redis.pubsub_channels("outfill:events:*")] and not found and [found])  # all have left
    assert channels == []


@pytest.mark.parametrize("last_event_id", [None, "0-0"])
def test_another_tenants_job_is_not_followed(api: Api, neighbour: Api, long_job: dict[str, Any], last_event_id: str | None) -> None:
    """It is 404, as a job that does not exist."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    for job_id in (long_job["id"], "job_01JD0000000000000000000000"):
        answer = neighbour.http.get(f"/v1/jobs/{job_id}/events", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize("header", ["x", "1", "1-", "-1-0", "1-2-3", "9" * 30 + "-0"])
def test_an_id_that_was_never_told_is_refused(api: Api, coffee: bytes, header: str) -> None:
    """422 with the header's name."""
    job = api.accept(REPLACE, photo=coffee)
    answer = api.http.get(job["urls"]["events"], headers={"Last-Event-ID": header})
    assert answer.status_code == 422
    assert answer.json()["field"].lower().endswith("last-event-id")


def test_so_many_streams_may_be_open(api: Api, neighbour: Api, long_job: dict[str, Any], stack: LocalStack, coffee: bytes) -> None:
    """One more than a tenant may have is 429 and says when to come again; another tenant has places of its own, and one that ended is free."""
    limit = int(stack.environment()["OUTFILL_EVENTS__STREAMS_PER_TENANT"])
    with ExitStack() as streams:
        http = streams.enter_context(httpx.Client(base_url=stack.url, headers=api.http.headers, timeout=70, limits=httpx.Limits()))
        opened = [streams.enter_context(following(Api(http), long_job["id"])) for _ in range(limit)]
        assert all(next(events) for events in opened)  # kept: who lets go of one closes it
        answer = api.http.get(long_job["urls"]["events"])
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_streams")
        assert int(answer.headers["retry-after"]) > 0
        assert f"outfill_event_streams {limit}.0" in api.http.get("/metrics").text
        mine = neighbour.run(REPLACE, photo=coffee)
        with following(neighbour, mine["id"]) as events:
            assert states(list(events)) == ["succeeded"]

    def is_free() -> bool:
        with api.http.stream("GET", long_job["urls"]["events"]) as answer:
            return answer.status_code == 200

    eventually(is_free)


def test_the_reference_tells_of_streams(api: Api) -> None:
    """OpenAPI has the media type and the header."""
    operation = api.http.get("/openapi.json").json()["paths"]["/v1/jobs/{job_id}/events"]["get"]
    assert "text/event-stream" in operation["responses"]["200"]["content"]
    assert "last-event-id" in [parameter["name"].lower() for parameter in operation["parameters"]]


def test_an_api_that_is_stopped_ends_its_streams(stack: LocalStack, long_job: dict[str, Any], tmp_path: Path) -> None:
    """SIGTERM: what is open ends without the job, so that the process can shut down too; uvicorn then dies of the signal that it got."""
    (port,) = free_ports(1)
    part = Part("api-2", _resolve((*API_COMMAND, "--port", str(port))), stack.environment(), tmp_path / "log")
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    part.start()
    assert part.process is not None
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as http:
            eventually(lambda: answers(http), timeout_s=120)
            with following(Api(http), long_job["id"]) as events:
                next(events)
                part.process.terminate()
                assert states(list(events)) in ([], ["running"])
            assert part.process.wait(60) == -signal.SIGTERM
            assert "Application shutdown complete" in part.tail()
    finally:
        part.process.kill()
        part.process.wait()


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/healthz").is_success
    except httpx.TransportError:
        return False
