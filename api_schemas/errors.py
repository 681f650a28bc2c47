"""Every error that a caller or a job can be given.

    OutfillError
      ├─ Unauthenticated            401  unauthenticated
      ├─ MissingScope               403  missing_scope
      ├─ NotFound                   404
      │    ├─ JobNotFound                job_not_found
      │    ├─ WebhookNotFound            webhook_not_found
      │    ├─ DeliveryNotFound           delivery_not_found
      │    ├─ UploadNotFound        422  upload_not_found     (named by a request's image field)
      │    └─ ModelNotFound         422  model_not_found
      ├─ Conflict                   409
      │    ├─ JobAlreadyFinished         job_already_finished
      │    ├─ JobNotFinished             job_not_finished
      │    ├─ InputsGone                 inputs_gone
      │    ├─ PayloadGone                payload_gone         (the job of a webhook was deleted)
      │    ├─ WebhookDisabled            webhook_disabled
      │    ├─ TooManyWebhooks            too_many_webhooks
      │    └─ IdempotencyKeyInUse        idempotency_key_in_use    (the first request with it is still being accepted)
      ├─ MalformedRequest           400  invalid_request
      ├─ HeadTooLarge               431  invalid_request
      ├─ MalformedForm              400  invalid_request
      ├─ BodyTooSlow                408  body_too_slow
      ├─ PayloadTooLarge            413  payload_too_large
      ├─ Invalid                    422  invalid_request
      │    ├─ UnknownField               unknown_field
      │    ├─ MissingField               missing_field
      │    ├─ InvalidJson                invalid_json
      │    ├─ ParameterNotSupported      parameter_not_supported
      │    ├─ WebhookNotAllowed          webhook_not_allowed
      │    ├─ IdempotencyKeyReused       idempotency_key_reused
      │    ├─ SourceError
      │    │    ├─ InvalidSource         invalid_source
      │    │    ├─ UrlNotAllowed         url_not_allowed
      │    │    └─ FetchFailed           fetch_failed
      │    ├─ ImageError
      │    │    ├─ NotAnImage            not_an_image
      │    │    ├─ UnsupportedFormat     unsupported_format
      │    │    ├─ AnimatedImage         animated_image
      │    │    ├─ ImageTooLarge         image_too_large
      │    │    ├─ ImageTooCostly        image_too_costly     (to decode, in time or memory)
      │    │    └─ ImageCorrupt          image_corrupt        (found by decoding: fails the job)
      │    └─ MaskError
      │         ├─ MaskSizeMismatch      mask_size_mismatch
      │         ├─ MaskEmpty             mask_empty
      │         ├─ MaskFull              mask_full
      │         ├─ MaskFaint             mask_faint
      │         └─ MaskHasNoAlpha        mask_has_no_alpha
      ├─ TooManyStreams             429  too_many_streams
      ├─ JobFailure                      (ends a job; never an HTTP answer by itself)
      │    ├─ SubjectNotFound            subject_not_found
      │    ├─ EngineFailed               engine_failed
      │    ├─ ChecksNotMet               checks_not_met
      │    ├─ OutputTooLarge             output_too_large
      │    ├─ StageTooLong               stage_too_long       (preparing or composing, of one picture)
      │    ├─ AttemptsExhausted          attempts_exhausted
      │    └─ DeadlineExceeded           deadline_exceeded
      ├─ TooMany                    429
      │    ├─ RateLimited                rate_limited
      │    ├─ TooManyAtOnce              too_many_at_once
      │    ├─ TooManyQueued              too_many_queued
      │    ├─ TooManyLeaving             too_many_leaving          (jobs that have ended and are not deleted yet)
      │    ├─ TooManyReservations        too_many_reservations     (idempotency keys without a job)
      │    ├─ TooManyUploads             too_many_uploads
      │    └─ TooManyPings               too_many_pings
      └─ Unavailable                503  unavailable
           └─ RecordUnreadable           record_unreadable         (a newer release wrote it)

``status`` is the HTTP status, ``code`` is stable, ``field`` names the part of the request to blame (dotted path); ``retry_after_s``
becomes the header, where the same request may succeed later.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class OutfillError(Exception):
    """An error with a stable code."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retry_after_s: int | None = None

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class Unauthenticated(OutfillError):
    """The bearer key is missing or unknown."""

    status, code, title = 401, "unauthenticated", "Authentication required"


class MissingScope(OutfillError):
    """The key is good, and not for this."""

    status, code, title = 403, "missing_scope", "Scope missing"

    def __init__(self, scope: str) -> None:
        super().__init__(f"the key lacks the scope {scope}")
        self.scope = scope


class NotFound(OutfillError):
    """The thing does not exist for this caller."""

    status, code, title = 404, "not_found", "Not found"


class JobNotFound(NotFound):
    """No job with this id belongs to the caller."""

    code, title = "job_not_found", "Job not found"


