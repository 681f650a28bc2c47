"""The job: its states, what the worker needs to run it, and what its owner sees of it.

    queued ──► running ──► succeeded | failed | canceled
      │  ▲        │
      │  └────────┘  the worker died or handed it back; `attempts` tells how often it was begun
      └──► canceled | expired

A terminal state is final. ``expired`` means that the deadline passed before the job was begun.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ulid import ULID

from api_schemas.errors import ErrorInfo
from api_schemas.profiles import ProfileReport
from api_schemas.requests import ImageFormat, JobRequest, Level, Operation


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether no other state can follow."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


def new_id(prefix: str) -> str:
    """A ULID with a prefix: ``job_01J…``. Ids made later sort later, to the millisecond."""
    return f"{prefix}_{ULID()}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def made_at(job_id: str) -> datetime:
    """When an id was made, in UTC, to the millisecond."""
    return ULID.from_str(job_id.partition("_")[2]).datetime


def first_id(prefix: str, moment: datetime) -> str:
    """The smallest id that could have been made at ``moment`` or later."""
    milliseconds = -(-round(moment.timestamp() * 1_000_000) // 1000)
    return f"{prefix}_{ULID.from_bytes(milliseconds.to_bytes(6, 'big') + bytes(10))}"


class InputRef(_Frozen):
    """An input image, checked by its header and stored."""

    key: str
    """Object key in the bucket."""
    format: str
    width: int
    """Pixels, after EXIF orientation."""
    height: int
    bytes: int
    sha256: str


class JobSpec(_Frozen):
    """Everything a worker needs to run a job. Frozen when the job is accepted.

    ``request`` is what the caller asked for with every default resolved; its image fields name entries of ``inputs``.
    """

    id: str
    tenant: str
    model: str
    model_revision: str
    request: JobRequest
    inputs: dict[str, InputRef]
    created_at: datetime
    deadline_at: datetime | None = None
    key_id: str | None = None
    """The API key that asked for it, whose usage it is."""

    @property
    def queue(self) -> str:
        """The queue that the job waits in: ``{model}.{priority}``."""
        return queue_name(self.model, self.request.priority)


def queue_name(model: str, priority: str) -> str:
    """The name of the queue for one model and one priority."""
    return f"{model}.{priority}"


class Preserved(_Frozen):
    """Proof that kept pixels are the customer's: the picture before it is scaled and encoded, against the decoded input, where the edit region is not."""

    max_delta: int = Field(description="Largest difference of any kept channel value; 0 is exact.")
    changed_pixels: int
    kept_pixels: int
    sha256: str = Field(description="Of the kept pixels' bytes, row by row.")


class Subject(_Frozen):
    """The product: how surely it was found in the input, and whether it is the same in the output."""

    confidence: float | None = Field(
        default=None,
        description="Confidence, 0 to 1, that the product is found whole and alone. Null where a mask or the image's own alpha says what it is.",
    )
    iou: float | None = Field(
        default=None,
        description="Intersection over union, 0 to 1, of the product and of what is found in the output. For `replace_background` from a prompt; null "
        "where nothing was found again.",
    )
    growth: float | None = Field(default=None, description="Area that the product has gained, as a share of its own. Null as `iou` is.")


class ModelError(_Frozen):
    """The error of a model on kept pixels, which it paints too before the photo's own are put back.

    Medians of ΔE2000 over small squares beside the edit, or what the parts of each have in common where that is more, as in stripes.
    """

    painted: float = Field(description="As painted. 1 is hardly seen; above 5 the model changes colours.")
    corrected: float = Field(description="With the correction that the fill was given, on squares that the correction was not made from.")


class WarningCode(StrEnum):
    """The names of warnings; stable."""

    MASK_DEPRECATED = "mask_deprecated"
    PRODUCT_MASK_INVERTED = "product_mask_inverted"


class JobWarning(_Frozen):
    """Something that its owner should look at, though the job is done."""

    code: WarningCode = Field(description="Stable; switch on this.")
    message: str
    field: str = Field(description="The request field that it is about, as a dotted path.")


