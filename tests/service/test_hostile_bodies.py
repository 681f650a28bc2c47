"""Bodies and headers that are meant to hurt are refused soon, with an answer that says why, and cost little."""

from __future__ import annotations

import asyncio
import base64
import json
import select
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import NEIGHBOUR_KEY, Api, png
from fastapi.testclient import TestClient

from core.settings import ApiKey, Settings
from service.app import create_app
from service.keys import new_webhook_secret, settings_entry
from service.local import LocalStack

ERASE = {"operation": "erase", "image": "file:photo", "mask": "file:mask"}
BODY_LIMIT = 24 * 2**20


def code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_a_chunked_body_is_counted_while_it_arrives(api: Api) -> None:
    """A body that declares no length is refused once it is too long, and not read to its end."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 8 * BODY_LIMIT:
            sent += 2**20
            yield b"x" * 2**20

    try:
        answer = api.http.post("/v1/jobs", content=endless(), headers={"content-type": "application/json"})
        assert code(answer) == (413, "payload_too_large")
    except httpx.NetworkError:  # the answer came, and the connection was closed under the rest of the body
        pass
    assert sent < 4 * BODY_LIMIT


@pytest.mark.parametrize(
    "body",
    [
        b'{"operation":"erase",' + b",".join(b'"k%d":1' % number for number in range(200_000)) + b"}",
        b'{"operation":"erase","loras":[' + b"1," * 200_000 + b"1]}",
        b'{"operation":"erase","metadata":{' + b",".join(b'"k%d":[]' % number for number in range(200_000)) + b"}}",
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/job_01JD0000000000000000000000/repeat"])
def test_json_of_countless_values_is_refused_before_it_is_parsed(api: Api, body: bytes, path: str) -> None:
    """Each unknown field would be an error of its own; so many are none of a request's."""
    answer = api.http.post(path, content=body, headers={"content-type": "application/json"})
    assert code(answer) == (422, "invalid_json")


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 9_000, b'{"operation":"erase","image":' + b"[" * 50_000])
def test_deep_nesting_is_refused(api: Api, body: bytes) -> None:
    """No recursion follows the caller's brackets."""
    answer = api.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert code(answer)[0] == 422


def test_too_many_parts_are_refused(api: Api) -> None:
    """A multipart body has at most eight files and eight texts."""
    files = [("photo", (f"{number}.png", b"x")) for number in range(2000)]
    answer = api.http.post("/v1/jobs", data={"request": json.dumps(ERASE)}, files=files)
    assert code(answer) == (400, "invalid_request")
    fields = {f"field{number}": "x" for number in range(2000)}
    assert code(api.http.post("/v1/jobs", data=fields, files={"photo": b"x"})) == (400, "invalid_request")


def test_part_headers_are_limited(api: Api) -> None:
    """A part's headers are not collected without end."""
    body = b"--b\r\n" + b"X-Long: " + b"y" * 2**20 + b'\r\nContent-Disposition: form-data; name="request"\r\n\r\n{}\r\n--b--\r\n'
    answer = api.http.post("/v1/jobs", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert code(answer) == (400, "invalid_request")


def test_what_a_caller_sent_is_not_sent_back_in_full(api: Api) -> None:
    """A name of a megabyte is cut short in the answer."""
    answer = api.http.post("/v1/jobs", json={**ERASE, "k" * 2**20: 1})
    assert code(answer) == (422, "unknown_field")
    assert len(answer.content) < 4096


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", "x" * 4001), ("model", "m" * 129), ("webhook", {"url": "https://a.example/" + "x" * 2048}), ("metadata", {"k" * 3000: 1})],
)
def test_strings_are_limited(api: Api, field: str, value: Any) -> None:
    """Every string but an image has a length, and the field is named."""
    request = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", field: value}
    answer = api.post(request, photo=b"x", mask=b"x")
    assert code(answer) == (422, "invalid_request")
    assert answer.json()["field"].startswith(field)


def test_huge_headers_are_refused(stack: LocalStack) -> None:
    """The server takes 64 kB of headers and no more, from whomever."""
    with socket.create_connection(("127.0.0.1", stack.api_port), timeout=20) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        answer = b""
        try:
            for _ in range(64):
                connection.sendall(b"X-Long: " + b"y" * 16_000 + b"\r\n")
            answer = connection.recv(4096)
        except (BrokenPipeError, ConnectionResetError):  # it has answered and hung up
            return
    assert answer.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_a_body_that_trickles_is_given_up(settings: Settings, stack: LocalStack) -> None:
    """A body that has not arrived in time is 408."""
    impatient = settings.model_copy(update={"limits": settings.limits.model_copy(update={"body_timeout_s": 0.2})})
    headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {stack.api_key}".encode())]
    with TestClient(create_app(impatient)) as client:  # for its lifespan
        answer = asyncio.run(trickle(client.app, headers))
    assert (answer[0]["status"], json.loads(answer[1]["body"])["code"]) == (408, "body_too_slow")


