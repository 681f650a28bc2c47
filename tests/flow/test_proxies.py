"""The API behind a proxy, under a prefix, and for pages of other origins: a second API process beside the stack's."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from conftest import Api, eventually, png_header, sample
from queueing import accept, spec_of

from api_schemas.events import Event, WebhookRow
from api_schemas.requests import JobEvent
from core.events import Endpoints, Outbox
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Http, Settings
from core.storage import Storage
from service import openapi
from service.app import create_app
from service.local import API_COMMAND, LocalStack, Part, StackOptions, _resolve, free_ports
from worker.steward_metrics import StewardMetrics
from worker.webhooks import Dispatcher

PREFIX, ORIGIN = "/outfill", "https://shop.example"
REPLACE = {"operation": "replace_background", "image": "file:photo", "background": "white"}
GETS = [
    "/healthz",
    "/readyz",
    "/docs",
    "/openapi.json",
    "/metrics",
    "/v1/jobs",
    "/v1/jobs/job_01JD0000000000000000000000",
    "/v1/models",
    "/v1/usage",
    "/v1/webhooks",
    "/v1/webhooks/deliveries",
]


@pytest.fixture(scope="module")
def part(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Part]:
    """An API process that is reached under a prefix, trusts the forwarded headers of 127.0.0.1, and lets pages of one origin in."""
    (port,) = free_ports(1)
    environment = {
        **stack.environment(),
        "OUTFILL_HTTP__ROOT_PATH": PREFIX,
        "OUTFILL_HTTP__CORS_ORIGINS": f"{ORIGIN}, http://localhost:5173",
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "PORT_OF_TEST": str(port),
    }
    running = Part("api-behind", _resolve((*API_COMMAND, "--port", str(port))), environment, tmp_path_factory.mktemp("api") / "log")
    running.start()
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/healthz"), timeout_s=120)
        yield running
    finally:
        running.stop()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def behind(part: Part, stack: LocalStack) -> Iterator[Api]:
    """A caller of that process."""
    url = f"http://127.0.0.1:{part.environment['PORT_OF_TEST']}"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=70) as http:
        yield Api(http)


# -- waiting ------------------------------------------------------------------------------------------------------------------------------


def test_a_wait_counts_from_the_request(settings: Settings, stack: LocalStack) -> None:
    """What passes while the images are brought in is taken off the wait, whose end is N seconds after the request came in."""
    fetched_s = 0.5
    waited: list[float] = []

    class Host(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            threading.Event().wait(fetched_s)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(sample("coffee.png"))

        def log_message(self, *_: object) -> None: ...

    async def wait(_: str, __: str, seconds: float) -> None:
        waited.append(seconds)

    async def post(image: str) -> httpx.Response:
        app = create_app(settings)
        headers = {"Authorization": f"Bearer {stack.api_key}", "Prefer": "wait=60"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as http,
        ):
            app.state.services.listeners.until_terminal = wait
            return await http.post("/v1/jobs", json={**REPLACE, "image": image})

    with ThreadingHTTPServer(("127.0.0.1", 0), Host) as host:
        thread = threading.Thread(target=host.serve_forever, args=(0.05,))
        thread.start()
        answer = asyncio.run(post(f"http://127.0.0.1:{host.server_port}/a.png"))
        host.shutdown()
        thread.join()
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=55")
    (seconds,) = waited
    assert seconds <= 55 - fetched_s


def test_connections_outlive_those_of_proxies() -> None:
    """An idle connection is kept for longer than proxies keep theirs, of which Google's are kept longest, 600 s: a POST in the moment of the close is lost."""
    assert int(API_COMMAND[API_COMMAND.index("--timeout-keep-alive") + 1]) > 600


