"""The dispatcher: who waits for whom, and what an attempt leads to. In this process, against a real Valkey and real receivers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import redis
from conftest import Receiver, eventually
from pydantic import SecretStr
from queueing import accept, spec_of

from api_schemas.jobs import JobSpec, new_id, utc_now
from api_schemas.requests import JobEvent
from api_schemas.webhooks import Delivery, DeliveryState, StoredEndpoint, StoredSecret
from core import outbound
from core.events import Endpoints, Outbox
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from worker.steward_metrics import StewardMetrics
from worker.webhooks import Dispatcher, _retry_after_s

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Running:
    """A dispatcher on a thread of its own."""

    def __init__(self, make: Callable[[], Dispatcher]) -> None:
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        async def main() -> None:
            active = asyncio.Event()
            active.set()
            await self._make().run(active, self._stopping)

        self._loop.run_until_complete(main())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def outbox(own_redis: redis.Redis) -> Outbox:
    return Outbox(own_redis)


@pytest.fixture
def figures() -> StewardMetrics:
    return StewardMetrics()


@pytest.fixture
def dispatcher(
    settings: Settings, own_redis: redis.Redis, outbox: Outbox, records: JobRecords, storage: Storage, figures: StewardMetrics
) -> Iterator[Callable[[], Running]]:
    """Starts dispatchers, each with a share of 3 in flight for an endpoint and 5 for a tenant, that wait a minute for an answer."""
    limits = settings.webhooks.model_copy(
        update={"concurrency": 8, "concurrency_per_tenant": 5, "concurrency_per_endpoint": 3, "poll_s": 0.05}
    )
    patient = settings.model_copy(update={"webhooks": limits, "outbound": settings.outbound.model_copy(update={"timeout_s": 60.0})})
    running: list[Running] = []

    def start() -> Running:
        running.append(Running(lambda: Dispatcher(patient, outbox, Endpoints(own_redis), records, storage, figures)))
        return running[-1]

    yield start
    for each in running:
        each.stop()


class Silence:
    """A receiver that takes requests and answers none of them until it is told to."""

    def __init__(self) -> None:
        self.speak = threading.Event()
        self.asked: list[str] = []
        silence = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                silence.asked.append(self.headers["webhook-id"])
                silence.speak.wait(120)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def silent(dispatcher: Any) -> Iterator[Silence]:
    """It answers before the dispatcher is stopped, which waits for what it is sending."""
    silence = Silence()
    thread = threading.Thread(target=silence.server.serve_forever, args=(0.05,))
    thread.start()
    yield silence
    silence.speak.set()
    silence.server.shutdown()
    thread.join()
    silence.server.server_close()


def register(connection: redis.Redis, url: str, tenant: str) -> StoredEndpoint:
    secrets = (StoredSecret(value=SecretStr(SECRET)),)
    events = (JobEvent.CANCELED,)
    endpoint = StoredEndpoint(id=new_id("whk"), url=url, events=events, description="", created_at=utc_now(), secrets=secrets)
    Endpoints(connection).add(tenant, endpoint, limit=16)
    return endpoint


def end_jobs(records: JobRecords, queue: JobQueue, tenant: str, count: int) -> list[JobSpec]:
    """Jobs that end at once and name no URL of their own."""
    specs = []
    for _ in range(count):
        spec = spec_of(tenant=tenant)
        spec = accept(records, queue, spec.model_copy(update={"request": spec.request.model_copy(update={"webhook": None})}))
        records.cancel(spec.id, tenant)
        specs.append(spec)
    return specs


def only(outbox: Outbox, tenant: str) -> Delivery:
    """The one delivery of a tenant."""
    (found,), _ = outbox.page(tenant, state=None, endpoint=None, before=None, limit=9)
    return found


def test_a_receiver_that_hangs_keeps_no_other_tenant_waiting(
    dispatcher: Callable[[], Running],
    silent: Silence,
    receiver: Receiver,
    outbox: Outbox,
    records: JobRecords,
    queue: JobQueue,
    own_redis: redis.Redis,
) -> None:
    """While one tenant's endpoint answers nothing and has a hundred webhooks waiting, another tenant gets all of its own; the one that hangs
    has as many in flight as an endpoint may have.
    """
    hanging = register(own_redis, silent.url, "slow")
    register(own_redis, receiver.url, "quick")
    end_jobs(records, queue, "slow", 100)
    dispatcher()
    eventually(lambda: len(silent.asked) == 3)
    specs = end_jobs(records, queue, "quick", 20)
    eventually(lambda: all(receiver.events(spec.id) for spec in specs))
    assert len(silent.asked) == 3
    pending, _ = outbox.page("slow", state=DeliveryState.PENDING, endpoint=hanging.id, before=None, limit=100)
    assert len(pending) == 100
    silent.speak.set()
    eventually(lambda: outbox.size() == 0)
    assert len(set(silent.asked)) == 100


def test_an_endpoint_that_hangs_leaves_places_to_the_others_of_its_tenant(
    dispatcher: Callable[[], Running], silent: Silence, receiver: Receiver, records: JobRecords, queue: JobQueue, own_redis: redis.Redis
) -> None:
    """A tenant's second endpoint is told of everything while the first answers nothing."""
    register(own_redis, silent.url, "shop")
    register(own_redis, receiver.url, "shop")
    dispatcher()
    specs = end_jobs(records, queue, "shop", 20)
    eventually(lambda: all(receiver.events(spec.id) for spec in specs))
    assert len(silent.asked) <= 3


