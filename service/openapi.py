"""The OpenAPI document: what FastAPI reads off the routes, and what it cannot: how each refuses, response headers, what leads where."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from api_schemas.errors import (
    AnimatedImage,
    BodyTooSlow,
    ImageCorrupt,
    ImageTooCostly,
    ImageTooLarge,
    Invalid,
    InvalidJson,
    MalformedForm,
    MissingField,
    MissingScope,
    NotAnImage,
    OutfillError,
    PayloadTooLarge,
    RateLimited,
    TooMany,
    TooManyAtOnce,
    Unauthenticated,
    Unavailable,
    UnknownField,
    UnsupportedFormat,
)
from service import bodies
from service import reference_prose as prose

Responses = dict[int | str, dict[str, Any]]
Errors = tuple[type[OutfillError], ...]

BODY: Errors = (BodyTooSlow, PayloadTooLarge, MissingField)
"""What a route raises that reads a body;"""
JSON_BODY: Errors = (*BODY, InvalidJson)
FORM_BODY: Errors = (*BODY, MalformedForm)
IMAGE: Errors = (NotAnImage, UnsupportedFormat, AnimatedImage, ImageTooLarge, ImageTooCostly, ImageCorrupt)
"""and one that reads the header of an image."""
_EVERY_ROUTE: Errors = (Unauthenticated, MissingScope, Invalid, UnknownField, RateLimited, TooManyAtOnce, Unavailable)

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "Names the request in the logs.",
        "required": True,
        "schema": {"type": "string", "pattern": "^req_[0-9A-Z]{26}$"},
    },
    "RateLimit-Policy": {
        "description": "What the key may do: `q` requests in `w` seconds (draft-ietf-httpapi-ratelimit-headers). Only where it has a limit.",
        "schema": {"type": "string", "pattern": '^"(requests";q=[0-9]+;w=60|queued_jobs";q=[0-9]+)'},
    },
    "RateLimit": {
        "description": "What it has left: `r` requests now, and all of them in `t` seconds. Only where it has a limit.",
        "schema": {"type": "string", "pattern": '^"(requests";r=[0-9]+;t=[0-9]+|queued_jobs";r=0)'},
    },
    "Retry-After": {
        "description": "Seconds after which the same request may succeed.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "`Bearer`; where the key lacks a scope, with that scope (RFC 6750).",
        "required": True,
        "schema": {"type": "string", "pattern": "^Bearer"},
    },
    "Location": {"description": "The path of the job.", "required": True, "schema": {"type": "string", "pattern": "^/v1/jobs/job_"}},
    "Preference-Applied": {
        "description": "`wait=N`, where `Prefer` asked for it.",
        "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
    },
}
HEADER_NAMES = tuple(_HEADERS)
"""What answers say in headers of ours."""
_PROBLEM = "#/components/schemas/Problem"


def headers(*names: str) -> dict[str, Any]:
    """Response headers, as a response refers to them."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def optional(name: str) -> dict[str, Any]:
    """A response header that is not always there."""
    return {name: {**_HEADERS[name], "required": False}}


def links(parameter: str, value: str, *operations: str) -> dict[str, Any]:
    """Where an answer leads: operations whose path parameter is in it, at ``value`` (a runtime expression)."""
    return {operation: {"operationId": operation, "parameters": {parameter: value}} for operation in operations}


def refusals(*errors: type[OutfillError]) -> Responses:
    """The ``responses`` of a route under /v1 that raises ``errors``, beside those that each raises: one for each status, with its codes."""
    by_status: defaultdict[int, list[type[OutfillError]]] = defaultdict(list)
    for error in (*_EVERY_ROUTE, *errors):
        by_status[error.status].append(error)
    return {status: refusal(*raised) for status, raised in sorted(by_status.items())}


def refusal(*errors: type[OutfillError]) -> dict[str, Any]:
    """The response of one status."""
    status, meanings = errors[0].status, {error.code: (error.__doc__ or "").partition("\n\n")[0] for error in errors}
    exactly = {"properties": {"status": {"const": status}, "code": {"enum": list(meanings)}}}
    return {
        "description": "\n".join(f"- `{code}`: {meaning}" for code, meaning in meanings.items()),
        "headers": _headers_of(status, errors),
        "content": {"application/problem+json": {"schema": {"$ref": _PROBLEM, **exactly}}},
    }


def _headers_of(status: int, errors: Errors) -> dict[str, Any]:
    told = headers("WWW-Authenticate") if status in (Unauthenticated.status, MissingScope.status) else {}
    come_back = [error.retry_after_s is not None or issubclass(error, TooMany) for error in errors]
    if any(come_back):
        told |= headers("Retry-After") if all(come_back) else optional("Retry-After")
    return told


ODD_HEAD: Responses = {Invalid.status: refusal(Invalid)}
"""How every route refuses a head that is not plain (service/middleware.py)."""


def operation_id(route: APIRoute) -> str:
    """The name of an operation, by which links and generated clients call it: ``jobs_create``."""
    return f"{route.tags[0]}_{route.name}" if route.tags else route.name


def document(app: FastAPI) -> dict[str, Any]:
    """The whole of it."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=prose.FIRST_PAGE,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        tags=prose.TAGS,
        routes=app.routes,
    )
    schemas = made["components"]["schemas"]
    made["components"]["schemas"] = told_schemas() | schemas | bodies.schemas()
    made["components"]["schemas"]["Problem"]["examples"] = [prose.PROBLEM]
    made["webhooks"] = prose.webhooks(bodies.REF)
    made["components"]["headers"] = _HEADERS
    for path, operations in made["paths"].items():
        for operation in operations.values():
            operation["summary"] = prose.TITLES[operation["operationId"]]
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
            for status, response in operation["responses"].items():
                response["headers"] = headers(*_always(path, status)) | response.get("headers", {})
                if examples := prose.ANSWERS.get((operation["operationId"], status)):
                    response["content"]["application/json"]["examples"] = {name: {"value": value} for name, value in examples.items()}
    return made


def told_schemas() -> dict[str, Any]:
    """The component schemas of what webhooks carry."""
    _, definitions = models_json_schema([(model, "serialization") for model in prose.WEBHOOK_BODIES], ref_template=bodies.REF)
    found: dict[str, Any] = definitions["$defs"]
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out is no parameter that may be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    return {**{name: value for name, value in schema.items() if name != "anyOf"}, **kinds[0]} if len(kinds) == 1 else schema


def _always(path: str, status: str) -> tuple[str, ...]:
    limited = path.startswith("/v1/") and status != str(Unauthenticated.status)  # whose key is not known has no limit
    return ("X-Request-Id", "RateLimit-Policy", "RateLimit") if limited else ("X-Request-Id",)
