"""Around every request: an id, a count, a line in the audit log, a head that can be read in one way, and limits on the body."""

from __future__ import annotations

import asyncio
import re
import time
from urllib.parse import unquote_to_bytes
from weakref import WeakValueDictionary

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from api_schemas.errors import BodyTooSlow, Invalid, PayloadTooLarge
from service.forms import is_utf8
from service.metrics import ApiMetrics
from service.problems import problem
from service.threads import OURSELVES, BodyBytes, Pace, Place

_log = structlog.get_logger(__name__)


_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Of others callers can make up as many as they like, and each would be series of its own."""
_ONCE = frozenset(
    {b"authorization", b"content-length", b"content-type", b"host", b"idempotency-key", b"last-event-id", b"prefer", b"transfer-encoding"}
)
"""Headers of which one would be ignored if there were two."""
_MOST_PARAMETERS = 50
"""Each one too many is an error of its own."""
_LONG = 2**16
"""Bytes of a body that are read to their end though nobody wants them, so that the connection can be used again."""
_SLASHES = re.compile(rb"%2f|%5c|\\", re.IGNORECASE)
"""What a proxy may take for one part of a path and the next reader for two."""


class RequestContext:
    """Gives each request an id (``x-request-id``), bound to its log lines, counts it by route, and logs whose key it used."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{ULID()}"
        status, began = 500, time.perf_counter()
        scope.setdefault("state", {}).update(request_id=request_id, began=began)

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = {"x-request-id": request_id, **scope["state"].get("rate_limit", {})}
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.lower().encode(), value.encode()) for name, value in told.items()),
                ]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, tell)
            finally:
                route = getattr(scope.get("route"), "path", "unmatched")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(method, route, status).inc()
                waited = scope["state"].get("waited_s", 0.0)
                seconds = time.perf_counter() - began - waited
                self._metrics.request_seconds.labels(method, route).observe(seconds)
                if used := scope["state"].get("key"):  # the audit log: which key did what, and with what result
                    _log.info("key_used", **used, method=scope["method"], path=scope["path"], status=status, seconds=round(seconds, 4))


class HeadAsGet:
    """Answers HEAD where GET is answered, with the same headers and no body; a stream ends with its head."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ended = asyncio.Event()

        async def until_ended() -> Message:
            coming = asyncio.ensure_future(receive())
            ending = asyncio.ensure_future(ended.wait())
            try:
                await asyncio.wait((coming, ending), return_when=asyncio.FIRST_COMPLETED)
                return coming.result() if coming.done() and not ended.is_set() else {"type": "http.disconnect"}
            finally:
                coming.cancel()
                ending.cancel()

        async def head_alone(message: Message) -> None:
            if ended.is_set():
                return
            if message["type"] == "http.response.body":
                ended.set()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        got = {**scope, "method": "GET"}  # who reads the scope outside still sees what was asked for
        await self._app(got, until_ended, head_alone)
        scope["route"] = got.get("route")


class PlainHead:
    """Refuses by name what two readers may read differently: text that is not UTF-8, slashes that are written as letters, headers that come twice."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := _fault(scope)) is not None:
            answer = problem(error, scope["state"]["request_id"])
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _fault(scope: Scope) -> Invalid | None:
    """What is wrong with the head of a request."""
    path = scope.get("raw_path") or scope["path"].encode()
    if _SLASHES.search(path):
        return Invalid("no part of the path may hold a slash or a backslash", field="path")
    if not is_utf8(unquote_to_bytes(path)):
        return Invalid("the path is not UTF-8", field="path")
    if (fault := _query_fault(scope["query_string"])) is not None:
        return fault
    seen: set[bytes] = set()
    for name, value in scope["headers"]:
        if name in seen and name in _ONCE:
            return Invalid("send it once", field=_title(name))
        if not is_utf8(value):
            return Invalid("the header is not UTF-8", field=_title(name))
        seen.add(name)
    if {b"content-length", b"transfer-encoding"} <= seen:
        return Invalid("a body has either a length or an encoding for its transfer", field="Content-Length")
    return None


