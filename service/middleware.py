"""Around every request: an id, a count, a line in the audit log, and limits on the body."""

from __future__ import annotations

import asyncio
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from api_schemas.errors import BodyTooSlow, PayloadTooLarge
from service.metrics import ApiMetrics
from service.problems import problem

_log = structlog.get_logger(__name__)


_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Of others callers can make up as many as they like, and each would be series of its own."""


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
        scope.setdefault("state", {})["request_id"] = request_id
        status, began = 500, time.perf_counter()

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


class BodyLimit:
    """Refuses bodies beyond a number of bytes, by their declared length or while they arrive, and those that arrive too slowly."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        error = PayloadTooLarge(f"the body may have {self._max_bytes} bytes")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await problem(error, scope["state"]["request_id"])(scope, receive, send)
            return
        received, arriving = 0, True
        clock = asyncio.get_running_loop().time
        deadline: float | None = None

        async def counted() -> Message:
            nonlocal received, arriving, deadline
            if not arriving:  # who listens after the body waits for the caller to leave
                return await receive()
            deadline = deadline or clock() + self._timeout_s  # from the first look at the body: looking the key up is not the caller's time
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow(f"the body did not arrive in {self._timeout_s:g} s") from None
            arriving = message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise error
            return message

        await self._app(scope, counted, send)
