"""``/v1/uploads``: bytes for a later job, sent here or straight to the object store."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import Invalid, MissingField, PayloadTooLarge, TooManyUploads, UnknownField
from api_schemas.jobs import Upload, new_id, utc_now
from api_schemas.requests import PresignRequest
from core.settings import Limits
from core.storage import upload_key
from service import intake
from service.auth import Tenant, UploadsWriter
from service.bodies import FILE, NoQuery, described, gather, json_body
from service.deps import Parts, Services
from service.forms import media_type, read_form
from service.openapi import FORM_BODY, IMAGE, JSON_BODY, refusals

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


def _register(parts: Services, caller: Tenant, size: int) -> Upload:
    upload_id = new_id("upl")
    expires_at = utc_now() + timedelta(seconds=parts.settings.retention.uploads_s)
    parts.records.expect_upload(caller.name, upload_id, expires_at + _STILL_COMING, size)
    return Upload(id=upload_id, source=f"upload:{upload_id}", expires_at=expires_at)


Presigned = Annotated[PresignRequest, Depends(json_body(PresignRequest, required=False))]
_STILL_COMING = timedelta(minutes=15)
"""Until a PUT that began while its URL was good has surely ended: what arrived after the deletion, nobody would ever delete."""
_FORM = {"type": "object", "required": ["file"], "properties": {"file": FILE}, "additionalProperties": False}
_BODY = {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}


@router.post(
    "",
    status_code=201,
    response_model_exclude_none=True,
    openapi_extra={"requestBody": _BODY},
    responses=refusals(*FORM_BODY, *IMAGE, TooManyUploads),
)
async def create(request: Request, caller: UploadsWriter, parts: Parts, _: NoQuery) -> Upload:
    """Keep one file. Its header is checked now, and again when a job names it."""
    kind, options = media_type(request.headers.get("content-type", ""))
    if kind != "multipart/form-data":
        raise MissingField("the file part is missing; send multipart/form-data", field="file")
    # Read here and not by FastAPI, which would take the body in before it asks for the key.
    body = await gather(request)
    data = await parts.reading(caller.name, len(body), _read_file, body, options, parts.settings.limits)
    del body  # a copy of it is in data
    checked = await parts.checking.run(caller.name, intake.check_apart, parts.decoding, parts.settings.limits, {"file": data})
    upload = await run_in_threadpool(_register, parts, caller, len(data))
    key = upload_key(caller.name, upload.id)
    await parts.storing.run(caller.name, parts.storage.put, key, data, f"image/{checked.headers['file'].format}")
    return upload


def _read_file(body: bytearray, options: dict[bytes, bytes], limits: Limits) -> bytes:
    """The file of a form."""
    found = read_form(body, options, max_files=2, max_texts=2, texts=())
    if unknown := [part.name for part in found if part.name != "file"]:
        raise UnknownField("there is no such part", field=unknown[0])
    if len(found) != 1:
        raise Invalid("two parts have this name", field="file") if found else MissingField("the file part is missing", field="file")
    if len(found[0].content) > limits.max_image_bytes:
        raise PayloadTooLarge(f"the file has more than {limits.max_image_bytes} bytes", field="file")
    return found[0].content


@router.post(
    "/presigned",
    status_code=201,
    openapi_extra=described(PresignRequest, required=False),
    responses=refusals(*JSON_BODY, TooManyUploads),
)
def presign(caller: UploadsWriter, parts: Parts, wanted: Presigned, _: NoQuery) -> Upload:
    """Get a URL to PUT a large file to. What it is and its size are checked when a job names it; with `bytes` the store takes that size alone."""
    most = parts.settings.limits.max_image_bytes
    if wanted.bytes is not None and wanted.bytes > most:
        raise Invalid(f"a file may have {most} bytes", field="bytes")
    upload = _register(parts, caller, most if wanted.bytes is None else wanted.bytes)
    key, at_most_s = upload_key(caller.name, upload.id), parts.settings.retention.uploads_s
    return upload.model_copy(update={"put_url": parts.storage.presign_put(key, at_most_s=at_most_s, size=wanted.bytes)})
