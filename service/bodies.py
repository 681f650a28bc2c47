"""Reads a job request from JSON, or from multipart/form-data: a ``request`` part and the files that it names; and smaller bodies."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from api_schemas.errors import Invalid, InvalidJson, MissingField, Problem, UnknownField
from api_schemas.requests import (
    EraseRequest,
    InpaintRequest,
    JobRequest,
    Operation,
    OutpaintRequest,
    PresignRequest,
    RemoveBackgroundRequest,
    RepeatRequest,
    ReplaceBackgroundRequest,
    job_request,
)
from api_schemas.webhooks import EndpointChanges, EndpointRequest, RotateRequest
from service.deps import Parts
from service.problems import invalid

M = TypeVar("M", bound=BaseModel)
JobBody = tuple[JobRequest, dict[str, bytes]]
_MAX_FILES = 8
_MAX_MARKS = 20_000
"""Commas and colons of a request: two prompts of nothing else, its metadata, and more fields than there are."""
_MODELS: dict[str | None, type[BaseModel]] = {
    Operation.INPAINT: InpaintRequest,
    Operation.ERASE: EraseRequest,
    Operation.OUTPAINT: OutpaintRequest,
    Operation.REPLACE_BACKGROUND: ReplaceBackgroundRequest,
    Operation.REMOVE_BACKGROUND: RemoveBackgroundRequest,
}
_REF = "#/components/schemas/{model}"

# A 48×48 picture of a red box and a mask of the box, small enough to paste. tests/flow/test_jobs_api.py posts every example.
_PHOTO = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAADAAAAAwCAIAAADYYG7QAAAAbUlEQVR42u3XoQ2AMBCF4R5hByZFoVEsg8VgwTJGt2ADyLk2+Z5umz/v/hON+9xLSxlKYwH0lzEiNASIQ4A41HRD2Qt1mVPnp3Xj0Gey71t7DnGIQxwCxCEOccjIOgOK5zo0BMjfHhCHjKxnoBe2QwgpKBpn0QAAAABJRU5ErkJggg=="
_MASK = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAADAAAAAwCAAAAAByaaZbAAAAJ0lEQVR42mNgGAWjYKgARnSB/wQUMJFqw6iGUQ2jGoaXhlEwCqgFADnxASyzWxshAAAAAElFTkSuQmCC"
EXAMPLES: dict[str, dict[str, Any]] = {
    "white_background": {
        "summary": "A product on plain white",
        "value": {
            "operation": "replace_background",
            "image": _PHOTO,
            "product_mask": _MASK,
            "background": {"color": "white"},
            "shadow": {"opacity": 0.4},
        },
    },
    "product_shot": {
        "summary": "A shop's main picture: 2000×2000, the product 85 % of it on white with a shadow, a JPEG below 1 MB",
        "value": {
            "operation": "replace_background",
            "image": _PHOTO,
            "mask": _MASK,
            "mask_options": {"polarity": "black_edits"},
            "background": {"color": "#ffffff"},
            "shadow": {},
            "placement": {"fill": 0.85, "align": "center"},
            "output": {"format": "jpeg", "width": 2000, "height": 2000, "max_bytes": 1_000_000, "dpi": 300},
        },
    },
    "erase": {"summary": "Remove what is under the mask", "value": {"operation": "erase", "image": _PHOTO, "mask": _MASK}},
    "outpaint": {
        "summary": "Sixteen more pixels on the left and on the right",
        "value": {"operation": "outpaint", "image": _PHOTO, "expand": {"left": 16, "right": 16}},
    },
    "ratio": {
        "summary": "The smallest canvas of 4:5 around the picture, 80 pixels wide",
        "value": {"operation": "outpaint", "image": _PHOTO, "canvas": {"ratio": "4:5"}, "output": {"width": 80}},
    },
}


async def _read_body(request: Request, parts: Parts) -> JobBody:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            async with request.form(
                max_files=_MAX_FILES, max_fields=_MAX_FILES, max_part_size=parts.settings.limits.max_body_bytes
            ) as form:
                return await _read_form(form)
        if kind not in ("application/json", ""):
            raise Invalid("send application/json or multipart/form-data", field="Content-Type")
        return await run_in_threadpool(_job_request, await request.body()), {}
    except ValidationError as error:
        raise invalid(error, _MODELS) from error


async def _read_form(form: FormData) -> JobBody:
    text: str | bytes | None = None
    files: dict[str, bytes] = {}
    for name, value in form.multi_items():
        content = await value.read() if isinstance(value, UploadFile) else value
        if name == "request":
            text = content
        elif isinstance(content, str):
            raise UnknownField("only the part named request may be text; options go inside it", field=name)
        elif name in files:
            raise Invalid("two parts have this name", field=name)
        else:
            files[name] = content
    if text is None:
        raise MissingField("the part that holds the JSON is missing", field="request")
    return await run_in_threadpool(_job_request, text.encode() if isinstance(text, str) else text), files


def _job_request(text: bytes) -> JobRequest:
    return _parsed(partial(job_request.validate_json, strict=True), text)


def _parsed(validate: Callable[[bytes], M], text: bytes) -> M:
    parsed = validate(_checked(text))
    _refuse_repeated_names(text)
    return parsed


def _refuse_repeated_names(text: bytes) -> None:
    """Pydantic takes the last of two values with one name: the other would be ignored without a word. ``text`` is valid JSON."""

    def once(pairs: list[tuple[str, Any]]) -> None:
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise Invalid("the JSON has this name twice in one object", field=name)
            names.add(name)

    json.loads(text, object_pairs_hook=once, parse_int=str, parse_float=str)


def _checked(text: bytes) -> bytes:
    """JSON that has no more values than a request can have. Each one too many would cost an error of its own: a body of 64 MB minutes, and
    gigabytes. Images in base64 have neither commas nor colons.
    """
    if text.count(b",") + text.count(b":") > _MAX_MARKS:
        raise InvalidJson("the JSON holds more values than any request has")
    return text


Body = Annotated[JobBody, Depends(_read_body)]


class _NoQuery(BaseModel):
    """The query of a route that has no parameters: any is refused, once the key is known."""

    model_config = ConfigDict(extra="forbid")


def json_body(model: type[M], *, required: bool = True) -> Callable[[Request], Awaitable[M]]:
    """Reads a JSON body. Not by FastAPI, which would take the body in before it asks for the key."""

    async def read(request: Request) -> M:
        body = await request.body()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and kind not in ("application/json", ""):
            raise Invalid("send application/json" if required else "send application/json, or no body", field="Content-Type")
        try:
            return await run_in_threadpool(_parsed, partial(model.model_validate_json, strict=True), body if required or body else b"{}")
        except ValidationError as error:
            raise invalid(error, {None: model}) from error

    return read


def described(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """The OpenAPI requestBody of a route with ``json_body``."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
    return {"requestBody": {"required": required, "content": content}}