class Verdict(_Frozen):
    """What the measures say together. The limits are settings of the service."""

    level: Level
    reasons: tuple[str, ...] = Field(default=(), description="Which measures are beyond which limit; none for `pass`.")

    def doubted(self, level: Level, *reasons: str) -> Verdict:
        """The verdict with these ``reasons`` too, no better than ``level``."""
        return Verdict(level=max(self.level, level, key=lambda each: each.rank), reasons=(*self.reasons, *reasons))


class Wording(_Frozen):
    """The parts of a prompt that the model did not read."""

    unknown: tuple[str, ...] = Field(
        default=(), description="Words that mean nothing to the model and were left out; empty for a model that has met every word."
    )
    unheard: tuple[str, ...] = Field(
        default=(),
        description="Phrases that ask for something, and of which the model knows nothing: the picture does not show them. "
        "The whole prompt where it has no word that the model reads.",
    )
    unread: str | None = Field(default=None, description="The end of the prompt, beyond what the model reads; null: it read all.")


class ProductBox(_Frozen):
    """The product in the output, in pixels: what is at least half as opaque as the most opaque of it. ``right`` and ``bottom`` are outside."""

    left: int
    top: int
    right: int
    bottom: int


class Report(_Frozen):
    """What was measured on one output before it was encoded."""

    preserved: Preserved
    resampled: bool = Field(
        default=False,
        description="Whether the output is scaled: `preserved` is then proven of the photo's own pixels, before they were brought to their place, once.",
    )
    scale: float = Field(default=1.0, description="Pixels of the output to one of the photo, along a side.")
    product: ProductBox | None = Field(
        default=None, description="For `remove_background` and `replace_background`. Null where nothing of it is in the output."
    )
    coverage: float = Field(description="Share of the output that the edit region covers, 0 to 1.")
    model_error: ModelError | None = Field(
        default=None,
        description="How far the model was off on pixels that are kept, before and after correction. Null where a model paints none, or too few are kept.",
    )
    rim: float | None = Field(
        default=None,
        description="Levels (of 255) by which a line along the border of the edit is lighter or darker than both of its sides. Null where the border "
        "is too short or fades too widely.",
    )
    step: float | None = Field(
        default=None,
        description="Levels (of 255) by which the fill is off along all of the border, beyond doubt. For edits that go on with the photo (`erase`, "
        "`outpaint`); null for others, and as `rim` is.",
    )
    seam: float | None = Field(
        default=None,
        description="Gradient across the border of the edit over the gradient beside it: 1 is invisible. For edits that go on with the photo; null "
        "for others, and where the border is too short.",
    )
    colour_shift: float | None = Field(
        default=None,
        description="ΔE2000 by which the fill is off its surroundings along the border; photos that nobody edited have about 1. Null as `seam` is.",
    )
    subject: Subject | None = Field(
        default=None, description="For `remove_background` and `replace_background`; null where nothing is known of it."
    )
    prompt: Wording | None = Field(default=None, description="What the model did not read of the prompt. Null without one.")
    negative_prompt: Wording | None = Field(default=None, description="What it did not read of the negative prompt. Null without one.")
    attempts: int = Field(default=1, description="Seeds that were tried for this output; see `checks`.")
    warnings: tuple[JobWarning, ...] = Field(
        default=(),
        description="What the picture makes doubtful of the request; each is a reason of the verdict too. `product_mask_inverted`: the `product_mask` "
        "disagrees with the product that the segmenter finds, and its inverse agrees with it.",
    )
    painted_by: str | None = Field(
        default=None,
        description="The model whose result this is, where every attempt of the one that was asked for failed and another did better: `exemplar`, which "
        "goes on with the photo and reads no prompt. The verdict is then `warn` at best. Null: the job's own model.",
    )
    profile: ProfileReport | None = Field(
        default=None, description="The file that is delivered, held against each rule of the request's `profile`. Null without one."
    )
    verdict: Verdict = Verdict(level=Level.PASS)


class StoredOutput(_Frozen):
    """A committed result: objects in the bucket and what they hold."""

    key: str
    width: int
    height: int
    format: ImageFormat
    bytes: int
    sha256: str
    quality: int | None = None
    seed: int | None = None
    layers: dict[str, str] = Field(default_factory=dict)
    """Layer name to object key: ``product_mask``, ``mask``, ``fill``, ``cutout``."""
    report: Report