def _query_fault(query: bytes) -> Invalid | None:
    if query.count(b"&") >= _MOST_PARAMETERS:
        return Invalid(f"there may be {_MOST_PARAMETERS} parameters", field="query")
    for pair in query.split(b"&") if b"%" in query or not query.isascii() else ():
        name, value = (unquote_to_bytes(part) for part in pair.partition(b"=")[::2])
        if not is_utf8(name):
            return Invalid("the name of a parameter is not UTF-8", field="query")
        if not is_utf8(value):
            return Invalid("the parameter is not UTF-8", field=name.decode())
    return None


def _title(name: bytes) -> str:
    return name.decode("latin-1").title().replace("-Id", "-ID")


class BodyLimit:
    """Refuses bodies beyond a number of bytes, by their declared length or while they arrive, those that arrive too slowly, and those for which there is
    no room beside the others of their tenant.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float, room: BodyBytes, pace: Pace) -> None:
        self._app = app
        self._pace = pace
        self._gates: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        written = dict(scope["headers"]).get(b"content-length", b"0")
        declared = int(written) if written.isdigit() else 0
        too_large = PayloadTooLarge(f"the body may have {self._max_bytes} bytes")
        if declared > self._max_bytes:
            await problem(too_large, scope["state"]["request_id"])(scope, receive, send)
            return
        is_long = declared > _LONG or any(name == b"transfer-encoding" for name, _ in scope["headers"])
        body = _Body(receive, send, declared, self._timeout_s, is_long=is_long)
        with Place(self._room, lambda: scope["state"].get("tenant", OURSELVES)) as place:
            scope["state"]["release_body"] = place.release

            async def counted() -> Message:
                message = await body.receive(place)
                if body.received > self._max_bytes:
                    raise too_large
                if message.get("more_body"):
                    await self._in_turn(scope["state"].get("tenant", OURSELVES), len(message["body"]))
                return message

            await self._app(scope, counted, body.send)

    async def _in_turn(self, tenant: str, count: int) -> None:
        """Let one piece of all bodies of a tenant pass in a round of the loop, so that however many come at once the others' requests are answered between;
        and no more than its bytes a second.
        """
        gate = self._gates.setdefault(tenant, asyncio.Lock())
        async with gate:
            await asyncio.sleep(0)
        if (wait_s := self._pace.wait_s(tenant, count)) > 0:
            await asyncio.sleep(wait_s)


class _Body:
    """A body, while it arrives."""

    def __init__(self, receive: Receive, send: Send, declared: int, timeout_s: float, *, is_long: bool) -> None:
        self._is_long = is_long
        self._receive, self._send, self._declared, self._timeout_s = receive, send, declared, timeout_s
        self._deadline: float | None = None
        """Set at the first look at the body: looking the key up is not the caller's time."""
        self._arriving = True
        self._held = self.received = 0

    async def receive(self, place: Place) -> Message:
        """What comes next, which holds its place. Raises ``BodyTooSlow`` and ``TooManyAtOnce``."""
        if not self._arriving:  # who listens after the body waits for the caller to leave
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._timeout_s
            self._hold(place, self._declared)
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlow(f"the body did not arrive in {self._timeout_s:g} s") from None
        self._arriving = message.get("more_body", False)
        self.received += len(message.get("body", b""))
        self._hold(place, self.received)  # more than it has declared, if it declares no length
        return message

    def _hold(self, place: Place, count: int) -> None:
        if count > self._held:
            place.hold(count - self._held)
            self._held = count

    async def send(self, message: Message) -> None:
        """Send some of the answer, and close the connection with it where the rest of the body would be read to no end."""
        if self._arriving and (self._is_long or self._deadline is not None) and message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", []) if name.lower() != b"connection"]
            message["headers"] = [*kept, (b"connection", b"close")]
        await self._send(message)