# -- a prefix, and who called -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken_off", [True, False])
def test_links_begin_with_the_prefix(behind: Api, coffee: bytes, taken_off: bool) -> None:  # noqa: FBT001
    """Location and the job's URLs lead back through the proxy, whether or not it takes the prefix off."""
    base = "" if taken_off else PREFIX
    answer = behind.http.post(f"{base}/v1/jobs", data={"request": json.dumps(REPLACE)}, files={"photo": coffee})
    job = answer.json()
    assert answer.headers["location"] == job["urls"]["self"] == f"{PREFIX}/v1/jobs/{job['id']}"
    assert job["urls"] == {
        name: f"{PREFIX}/v1/jobs/{job['id']}{end}" for name, end in (("self", ""), ("cancel", "/cancel"), ("events", "/events"))
    }
    assert behind.http.get(job["urls"]["self"]).json()["urls"] == job["urls"]
    assert behind.http.get(f"{base}/v1/jobs", params={"limit": 1}).json()["items"][0]["urls"] == job["urls"]
    events = behind.http.get(job["urls"]["events"]).text
    assert f'"{PREFIX}/v1/jobs/{job["id"]}"' in events
    assert behind.http.get(f"{base}/openapi.json").json()["servers"] == [{"url": PREFIX}]


def test_webhooks_tell_the_prefix(
    settings: Settings, records: JobRecords, queue: JobQueue, storage: Storage, own_redis: redis.Redis
) -> None:
    """The steward writes the job's URLs as the API does."""
    prefixed = settings.model_copy(update={"http": Http(root_path=PREFIX)})
    outbox = Outbox(own_redis, settings.webhooks)
    dispatcher = Dispatcher(prefixed, outbox, Endpoints(own_redis), records, storage, StewardMetrics())
    spec = accept(records, queue, spec_of())
    event = Event.now(JobEvent.CANCELED, tenant=spec.tenant, job_id=spec.id)
    body = json.loads(dispatcher._body(WebhookRow(id=event.id, event=event, lane="x", url="https://shop.example/", seq=1, attempts=0)))
    assert body["data"]["urls"]["self"] == f"{PREFIX}/v1/jobs/{spec.id}"


def test_the_log_has_the_callers_address(part: Part, behind: Api, stack: LocalStack) -> None:
    """Of a proxy that is trusted the address that it forwards is logged where a key is refused."""
    asked = behind.http.get("/v1/jobs", headers={"Authorization": "Bearer of_nobody", "X-Forwarded-For": "203.0.113.7"})
    assert asked.status_code == 401
    refused = [json.loads(line) for line in part.log.read_text().splitlines() if '"key_refused"' in line]
    assert refused[-1]["client"] == "203.0.113.7"


# -- HEAD ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GETS)
def test_head_is_answered_as_get(api: Api, path: str) -> None:
    """With the status and the headers of GET, and no body, so that the connection can be used again."""
    got, head = api.http.get(path), api.http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    for name in ("content-type", "content-length"):
        assert head.headers.get(name) == got.headers.get(name) or path in ("/metrics", "/v1/usage")
    assert "x-request-id" in head.headers
    assert api.http.get("/healthz").json() == {"status": "ok"}


def test_head_of_a_stream_ends(api: Api, coffee: bytes) -> None:
    """It tells the media type, and follows nothing."""
    job = api.accept(REPLACE, photo=coffee)
    head = api.http.head(job["urls"]["events"])
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_head_of_what_has_no_get_is_refused(api: Api) -> None:
    """405, as GET is, with the methods that there are."""
    answer = api.http.head("/v1/uploads")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# -- the reference ------------------------------------------------------------------------------------------------------------------------


def test_the_reference_needs_no_other_host(behind: Api) -> None:
    """Scripts, styles and the picture of /docs come from the service, under its prefix; there is no second page that comes from elsewhere."""
    page = behind.http.get("/docs").text
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(named) == 3
    for path in named:
        assert path.startswith(f"{PREFIX}/docs/")
        answer = behind.http.get(path)
        assert answer.is_success
        assert len(answer.content) > 500
    assert f"url: '{PREFIX}/openapi.json'" in page
    assert '"validatorUrl": null' in page
    assert behind.http.get("/redoc").status_code == 404
    style = behind.http.get("/docs/swagger-ui.css").text
    assert not re.findall(r"(?:@import|url\()\s*['\"]?https?:", style)


# -- other origins ------------------------------------------------------------------------------------------------------------------------