async def trickle(app: Any, headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """What an application answers to a body of which one byte comes and then nothing."""
    arriving = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    answer: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        for message in arriving:
            return message
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never

    async def send(message: Any) -> None:
        answer.append(message)

    scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/v1/jobs", "raw_path": b"/v1/jobs"}
    more = {"query_string": b"", "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    await app({**scope, **more}, receive, send)
    return answer


@pytest.fixture
def room(settings: Settings) -> Iterator[tuple[Any, Any]]:
    """An application of this process, where a tenant may hold one body of the largest size and a quarter, and a caller of it."""
    share = {"max_body_bytes": 8000, "body_bytes_in_flight_per_tenant": 10_000, "body_bytes_in_flight": 40_000}
    neighbour = ApiKey.model_validate(settings_entry("neighbour", NEIGHBOUR_KEY, new_webhook_secret()))
    auth = settings.auth.model_copy(update={"keys": (*settings.auth.keys, neighbour)})
    narrow = settings.model_copy(update={"limits": settings.limits.model_copy(update=share), "auth": auth})
    app = create_app(narrow)
    with TestClient(app):  # for its lifespan
        yield app, app.state.services.bodies


class Arriving:
    """A request whose body comes when the test says so."""

    def __init__(self, app: Any, key: str, *, declared: int | None = None, path: str = "/v1/jobs", prefer: bytes = b"") -> None:
        headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {key}".encode())]
        headers += [(b"content-length", str(declared).encode())] if declared is not None else []
        headers += [(b"prefer", prefer)] if prefer else []
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode()}
        more = {"query_string": b"", "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
        self.answer: list[Any] = []
        self.asked = 0
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.task = asyncio.create_task(app({**scope, **more}, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self._messages.get()

    async def _send(self, message: Any) -> None:
        self.answer.append(message)

    async def send(self, body: bytes, *, more: bool = True) -> None:
        """Let some of it arrive."""
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        """Hang up."""
        self._messages.put_nowait({"type": "http.disconnect"})

    async def code(self) -> tuple[int, str, bool]:
        """What was answered, and whether the connection is closed with it."""
        await asyncio.wait_for(self.task, 60)
        closes = (b"connection", b"close") in self.answer[0]["headers"]
        return self.answer[0]["status"], json.loads(self.answer[1]["body"])["code"], closes


async def until(look: Any) -> None:
    """Until it is so."""
    async with asyncio.timeout(60):
        while not look():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)


def test_bodies_of_a_tenant_share_their_room(room: tuple[Any, Any], stack: LocalStack) -> None:
    """A declared length is reserved at once: the next body that has no room beside it is 429 and its connection is closed, another tenant's is taken in, and what
    has ended, by an answer or by hanging up, has given its bytes back.
    """
    app, held = room

    async def run() -> None:
        first = Arriving(app, stack.api_key, declared=8000)
        await until(lambda: held.taken("local") == 8000)
        assert await Arriving(app, stack.api_key, declared=4000).code() == (429, "too_many_at_once", True)
        other = Arriving(app, NEIGHBOUR_KEY, declared=4000)
        await until(lambda: held.taken("neighbour") == 4000)
        await other.send(b"{", more=False)
        assert (await other.code())[:2] == (422, "invalid_json")
        assert (held.taken("neighbour"), held.taken("local")) == (0, 8000)
        first.leave()
        await asyncio.wait([first.task])
        assert held.taken("local") == 0
        assert first.answer[0]["status"] == 499  # in the log: it is no fault of ours

    asyncio.run(run())


def test_images_that_a_request_names_count_as_its_body_does(room: tuple[Any, Any], stack: LocalStack, api: Api) -> None:
    """What is fetched and what is read of an upload has a place beside the tenant's bodies, or is 429."""
    app, held = room
    noise = png(np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8))
    upload = api.http.post("/v1/uploads", files={"file": noise}).raise_for_status().json()["source"]

    async def run(url: str) -> None:
        for source in (url, upload):
            body = json.dumps({"operation": "remove_background", "image": source, "model": "u2netp"}).encode()
            first = Arriving(app, stack.api_key, declared=8000)
            await until(lambda: held.taken("local") == 8000)
            second = Arriving(app, stack.api_key, declared=len(body))
            await second.send(body, more=False)
            assert await second.code() == (429, "too_many_at_once", False)
            first.leave()
            await asyncio.wait([first.task])
            third = Arriving(app, stack.api_key, declared=len(body))
            await third.send(body, more=False)
            await asyncio.wait_for(third.task, 60)
            assert third.answer[0]["status"] == 202
            assert held.taken("local") == 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(noise)))
            self.end_headers()
            self.wfile.write(noise)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            asyncio.run(run(f"http://127.0.0.1:{server.server_port}/photo"))
        finally:
            server.shutdown()
            thread.join()