def test_two_stewards_send_each_webhook_once(
    dispatcher: Callable[[], Running], receiver: Receiver, outbox: Outbox, records: JobRecords, queue: JobQueue, own_redis: redis.Redis
) -> None:
    """Two that send at once, as when one takes over from another that is only slow, lose none and share them out."""
    register(own_redis, receiver.url, "shop")
    specs = end_jobs(records, queue, "shop", 40)
    dispatcher()
    dispatcher()
    eventually(lambda: outbox.size() == 0)
    assert sorted(json["data"]["id"] for spec in specs for json in receiver.events(spec.id)) == sorted(spec.id for spec in specs)


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (302, {"location": "/elsewhere"}, "redirects are not followed"),
        (500, {}, "answered 500"),
        (404, {}, "answered 404"),
    ],
)
def test_what_is_no_success_is_tried_again(
    dispatcher: Callable[[], Running],
    receiver: Receiver,
    outbox: Outbox,
    records: JobRecords,
    queue: JobQueue,
    own_redis: redis.Redis,
    figures: StewardMetrics,
    status: int,
    headers: dict[str, str],
    error: str,
) -> None:
    """A redirect is followed nowhere and is a failure like an error; each attempt stands in the log, and after the last the webhook is dead."""
    register(own_redis, receiver.url, "shop")
    receiver.answer, receiver.headers = (lambda _: status), headers
    dispatcher()
    (spec,) = end_jobs(records, queue, "shop", 1)
    eventually(lambda: figures.registry.get_sample_value("outfill_webhooks_given_up_total") == 1)
    assert outbox.dead_letters() == 1
    assert len(receiver.events(spec.id)) == 4
    assert len(receiver.deliveries) == 4
    dead = only(outbox, "shop")
    assert (dead.state, dead.next_attempt_at) == (DeliveryState.DEAD, None)
    assert [(attempt.status_code, attempt.error) for attempt in dead.attempts] == [(status, error)] * 4


def test_a_redirect_to_what_is_no_url_is_a_failure_like_any(
    dispatcher: Callable[[], Running], receiver: Receiver, outbox: Outbox, records: JobRecords, queue: JobQueue, own_redis: redis.Redis
) -> None:
    """A Location that no client can read breaks nothing of the sender's: the attempt was refused, and the schedule goes on."""
    register(own_redis, receiver.url, "shop")
    receiver.answer, receiver.headers = (lambda _: 302), {"location": "http://xn--a/"}
    dispatcher()
    end_jobs(records, queue, "shop", 1)
    eventually(lambda: outbox.dead_letters() == 1)
    assert [attempt.error for attempt in only(outbox, "shop").attempts] == ["redirects are not followed"] * 4