class WebhookNotFound(NotFound):
    """No webhook endpoint with this id belongs to the caller."""

    code, title = "webhook_not_found", "Webhook endpoint not found"


class DeliveryNotFound(NotFound):
    """No webhook with this id was owed to the caller, or nothing is kept of it any more."""

    code, title = "delivery_not_found", "Delivery not found"


class UploadNotFound(NotFound):
    """No upload with this id belongs to the caller, or its bytes have not arrived."""

    status, code, title = 422, "upload_not_found", "Upload not found"


class ModelNotFound(NotFound):
    """No model of this name is installed, or it does not do the operation."""

    status, code, title = 422, "model_not_found", "Model not found"


class Conflict(OutfillError):
    """The state of the thing does not allow this."""

    status, code, title = 409, "conflict", "Conflict"


class JobAlreadyFinished(Conflict):
    """A terminal job cannot be canceled."""

    code, title = "job_already_finished", "Job already finished"


class JobNotFinished(Conflict):
    """A job that waits or runs cannot be deleted."""

    code, title = "job_not_finished", "Job not finished"


class InputsGone(Conflict):
    """The inputs of the job that is to be repeated were deleted."""

    code, title = "inputs_gone", "Inputs are gone"


class PayloadGone(Conflict):
    """The webhook tells of a job that was deleted, so that there is nothing to send."""

    code, title = "payload_gone", "Payload gone"


class WebhookDisabled(Conflict):
    """Nothing is sent to this endpoint until it is enabled."""

    code, title = "webhook_disabled", "Webhook endpoint disabled"


class TooManyWebhooks(Conflict):
    """The tenant has as many endpoints as it may have."""

    code, title = "too_many_webhooks", "Too many webhook endpoints"


class IdempotencyKeyInUse(Conflict):
    """Another request with the same idempotency key is being accepted now."""

    code, title = "idempotency_key_in_use", "Idempotency key in use"
    retry_after_s = 1


class PayloadTooLarge(OutfillError):
    """The body, or one file, has too many bytes."""

    status, code, title = 413, "payload_too_large", "Payload too large"


class MalformedRequest(OutfillError):
    """The bytes are no HTTP/1.1, or a body comes in too many pieces."""

    status, code, title = 400, "invalid_request", "Malformed request"


class HeadTooLarge(OutfillError):
    """The line and the headers of the request have too many bytes."""

    status, code, title = 431, "invalid_request", "Headers too large"


class MalformedForm(OutfillError):
    """The body is no multipart/form-data that can be read, or has more parts than any request has."""

    status, code, title = 400, "invalid_request", "Malformed form"


class BodyTooSlow(OutfillError):
    """The body did not arrive in time."""

    status, code, title = 408, "body_too_slow", "Body arrived too slowly"


class Invalid(OutfillError):
    """The request does not say something that can be done."""

    status, code, title = 422, "invalid_request", "Invalid request"


class UnknownField(Invalid):
    """There is no such field or query parameter."""

    code = "unknown_field"


class MissingField(Invalid):
    """A field or a part that is required is not there."""

    code = "missing_field"


class InvalidJson(Invalid):
    """The body is not JSON, or holds more values than any request has."""

    code = "invalid_json"


class ParameterNotSupported(Invalid):
    """The chosen model would ignore this parameter, so it is refused."""

    code, title = "parameter_not_supported", "Parameter not supported"


class WebhookNotAllowed(Invalid):
    """The webhook URL points where this service does not send."""

    code, title = "webhook_not_allowed", "Webhook URL not allowed"


class IdempotencyKeyReused(Invalid):
    """The idempotency key belongs to a request that asked for something else."""

    code, title = "idempotency_key_reused", "Idempotency key reused"


class SourceError(Invalid):
    """An image could not be brought in."""


class InvalidSource(SourceError):
    """The string is not an https URL, a data URL, an upload or a file part."""

    code, title = "invalid_source", "Invalid image source"


class UrlNotAllowed(SourceError):
    """The URL spells an address that is not public, or uses a port or scheme that is not allowed."""

    code, title = "url_not_allowed", "URL not allowed"


class FetchFailed(SourceError):
    """The URL did not answer with the bytes of a file, or its host leads to no address that may be called."""

    code, title = "fetch_failed", "Image could not be fetched"


class ImageError(Invalid):
    """The bytes are not an image that can be worked on."""


class NotAnImage(ImageError):
    """The bytes have the header of no known image format."""

    code, title = "not_an_image", "Not an image"


class UnsupportedFormat(ImageError):
    """It is an image, in a format that is not accepted."""

    code, title = "unsupported_format", "Image format not supported"


class AnimatedImage(ImageError):
    """The file holds more than one frame or page."""

    code, title = "animated_image", "Animated images are not accepted"


class ImageTooLarge(ImageError):
    """The header declares more pixels than the limit."""

    code, title = "image_too_large", "Image too large"


class ImageTooCostly(ImageError):
    """Decoding takes more time or memory than a picture of its size may."""

    code, title = "image_too_costly", "Image too costly to decode"