def test_a_body_without_a_length_is_counted_as_it_grows(room: tuple[Any, Any], stack: LocalStack) -> None:
    """Two chunked bodies take what has come of them; the one that finds no more room is 429, and the other one goes on."""
    app, held = room

    async def run() -> None:
        first, second = Arriving(app, stack.api_key), Arriving(app, stack.api_key)
        for each in (first, second):
            await each.send(b" " * 4000)
        await until(lambda: held.taken("local") == 8000)
        await second.send(b" " * 3000)
        assert await second.code() == (429, "too_many_at_once", True)
        assert held.taken("local") == 4000
        await first.send(b" " * 3000, more=False)
        assert (await first.code())[:2] == (422, "invalid_json")
        assert held.taken("local") == 0

    asyncio.run(run())


def test_nothing_is_gathered_without_a_good_key(room: tuple[Any, Any]) -> None:
    """Not a byte of the body is asked for."""
    app, held = room

    async def run() -> None:
        for path in ("/v1/jobs", "/v1/uploads", "/v1/webhooks"):
            request = Arriving(app, "of_nobody", declared=8000, path=path)
            assert await request.code() == (401, "unauthenticated", False)
            assert request.asked == 0
        assert held.taken("") == 0

    asyncio.run(run())


def test_who_waits_for_a_job_holds_no_body(room: tuple[Any, Any], stack: LocalStack) -> None:
    """Once a job is accepted the bytes of its request are free for the next, while its caller still waits for the end."""
    app, held = room
    services = app.state.services
    picture = "data:image/png;base64," + base64.b64encode(png(np.zeros((8, 8, 3), np.uint8))).decode()
    body = json.dumps({"operation": "remove_background", "image": picture}).encode()

    async def run() -> None:
        waiting: list[int] = []

        async def until_terminal(*_: Any) -> None:
            waiting.append(held.taken("local"))

        services.listeners.until_terminal = until_terminal
        request = Arriving(app, stack.api_key, declared=len(body), prefer=b"wait=60")
        await until(lambda: held.taken("local") == len(body))
        await request.send(body, more=False)
        await asyncio.wait_for(request.task, 60)
        assert request.answer[0]["status"] == 202
        assert waiting == [0]

    asyncio.run(run())