def preflight(api: Api, origin: str) -> httpx.Response:
    """What a browser asks before it posts with a key."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, idempotency-key",
    }
    return api.http.request("OPTIONS", "/v1/jobs", headers=headers)


def test_pages_of_other_origins_may_not_call(api: Api) -> None:
    """Unless the settings name some."""
    assert preflight(api, ORIGIN).status_code == 405
    assert not [name for name in api.http.get("/healthz", headers={"Origin": ORIGIN}).headers if name.startswith("access-control")]


def test_pages_of_a_named_origin_may_call(behind: Api) -> None:
    """They may send a key, read every header of ours, and are told why they are refused; other origins may not."""
    answer = preflight(behind, ORIGIN)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "access-control-allow-credentials" not in answer.headers
    refused = behind.http.get("/v1/jobs", headers={"Origin": ORIGIN, "Authorization": "Bearer of_nobody"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)
    exposed = {name.strip() for name in refused.headers["access-control-expose-headers"].split(",")}
    assert exposed == set(openapi.HEADER_NAMES) >= {"Location", "Retry-After", "X-Request-Id"}
    other = preflight(behind, "https://evil.example")
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


# -- forms --------------------------------------------------------------------------------------------------------------------------------


def form(*parts: tuple[str, bytes, bytes]) -> dict[str, Any]:
    """A form of parts, each by what its disposition says, its other headers and its bytes."""
    body = b"".join(
        b"--b\r\nContent-Disposition: form-data; %s\r\n%s\r\n%s\r\n" % (said.encode(), more, data) for said, more, data in parts
    )
    return {"content": body + b"--b--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


@pytest.mark.parametrize("said", ['name="{}"', "name=\"{}\"; filename*=utf-8''%D1%84.png"])
@pytest.mark.parametrize("more", [b"", b"Content-Type: image/png\r\n"])
def test_a_file_needs_no_filename(api: Api, coffee: bytes, said: str, more: bytes) -> None:
    """A part that the request names is a file, and so is the part of an upload, whatever is said beside its name (RFC 7578, section 4.2)."""
    request = ('name="request"', b"", json.dumps(REPLACE).encode())
    answer = api.http.post("/v1/jobs", params={"dry_run": True}, **form(request, (said.format("photo"), more, coffee)))
    assert answer.status_code == 200, answer.text
    answer = api.http.post("/v1/uploads", **form((said.format("file"), more, coffee)))
    assert answer.status_code == 201, answer.text


def test_a_part_without_filename_that_nothing_names_is_refused_with_both_reasons(api: Api, coffee: bytes) -> None:
    """It may be an option in the wrong place, or a file that the request forgot."""
    request = ('name="request"', b"", json.dumps(REPLACE).encode())
    for number, data in enumerate((b"erase", coffee)):
        answer = api.http.post("/v1/jobs", **form(request, ('name="photo"', b"", coffee), (f'name="extra{number}"', b"", data)))
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["field"]) == (422, "unknown_field", f"extra{number}")
        assert "filename" in problem["detail"]
        assert "inside the part named request" in problem["detail"]


def test_an_upload_is_one_part(api: Api) -> None:
    """Two of one name, and none, are told apart."""
    file, named = (('name="file"', b"", png_header(8, 8)), ('name="file"; filename="x"', b"", png_header(8, 8)))
    for twice in ((file, file), (file, named), (named, named)):
        answer = api.http.post("/v1/uploads", **form(*twice))
        assert (answer.status_code, answer.json()["detail"], answer.json()["field"]) == (422, "two parts have this name", "file")
    answer = api.http.post("/v1/uploads", **form())
    assert (answer.status_code, answer.json()["code"]) == (422, "missing_field")


def test_a_stack_starts_with_empty_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A list of keys that is empty is none."""
    monkeypatch.setenv("OUTFILL_AUTH__KEYS", "")
    stack = LocalStack(StackOptions(tmp_path))
    assert [key["tenant"] for key in json.loads(stack.environment()["OUTFILL_AUTH__KEYS"])] == ["local"]
    stack.stop()