class ImageCorrupt(ImageError):
    """The header is fine and the pixels cannot be decoded."""

    code, title = "image_corrupt", "Image is corrupt"


class MaskError(Invalid):
    """The mask does not mark a region of this image."""


class MaskSizeMismatch(MaskError):
    """The mask has another size than the image."""

    code, title = "mask_size_mismatch", "Mask size differs from image size"


class MaskEmpty(MaskError):
    """The mask marks nothing."""

    code, title = "mask_empty", "Mask is empty"


class MaskFull(MaskError):
    """The mask marks everything, wholly or faintly, so that nothing is kept."""

    code, title = "mask_full", "Mask covers everything"


class MaskFaint(MaskError):
    """The mask marks nothing wholly: the old content would shine through everywhere."""

    code, title = "mask_faint", "Mask is too faint"


class MaskHasNoAlpha(MaskError):
    """``polarity: alpha`` was asked for and the mask has no alpha channel."""

    code, title = "mask_has_no_alpha", "Mask has no alpha channel"


class TooManyStreams(OutfillError):
    """As many event streams are open as may be, of the caller or of all."""

    status, code, title = 429, "too_many_streams", "Too many event streams"
    retry_after_s = 5


class JobFailure(OutfillError):
    """Ends a job in ``failed``."""


class SubjectNotFound(JobFailure):
    """No product stands out from the background."""

    code, title = "subject_not_found", "No subject found"


class EngineFailed(JobFailure):
    """The model raised, or its result is not a picture."""

    code, title = "engine_failed", "Painting failed"


class ChecksNotMet(JobFailure):
    """The best of all attempts is worse than the request's ``checks.min_verdict``."""

    code, title = "checks_not_met", "No attempt was good enough"


class OutputTooLarge(JobFailure):
    """The file has more than ``output.max_bytes`` at the lowest quality that is tried."""

    code, title = "output_too_large", "Output too large"


class StageTooLong(JobFailure):
    """Preparing or composing the picture took longer than a worker allows."""

    code, title = "stage_too_long", "Stage took too long"


class AttemptsExhausted(JobFailure):
    """The workers that ran the job died too often."""

    code, title = "attempts_exhausted", "Attempts exhausted"


class DeadlineExceeded(JobFailure):
    """The job's deadline passed before it was done."""

    code, title = "deadline_exceeded", "Deadline exceeded"


class TooMany(OutfillError):
    """The caller is over one of its limits."""

    status, code, title = 429, "too_many", "Over a limit"

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class RateLimited(TooMany):
    """The key has made as many requests as it may for now."""

    code, title = "rate_limited", "Too many requests"


class TooManyAtOnce(TooMany):
    """Requests of the tenant hold as much as they may at once: bytes of bodies, checks, fetches, or places to wait. Some have to end first."""

    code, title = "too_many_at_once", "Too many requests at once"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after_s=1)


class TooManyQueued(TooMany):
    """As many jobs of the tenant wait as may; some have to be begun, canceled or expire first."""

    code, title = "too_many_queued", "Too many queued jobs"

    def __init__(self, detail: str, *, limit: int) -> None:
        super().__init__(detail, retry_after_s=5)
        self.limit = limit


class TooManyLeaving(TooMany):
    """Jobs of the tenant that have ended, more than are kept, are not deleted yet; delete some, or come again."""

    code, title = "too_many_leaving", "Too many ended jobs"


class TooManyReservations(TooMany):
    """As many requests of the tenant with idempotency keys are being accepted as may."""

    code, title = "too_many_reservations", "Too many idempotency keys"


class TooManyUploads(TooMany):
    """The tenant has all uploads, or bytes of uploads, that it may; some have to expire first."""

    code, title = "too_many_uploads", "Too many uploads"


class TooManyPings(TooMany):
    """As many test events wait for the endpoint as may; it has to answer them first."""

    code, title = "too_many_pings", "Too many test events"


class Unavailable(OutfillError):
    """Redis or S3 does not answer."""

    status, code, title = 503, "unavailable", "Service unavailable"
    retry_after_s = 5


class RecordUnreadable(Unavailable):
    """A newer release of the service wrote the record, and the process that answers cannot read it. Nothing of it is lost."""

    code, title = "record_unreadable", "Record of a newer release"
    retry_after_s = 60


class ErrorInfo(BaseModel):
    """An error as part of a job."""

    model_config = ConfigDict(frozen=True)

    code: str = Field(examples=["image_corrupt"])
    message: str
    field: str | None = Field(default=None, description="The request field to blame, as a dotted path.")

    @classmethod
    def of(cls, error: OutfillError) -> ErrorInfo:
        """The wire form of ``error``."""
        return cls(code=error.code, message=error.detail, field=error.field)


class Problem(BaseModel):
    """An HTTP error answer, ``application/problem+json`` (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; switch on this.")
    field: str | None = Field(default=None, description="The request field to blame, as a dotted path.")
    request_id: str | None = None