def long_url() -> str:
    """A data URL that is read beside the JSON: a picture of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    return "data:image/png;base64," + base64.b64encode(png(noise)).decode()


@pytest.mark.parametrize("slash", ["/", "\\/"], ids=["plain", "as PHP writes it"])
def test_long_data_urls_reach_their_fields(api: Api, slash: str) -> None:
    """Two in one request, and texts around them that look like them."""
    url, mask = long_url(), np.zeros((200, 300), np.uint8)
    mask[50:100] = 255
    noisy = np.dstack([mask] * 3 + [np.random.default_rng(1).integers(0, 255, mask.shape, np.uint8)])
    request = {
        "metadata": {"a": '"data:image/png;base64,\\"', "b": "data:x"},
        "operation": "erase",
        "image": url,
        "mask": "data:image/png;base64," + base64.b64encode(png(noisy)).decode(),
        "mask_options": {"polarity": "white_edits"},
    }
    text = json.dumps(request).replace("/", slash)
    answer = api.http.post("/v1/jobs?dry_run=true", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"metadata": {"order": "URL"}}, "metadata.order"),
        ({"prompt": "URL"}, "prompt"),
        ({"loras": [{"name": "URL"}]}, "loras.0.name"),
        ({"URL": 1}, None),
    ],
)
def test_a_long_data_url_where_no_image_goes_is_refused(api: Api, more: dict[str, Any], field: str | None) -> None:
    """By its field, as any text that is too long."""
    request = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", **more}
    text = json.dumps(request).replace("URL", long_url())
    answer = api.http.post("/v1/jobs", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert field is None or answer.json()["field"] == field
    assert len(answer.content) < 4096


@pytest.mark.parametrize("key", ["", "Authorization: Bearer nobody\r\n"], ids=["without a key", "by an unknown key"])
def test_a_body_in_crumbs_is_ended(stack: LocalStack, key: str) -> None:
    """Chunks of a byte each, whose reading would take a core, are 400 or cut off, whoever sends them; and the next caller is answered."""
    crumbs = b"1\r\n \r\n" * 20_000
    with socket.create_connection(("127.0.0.1", stack.api_port), timeout=30) as connection:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n{key}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        try:
            for piece in (head.encode(), *[crumbs] * 20):
                connection.sendall(piece)
            while connection.recv(2**16):
                pass
        except (BrokenPipeError, ConnectionResetError):  # it has answered and hung up
            pass
    assert httpx.get(f"{stack.url}/healthz", timeout=30).status_code == 200


def test_a_chunked_body_of_ordinary_pieces_is_read(api: Api) -> None:
    """Many pieces of a few kilobytes are as good as one."""
    text = json.dumps({"operation": "outpaint", "image": long_url(), "expand": {"left": 8}}).encode()
    pieces = (text[begin : begin + 2048] for begin in range(0, len(text), 2048))
    answer = api.http.post("/v1/jobs?dry_run=true", content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_a_query_of_many_parameters_is_refused(api: Api) -> None:
    """Fifty may be; a long list of names costs nothing."""
    answer = api.http.get("/v1/jobs?" + "&".join(f"a{number}" for number in range(10_000)))
    assert code(answer) == (422, "invalid_request")
    assert answer.json()["field"] == "query"


def raw(stack: LocalStack, *packets: bytes) -> bytes:
    """Bytes that come back on a connection that sends these packets, until the service closes it."""
    with socket.create_connection(("127.0.0.1", stack.api_port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            connection.sendall(packet)
            select.select([connection], [], [], 0.1)  # the next is one of its own
        answer = bytearray()
        while piece := connection.recv(2**16):
            answer += piece
        return bytes(answer)


@pytest.mark.parametrize("packets", [1, 2, 7])
@pytest.mark.parametrize(("size", "status"), [(60_000, b"401"), (70_000, b"431"), (120_000, b"431")])
def test_a_head_is_refused_by_its_size_however_it_is_cut(stack: LocalStack, packets: int, size: int, status: bytes) -> None:
    """64 kB are read, more are 431 with a reason, in one packet as in several, and the answer arrives."""
    head = b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: " + b"x" * size + b"\r\n\r\n"
    step = -(-len(head) // packets)
    answer = raw(stack, *(head[begin : begin + step] for begin in range(0, len(head), step)))
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == int(status)


def test_the_answer_to_a_body_too_large_arrives_while_it_is_sent(stack: LocalStack) -> None:
    """413 is read to its end by a caller who sends on, and no reset takes it away."""
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
    answer = raw(stack, head, *[b" " * 2**16] * 8)
    assert answer.startswith(b"HTTP/1.1 413"), answer[:200]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "payload_too_large"


def test_bytes_that_are_not_http_are_refused_by_name(stack: LocalStack) -> None:
    """Problem+json with a reason, as every other refusal."""
    answer = raw(stack, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100)
    assert answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert b"application/problem+json" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"] == "the request is not HTTP/1.1"


@pytest.mark.parametrize("packets", [1, 50])
def test_blanks_around_a_header_count(stack: LocalStack, packets: int) -> None:
    """A head that is long by blanks alone, which a parser drops, is 431 in one packet as in many."""
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Blank: " + b" " * 100_000 + b"x\r\n\r\n"
    step = -(-len(head) // packets)
    assert raw(stack, *(head[begin : begin + step] for begin in range(0, len(head), step))).startswith(b"HTTP/1.1 431")


def test_a_refused_head_request_has_no_body(stack: LocalStack) -> None:
    """HEAD with a head too large is 431 without a body, and its connection ends in order."""
    answer = raw(stack, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431")
    assert answer.endswith(b"\r\n\r\n")


def test_a_body_that_breaks_off_leaves_no_trace_in_the_log(stack: LocalStack) -> None:
    """A malformed chunk, with a key and without, is 400, and no error of the service: nobody fills its log."""
    before = stack.parts["api"].log.read_text(errors="replace").count("Traceback")
    for key in ("", f"Authorization: Bearer {stack.api_key}\r\n"):
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n{key}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert raw(stack, head.encode() + b"zz\r\n").startswith(b"HTTP/1.1 40")
        assert raw(stack, head.encode(), b"2\r\n{}\r\n", b"zz\r\n").startswith(b"HTTP/1.1 40")
    assert stack.parts["api"].log.read_text(errors="replace").count("Traceback") == before
