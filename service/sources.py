"""Brings in the images that a request names: by URL, data URL, upload or file part. Nothing is stored here."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from api_schemas.errors import Invalid, InvalidSource, OutfillError, PayloadTooLarge, UploadNotFound
from api_schemas.requests import JobRequest, PictureBackground, ReplaceBackgroundRequest
from core import outbound
from core.storage import ObjectNotFound, upload_key
from service.deps import Services
from service.threads import hold

_DATA_URL = re.compile(rb"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_CHUNK = 2**16
"""Letters that are read at once: whoever reads them keeps all others from the interpreter for a tenth of a millisecond."""
_UPLOAD_ID = re.compile(r"upl_[0-9A-Z]{26}")


@dataclass(frozen=True)
class Sent:
    """A job request as it came, with the pictures that came along."""

    request: JobRequest
    files: Mapping[str, bytes]
    """Parts of its form, by name."""
    data_urls: Mapping[str, memoryview]
    """Long ones, by the names that the request has in their places: where they stand in its JSON."""


def named_sources(request: JobRequest) -> dict[str, str]:
    """The image fields of a request: dotted path to source."""
    found = {"image": request.image}
    for name in ("mask", "product_mask"):
        if (source := getattr(request, name, None)) is not None:
            found[name] = source
    if isinstance(request, ReplaceBackgroundRequest) and isinstance(request.background, PictureBackground):
        found["background.image"] = request.background.image
    return found


def with_sources(request: JobRequest, sources: Mapping[str, str]) -> JobRequest:
    """The request with other sources, by dotted path."""
    update: dict[str, object] = {name: source for name, source in sources.items() if "." not in name}
    if (
        isinstance(request, ReplaceBackgroundRequest)
        and isinstance(request.background, PictureBackground)
        and "background.image" in sources
    ):
        update["background"] = request.background.model_copy(update={"image": sources["background.image"]})
    return request.model_copy(update=update)


def with_stored_sources(request: JobRequest) -> JobRequest:
    """The request with each source replaced by its own path, under which the job's inputs are kept."""
    return with_sources(request, {name: name for name in named_sources(request)})


async def collect(parts: Services, tenant: str, sent: Sent) -> dict[str, bytes]:
    """The bytes of every image that the request names, by dotted path. Raises with ``field`` set."""
    sources, files = named_sources(sent.request), sent.files
    named = {source.removeprefix("file:"): field for field, source in sources.items() if source.startswith("file:")}
    for name, field in named.items():
        if name not in files:
            raise InvalidSource(f"no file part is named {name}; there are: {', '.join(sorted(files)) or 'none'}", field=field)
    if unused := set(files) - set(named):
        raise Invalid("the request names no such file; write file:NAME where the image goes", field=min(unused))
    blobs = {}
    for field, source in sources.items():
        try:
            blobs[field] = await _bytes_of(parts, tenant, source, sent)
        except OutfillError as error:
            error.field = field
            raise
        limit = parts.settings.limits.max_image_bytes
        if len(blobs[field]) > limit:
            raise PayloadTooLarge(f"the image has {len(blobs[field])} bytes; the limit is {limit}", field=field)
    return blobs


async def _bytes_of(parts: Services, tenant: str, source: str, sent: Sent) -> bytes:
    limit = parts.settings.limits.max_image_bytes
    if (text := sent.data_urls.get(source)) is not None:
        return await parts.reading(tenant, len(text), _decoded, letters(text))
    scheme, _, rest = source.partition(":")
    if scheme.lower() in ("http", "https"):
        async with parts.calls.of(tenant):
            return await outbound.fetch(parts.http, source, parts.settings.outbound, max_bytes=limit, on_bytes=hold)
    if scheme.lower() == "data":
        return await parts.reading(tenant, len(source), _decoded, [source.encode()])
    if scheme == "upload":
        return await _read_upload(parts, tenant, rest, limit)
    if scheme == "file":
        return sent.files[rest]
    raise InvalidSource("must be an http(s) URL, data:image/…;base64,…, upload:ID or file:NAME")


def letters(text: memoryview) -> Iterator[bytes]:
    """The letters of a data URL that stands in JSON, in pieces. Of JSON's escapes that of a slash may be among them."""
    kept = b""
    for begin in range(0, len(text), _CHUNK):
        piece = kept + bytes(text[begin : begin + _CHUNK])
        kept = b"\\" if piece.endswith(b"\\") else b""
        yield piece.removesuffix(b"\\").replace(b"\\/", b"/")


def _decoded(pieces: Iterable[bytes]) -> bytes:
    """The bytes of a data URL. Raises ``InvalidSource``."""
    pieces = iter(pieces)
    first = next(pieces)
    match = _DATA_URL.match(first)
    if match is None:
        raise InvalidSource("a data URL must begin with data:image/TYPE;base64,")
    data, rest, ends = io.BytesIO(), b"", False
    try:
        for piece in chain((first[match.end() :],), pieces):
            if ends:
                raise InvalidSource("the data URL goes on after its end")
            rest += piece
            whole = len(rest) // 4 * 4
            data.write(base64.b64decode(rest[:whole], validate=True))
            ends, rest = b"=" in rest[:whole], rest[whole:]
        base64.b64decode(rest, validate=True)  # a group that is not whole
    except ValueError as error:  # binascii.Error is one
        raise InvalidSource("the data URL is not valid base64") from error
    return data.getvalue()


async def _read_upload(parts: Services, tenant: str, upload_id: str, limit: int) -> bytes:
    if not _UPLOAD_ID.fullmatch(upload_id):
        raise UploadNotFound("no such upload")
    key = upload_key(tenant, upload_id)
    try:
        async with parts.reads.of(tenant):
            data = await parts.storing.run(tenant, parts.storage.get, key, max_bytes=limit)
            hold(len(data))
            return data
    except PayloadTooLarge:  # what no job can use only takes room
        await parts.storing.run(tenant, parts.storage.delete, [key])
        raise
    except ObjectNotFound:
        raise UploadNotFound("no such upload, or its bytes have not arrived") from None