class JobOutput(BaseModel):
    """One result image."""

    url: str | None = Field(description="A presigned URL, made afresh by each read of the job; null once the output was deleted.")
    width: int
    height: int
    format: ImageFormat
    bytes: int
    sha256: str
    quality: int | None = Field(
        default=None, description="That it was written with: lower than asked for where `max_bytes` made it so. Null: lossless."
    )
    seed: int | None = None
    layers: dict[str, str] | None = Field(
        default=None,
        description="URLs of PNG files: the `product_mask` (white is the product; for `remove_background` and `replace_background`), the `mask` (white is "
        "edited), the `fill` and the `cutout` (RGBA). For those two operations `mask` is deprecated: `product_mask` upside down, for one more release.",
    )
    report: Report


class Progress(BaseModel):
    """Denoising steps done and to do, over all images of the job."""

    step: int
    steps: int
    preview_url: str | None = Field(
        default=None,
        description="With `previews`, once there is one: a presigned URL of a small JPEG of what is being painted, as of a few steps ago.",
    )


class JobUrls(BaseModel):
    """Where to read, cancel and follow the job: paths of this host, with the prefix that the service is reached under."""

    self: str
    cancel: str
    events: str

    @classmethod
    def of(cls, path: str) -> JobUrls:
        """Of a job at ``path``."""
        return cls(self=path, cancel=f"{path}/cancel", events=f"{path}/events")


class Job(BaseModel):
    """A job as its owner sees it."""

    id: str = Field(examples=["job_01JD0000000000000000000000"])
    operation: Operation
    model: str
    status: JobStatus
    progress: Progress | None = None
    position: int | None = Field(default=None, description="Jobs ahead in the same queue; while queued.")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = Field(description="How often a worker began it.")
    outputs: tuple[JobOutput, ...] = ()
    recipe: dict[str, Any] = Field(
        default_factory=dict,
        description="Every resolved setting, and once it succeeded what it ran with: versions, and the weights by their revisions. `model_revision`; "
        "`subject_model_revision` of the segmenter, where one may find the product for a painter; `edge_model` and `edge_model_revision`, where one draws "
        "the edge of what is found.",
    )
    error: ErrorInfo | None = None
    warnings: tuple[JobWarning, ...] = Field(
        default=(),
        description="What the request asks for in a way that will go. `mask_deprecated`: give `product_mask`. See the `report` of each output too.",
    )
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict)
    urls: JobUrls


class JobState(BaseModel):
    """What a key is told of a job that may change it and not read it."""

    id: str = Field(examples=["job_01JD0000000000000000000000"])
    status: JobStatus
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def of(cls, job: Job) -> JobState:
        """That of ``job``."""
        return cls(**job.model_dump(include=set(cls.model_fields)))


class JobList(BaseModel):
    """A page of jobs, newest first."""

    items: tuple[Job, ...]
    next: str | None = Field(default=None, description="Pass as `cursor` for the next page; null on the last.")


class DryRun(BaseModel):
    """What a job would be. Nothing was stored and nothing is held for it."""

    operation: Operation
    model: str
    recipe: dict[str, Any] = Field(
        description="Every resolved setting. Post its `seed` to get that one: each request without one draws its own."
    )
    warnings: tuple[JobWarning, ...] = Field(default=(), description="Those of the job; see there.")
    position: int = Field(description="Jobs that would be ahead in the same queue.")
    estimate_s: float | None = Field(
        description="Seconds until it would be done, by the median of what the model's last jobs took, whatever they asked for, as if each of its "
        "workers ran one job at a time. Null where none of its jobs was measured in the last week, or no worker serves it now."
    )


class Upload(BaseModel):
    """Bytes kept for a later job."""

    id: str = Field(examples=["upl_01JD0000000000000000000000"])
    source: str = Field(
        description="What to write in a job's `image`, `mask` or `product_mask`.", examples=["upload:upl_01JD0000000000000000000000"]
    )
    expires_at: datetime
    put_url: str | None = Field(default=None, description="Where to PUT the bytes; only for uploads asked for without a file.")


def utc_now() -> datetime:
    """Now, in UTC, to the millisecond (what the records keep)."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
