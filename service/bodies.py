"""Reads a job request from JSON, or from multipart/form-data: a ``request`` part and the files that it names; and smaller bodies."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from secrets import token_hex
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import models_json_schema

from api_schemas.errors import Invalid, InvalidJson, MissingField, Problem, UnknownField
from api_schemas.requests import (
    EraseRequest,
    InpaintRequest,
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
from service.forms import Part, check_utf8, media_type, read_form
from service.problems import invalid
from service.sources import Sent, named_sources

M = TypeVar("M", bound=BaseModel)
_MAX_FILES = 8
_MAX_IMAGES = 64
"""That are looked for in JSON. No request names as many."""
_MAX_TEXT = 2 * 2**20
_CHUNK = 2**18
"""Bytes that are looked through at once: whoever does so keeps all others from the interpreter."""
_LONG = 2**16
"""Letters of a data URL that is read beside the JSON."""
_MAX_MARKS = 20_000
"""Commas and colons of a request: two prompts of nothing else, its metadata, and more fields than there are."""
_MODELS: dict[str | None, type[BaseModel]] = {
    Operation.INPAINT: InpaintRequest,
    Operation.ERASE: EraseRequest,
    Operation.OUTPAINT: OutpaintRequest,
    Operation.REPLACE_BACKGROUND: ReplaceBackgroundRequest,
    Operation.REMOVE_BACKGROUND: RemoveBackgroundRequest,
}
FILE = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
"""Of OpenAPI: in the words of 3.1 and, for what generates clients, in those of 3.0."""
REF = "#/components/schemas/{model}"

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


class JobBody:
    """A job request and its files, until they are taken: they are not held in memory while a caller waits for the end of the job."""

    def __init__(self, sent: Sent, size: int) -> None:
        self.size = size
        """Bytes that arrived."""
        self._content: Sent | None = sent

    def take(self) -> Sent:
        """Them, once."""
        content, self._content = self._content, None
        if content is None:
            raise RuntimeError("the body was taken already")
        return content


async def gather(request: Request) -> bytearray:
    """A body. Its bytes count for the tenant that calls, who is known by then (service/middleware.py)."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    return body


async def _read_body(request: Request, parts: Parts) -> JobBody:
    kind, options = media_type(request.headers.get("content-type", ""))
    if kind not in ("multipart/form-data", "application/json", ""):
        raise Invalid("send application/json or multipart/form-data", field="Content-Type")
    body = await gather(request)
    read = partial(_read_form, body, options) if kind == "multipart/form-data" else partial(_job_request, body)
    try:
        return JobBody(await parts.reading(request.state.tenant, len(body), read), len(body))
    except ValidationError as error:
        raise invalid(error, _MODELS) from error


def _read_form(body: bytearray, options: dict[bytes, bytes]) -> Sent:
    parts: dict[str, Part] = {}
    for part in read_form(body, options, max_files=_MAX_FILES, max_texts=_MAX_FILES, texts=("request",)):
        if part.name in parts:
            raise Invalid("two parts have this name", field=part.name)
        parts[part.name] = part
    text = parts.pop("request", None)
    loose = [name for name, part in parts.items() if not part.is_file]
    try:
        if text is None:
            raise MissingField("the part that holds the JSON is missing", field="request")
        sent = _job_request(text.content)
    except (Invalid, ValidationError):
        # An option beside the JSON explains what is missing in it, so it is told first.
        if unnamed := [name for name in loose if text is None or b"file:" + name.encode() not in text.content]:
            raise _loose(unnamed[0]) from None
        raise
    named = set(named_sources(sent.request).values())
    if unnamed := [name for name in loose if f"file:{name}" not in named]:
        raise _loose(unnamed[0])
    return replace(sent, files={name: part.content for name, part in parts.items()})


def _loose(name: str) -> UnknownField:
    return UnknownField("no filename, and the request names no file:NAME of it; options go inside the part named request", field=name)


def _job_request(text: bytes | bytearray) -> Sent:
    """The request in JSON. What is long and plain in it, its data URLs, is read beside: a parser would hold the interpreter for all of it."""
    short, cut = _without_images(text)
    request = _parsed(partial(job_request.validate_json, strict=True), short)
    if elsewhere := cut.keys() - named_sources(request).values():
        raise Invalid("a text of such length may only be an image", field=_place_of(elsewhere, request.model_dump(mode="json")))
    whole = memoryview(text)
    return Sent(request, {}, {name: whole[place] for name, place in cut.items()})


