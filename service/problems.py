"""Errors as problem+json (RFC 9457), all of them in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match, Route

from api_schemas.errors import (
    BodyTooSlow,
    Invalid,
    InvalidJson,
    MalformedForm,
    MissingField,
    MissingScope,
    OutfillError,
    PayloadTooLarge,
    Problem,
    TooManyQueued,
    Unauthenticated,
    Unavailable,
    UnknownField,
)
from api_schemas.requests import FAULT, Operation
from core.queue import trouble, words
from service.hints import meant

_log = structlog.get_logger(__name__)

_FAULTS: dict[str, type[Invalid]] = {"extra_forbidden": UnknownField, "missing": MissingField, "json_invalid": InvalidJson}
"""Faults that pydantic tells apart and callers may want to; all others are ``Invalid``."""
_MESSAGES = {"extra_forbidden": "there is no such field", "missing": "this field is required"}
_REDIS = {
    "full": "the queue is full: what is there can be read, canceled and deleted, and nothing new is taken",
    "loading": "the queue is starting",
    "read_only": "the queue is being moved",
}
"""What callers are told of Redis; the rest is its operator's."""
_LONGEST = 1000
_CLIENT_CLOSED = 499
"""For the log alone, as proxies write it: nobody is there to be answered, and it is no fault of ours."""
_PARAMETERS = {"query", "header"}
_HEADS = {*_PARAMETERS, *Operation}
"""What pydantic and FastAPI put before the field."""


def invalid(error: ValidationError | RequestValidationError, bodies: Mapping[str | None, type[BaseModel]] | None = None) -> Invalid:
    """The first fault that pydantic found, with the field in the caller's words.

    ``bodies`` are the models that may have been read, by their operation (``None``: by none): of one's fields a misspelt one is told.
    """
    faults = error.errors()
    # A misspelt field explains a missing one, so it is told first.
    first: dict[str, Any] = dict(next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0]))
    parts = _place(first)
    if first["type"] == FAULT:  # of two fields that do not go together
        parts.append(first["ctx"]["field"])
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        parts, first["msg"] = ["operation"], f"must be one of {', '.join(Operation)}"
    message = _MESSAGES.get(first["type"]) or str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden" and bodies:
        head = first["loc"][0]
        message += meant(bodies[head if head in bodies else None], parts, bodies)
    return _FAULTS.get(first["type"], Invalid)(message, field=".".join(map(str, parts)) or None)


def _place(fault: Mapping[str, Any]) -> list[str | int]:
    """Where a fault is, in names that callers know."""
    place = list(fault["loc"])
    head = place.pop(0) if place[:1] and place[0] in _HEADS else None
    own = [place.pop()] if place and (head in _PARAMETERS or fault["type"] == "extra_forbidden") else []  # it may look like one of ours
    return [part for part in place if not _is_union_member(part)] + own


def _is_union_member(part: object) -> bool:
    # pydantic names the types of a union; callers know no types of ours.
    return isinstance(part, str) and (part[:1].isupper() or part in {"str", "int", "float", "bool"})


def problem(error: OutfillError, request_id: str | None) -> JSONResponse:
    """The answer for an error."""
    body = Problem(
        type="about:blank",
        title=error.title,
        status=error.status,
        detail=_short(error.detail),
        code=error.code,
        field=error.field and _short(error.field),
        request_id=request_id,
    )
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, (PayloadTooLarge, BodyTooSlow)):  # else the rest of the body would be read, to no end
        headers["Connection"] = "close"
    if isinstance(error, MissingScope):  # RFC 6750, section 3.1
        headers["WWW-Authenticate"] = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, TooManyQueued):
        headers |= {"RateLimit-Policy": f'"queued_jobs";q={error.limit}', "RateLimit": '"queued_jobs";r=0'}
    return JSONResponse(body.model_dump(exclude_none=True), error.status, headers, "application/problem+json")


def _short(text: str) -> str:
    """What a caller sent comes back in full only where it is no longer than a line or two."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def request_id(request: Request) -> str | None:
    """The id that the middleware gave the request."""
    return getattr(request.state, "request_id", None)


def _methods(request: Request, routes: Sequence[BaseRoute]) -> list[str]:
    """The methods of a path, which may have several routes. Starlette tells only those of the first."""
    own = [route for route in routes if isinstance(route, Route)]
    path = next((route.path for route in own if route.matches(request.scope)[0] is not Match.NONE), None)
    found = {method for route in own if route.path == path for method in route.methods or ()}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make every error of ``app``, which has these ``routes``, a problem."""

    @app.exception_handler(OutfillError)
    async def _known(request: Request, error: OutfillError) -> JSONResponse:
        return problem(error, request_id(request))

    @app.exception_handler(RequestValidationError)
    async def _refused(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(invalid(error), request_id(request))

    @app.exception_handler(RedisError)
    async def _redis_down(request: Request, error: RedisError) -> JSONResponse:
        _log.error("redis_failed", error=words(error))
        return problem(Unavailable(_REDIS.get(trouble(error).partition(":")[0], "the queue does not answer")), request_id(request))

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == MalformedForm.status:  # Starlette's form parser
            return problem(MalformedForm(error.detail), request_id(request))
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request, routes)) or headers["Allow"]
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        body = Problem(
            type="about:blank",
            title=str(error.detail),
            status=error.status_code,
            detail=str(error.detail),
            code=code,
            request_id=request_id(request),
        )
        return JSONResponse(body.model_dump(exclude_none=True), error.status_code, headers, "application/problem+json")

    @app.exception_handler(Exception)
    async def _unknown(request: Request, error: Exception) -> JSONResponse:
        _log.exception("request_failed", exc_info=error)
        answer = problem(OutfillError("something went wrong here; it was logged"), asked := request_id(request))
        answer.headers["x-request-id"] = asked or ""  # sent past the middleware that adds it to all others
        return answer