Changes = Annotated[RepeatRequest, Depends(json_body(RepeatRequest, required=False))]
NewEndpoint = Annotated[EndpointRequest, Depends(json_body(EndpointRequest))]
ChangedEndpoint = Annotated[EndpointChanges, Depends(json_body(EndpointChanges))]
Rotation = Annotated[RotateRequest, Depends(json_body(RotateRequest, required=False))]
NoQuery = Annotated[_NoQuery, Query()]


def query_once(*but: str) -> Callable[[Request], None]:
    """Refuses a query parameter that comes twice, as one of them would be ignored; ``but`` those that may."""

    def once(request: Request) -> None:
        names = [name for name, _ in request.query_params.multi_items() if name not in but]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise Invalid("there are two of this parameter", field=repeated)

    return once


QueryOnce = Annotated[None, Depends(query_once())]


def request_body() -> dict[str, Any]:
    """The OpenAPI requestBody of ``POST /v1/jobs``, which FastAPI cannot read off a route that takes two kinds of body."""
    union = {
        "oneOf": [{"$ref": _REF.format(model=model.__name__)} for model in _MODELS.values()],
        "discriminator": {
            "propertyName": "operation",
            "mapping": {operation: _REF.format(model=model.__name__) for operation, model in _MODELS.items()},
        },
    }
    form = {
        "type": "object",
        "required": ["request"],
        "properties": {"request": union},
        "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
    }
    content = {
        "application/json": {"schema": union, "examples": EXAMPLES},
        "multipart/form-data": {"schema": form, "encoding": {"request": {"contentType": "application/json"}}},
    }
    return {"required": True, "content": content}


def schemas() -> Mapping[str, Any]:
    """The component schemas that routes refer to by name: those of request bodies and of errors."""
    models: tuple[type[BaseModel], ...] = (
        *_MODELS.values(),
        RepeatRequest,
        PresignRequest,
        EndpointRequest,
        EndpointChanges,
        RotateRequest,
        Problem,
    )
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    found: dict[str, Any] = definitions["$defs"]
    return found