def _place_of(names: Collection[str], value: Any) -> str | None:
    """The dotted path of the first text of ``names`` in JSON, as key or value."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key in names or (isinstance(each, str) and each in names):
            return str(key) if key not in names else None
        if (inside := _place_of(names, each)) is not None:
            return f"{key}.{inside}"
    return None


def _parsed(validate: Callable[[bytes | bytearray], M], text: bytes | bytearray) -> M:
    if len(text) > _MAX_TEXT:
        raise _too_long()
    check_utf8(text, "the JSON", error=InvalidJson)
    _check_count(text)
    parsed = validate(text)
    _refuse_repeated_names(text)
    return parsed


def _too_long() -> InvalidJson:
    return InvalidJson(f"the JSON holds more than {_MAX_TEXT} bytes beside the images that are data URLs")


def _without_images(text: bytes | bytearray) -> tuple[bytes, dict[str, slice]]:
    """JSON whose long data URLs are names in their places, of plain letters all of them; and where each of them stands in ``text``."""
    whole, kept = memoryview(text), list[bytes | memoryview]()
    cut: dict[str, slice] = {}
    at, begin, nonce = 0, -1, token_hex(16)
    for _ in range(_MAX_IMAGES):
        begin = _find(text, b'"data:', begin + 1)
        end = text.find(b'"', begin + 1)
        if begin < 0 or end < 0:
            break
        if end - begin > _LONG and text[begin - 1 : begin] != b"\\" and _is_plain(text, begin, end):
            name = f"data:{nonce}-{len(cut):02}"
            cut[name] = slice(begin + 1, end)
            kept += [whole[at : begin + 1], name.encode()]
            at = begin = end
    kept.append(whole[at:])
    if sum(map(len, kept)) > _MAX_TEXT:  # it is not copied to be refused
        raise _too_long()
    return b"".join(kept), cut


def _find(text: bytes | bytearray, wanted: bytes, begin: int) -> int:
    """``text.find(wanted, begin)``, in pieces."""
    for piece in range(begin, len(text), _CHUNK):
        if (found := text.find(wanted, piece, piece + _CHUNK + len(wanted) - 1)) >= 0:
            return found
    return -1


def _is_plain(text: bytes | bytearray, begin: int, end: int) -> bool:
    """Whether all of it is ASCII, and no letter is written by an escape but the slash, as PHP does."""
    escapes = slashes = 0
    for piece in range(begin, end, _CHUNK):
        until = min(piece + _CHUNK, end)
        if not text[piece:until].isascii():
            return False
        if text.find(b"\\", piece, until) >= 0:
            escapes += text.count(b"\\", piece, until)
            slashes += text.count(b"\\/", piece, min(until + 1, end))  # the next piece may begin with the slash
    return escapes == slashes


def _refuse_repeated_names(text: bytes | bytearray) -> None:
    """Pydantic takes the last of two values with one name: the other would be ignored without a word. ``text`` is valid JSON."""

    def once(pairs: list[tuple[str, Any]]) -> None:
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise Invalid("the JSON has this name twice in one object", field=name)
            names.add(name)

    json.loads(text, object_pairs_hook=once, parse_int=str, parse_float=str)


def _check_count(text: bytes | bytearray) -> None:
    """Raises ``InvalidJson`` for JSON that has more values than a request can have. Each one too many would cost an error of its own: a body of 64 MB minutes,
    and gigabytes.
    """
    if text.count(b",") + text.count(b":") > _MAX_MARKS:
        raise InvalidJson("the JSON holds more values than any request has")


Body = Annotated[JobBody, Depends(_read_body)]


class _NoQuery(BaseModel):
    """The query of a route that has no parameters: any is refused, once the key is known."""

    model_config = ConfigDict(extra="forbid")


def json_body(model: type[M], *, required: bool = True) -> Callable[[Request, Parts], Awaitable[M]]:
    """Reads a JSON body. Not by FastAPI, which would take the body in before it asks for the key."""

    async def read(request: Request, parts: Parts) -> M:
        kind, _ = media_type(request.headers.get("content-type", ""))
        body = await gather(request)
        if body and kind not in ("application/json", ""):
            raise Invalid("send application/json" if required else "send application/json, or no body", field="Content-Type")
        try:
            text = body if required or body else b"{}"
            return await parts.reading(request.state.tenant, len(text), _parsed, partial(model.model_validate_json, strict=True), text)
        except ValidationError as error:
            raise invalid(error, {None: model}) from error

    return read


def described(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """The OpenAPI requestBody of a route with ``json_body``."""
    content = {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}
    return {"requestBody": {"required": required, "content": content}}


Changes = Annotated[RepeatRequest, Depends(json_body(RepeatRequest, required=False))]
NewEndpoint = Annotated[EndpointRequest, Depends(json_body(EndpointRequest))]
ChangedEndpoint = Annotated[EndpointChanges, Depends(json_body(EndpointChanges))]
Rotation = Annotated[RotateRequest, Depends(json_body(RotateRequest, required=False))]
NoQuery = Annotated[_NoQuery, Query()]


def query_once(*but: str) -> Callable[[Request], Awaitable[None]]:
    """Refuses a query parameter that comes twice, as one of them would be ignored; ``but`` those that may."""

    async def once(request: Request) -> None:
        seen: set[str] = set()
        for name, _ in request.query_params.multi_items():
            if name in seen and name not in but:
                raise Invalid("there are two of this parameter", field=name)
            seen.add(name)

    return once


QueryOnce = Annotated[None, Depends(query_once())]


def request_body() -> dict[str, Any]:
    """The OpenAPI requestBody of ``POST /v1/jobs``, which FastAPI cannot read off a route that takes two kinds of body."""
    union = {
        "oneOf": [{"$ref": REF.format(model=model.__name__)} for model in _MODELS.values()],
        "discriminator": {
            "propertyName": "operation",
            "mapping": {operation: REF.format(model=model.__name__) for operation, model in _MODELS.items()},
        },
    }
    form = {
        "type": "object",
        "required": ["request"],
        "properties": {"request": union},
        "additionalProperties": FILE,
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
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    found: dict[str, Any] = definitions["$defs"]
    return found