def test_a_receiver_is_asked_again_when_it_said(
    dispatcher: Callable[[], Running], receiver: Receiver, outbox: Outbox, records: JobRecords, queue: JobQueue, own_redis: redis.Redis
) -> None:
    """Retry-After beyond the schedule is honoured, for a day at most."""
    register(own_redis, receiver.url, "shop")
    receiver.answer, receiver.headers = (lambda _: 503), {"retry-after": "999999999"}
    dispatcher()
    end_jobs(records, queue, "shop", 1)
    attempted = eventually(lambda: (found := only(outbox, "shop")).attempts and found)
    assert attempted.next_attempt_at is not None
    assert 86000 < (attempted.next_attempt_at - attempted.attempts[0].at).total_seconds() < 86500


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("9" * 400, 86400), ("Fri, 31 Dec 9999 23:59:59 -2359", 86400), ("Mon, 01 Jan 2001 00:00:00 GMT", 0), ("-5", 0), ("nan", 0), ("inf", 0),
        ("1e9", 0), ("Mon, 01 Jan 99999 00:00:00 GMT", 0), ("Mon, 01 Jan 2030 00:00:00 +99999999999999999999999", 0),
        ("Mon, 01 Jan 2030 00:00:00 +9959", 0), ("0x10", 0), ("", 0), ("soon " * 2000, 0), ("\u0665", 0),
    ],
)  # fmt: skip
def test_odd_times_of_a_receiver_are_clamped(said: str, seconds: float) -> None:
    """What is no time, or one that is over, is none, and a time beyond a day is a day."""
    answer = httpx.Response(503, headers=[(b"retry-after", said.encode())])
    assert _retry_after_s(answer) == seconds


def test_a_name_that_leads_nowhere_is_tried_again_whatever_the_reason(
    dispatcher: Callable[[], Running],
    outbox: Outbox,
    records: JobRecords,
    queue: JobQueue,
    own_redis: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that leads inside and one that nobody knows have the same attempts in the log of their tenant, which can see neither from the other."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host == "shop.inner":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))]
        if host == "shop.nowhere":
            raise socket.gaierror
        return real(host, port, *args, **more)

    monkeypatch.setattr(outbound, "_TOLD_AFTER_S", 0.1)
    register(own_redis, "http://shop.inner/", "inner")
    register(own_redis, "http://shop.nowhere/", "nowhere")
    for tenant in ("inner", "nowhere"):
        end_jobs(records, queue, tenant, 1)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    dispatcher()
    eventually(lambda: outbox.dead_letters() == 2)
    inner, nowhere = (
        [(attempt.status_code, attempt.error) for attempt in only(outbox, tenant).attempts] for tenant in ("inner", "nowhere")
    )
    assert inner == nowhere == [(None, "the host leads to no address that may be called")] * 4


def test_an_endpoint_that_is_gone_is_disabled(
    dispatcher: Callable[[], Running], receiver: Receiver, outbox: Outbox, records: JobRecords, queue: JobQueue, own_redis: redis.Redis
) -> None:
    """410 ends the attempts, disables the endpoint and says why; what happens from then on is not sent, and neither is what was waiting."""
    endpoint, endpoints = register(own_redis, receiver.url, "shop"), Endpoints(own_redis)
    receiver.answer = lambda _: 410
    dispatcher()
    end_jobs(records, queue, "shop", 1)
    eventually(lambda: outbox.dead_letters() == 1)
    found = endpoints.get("shop", endpoint.id)
    assert (found.enabled, found.disabled_reason) == (False, "gone")
    end_jobs(records, queue, "shop", 1)
    assert only(outbox, "shop").attempts[0].status_code == 410
    outbox.redeliver("shop", outbox.row("shop", only(outbox, "shop").id))
    eventually(lambda: only(outbox, "shop").attempts[-1].error == "the endpoint is disabled")
    assert len(receiver.deliveries) == 1


def test_what_a_deleted_endpoint_was_owed_is_dropped(
    dispatcher: Callable[[], Running], receiver: Receiver, outbox: Outbox, records: JobRecords, queue: JobQueue, own_redis: redis.Redis
) -> None:
    """It is sent nowhere, and nothing is kept of it."""
    endpoint = register(own_redis, receiver.url, "shop")
    end_jobs(records, queue, "shop", 3)
    Endpoints(own_redis).remove("shop", endpoint.id)
    dispatcher()
    eventually(lambda: outbox.size() == 0)
    assert receiver.deliveries == []
    assert outbox.page("shop", state=None, endpoint=None, before=None, limit=9) == ([], None)
