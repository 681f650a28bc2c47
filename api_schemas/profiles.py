"""Profiles: what a place where product pictures are published asks of them, rule by rule, and what a picture was found to be."""

from __future__ import annotations

import json
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api_schemas.requests import Operation, ProfileName, job_request


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Certainty(StrEnum):
    """How a rule is known."""

    PUBLISHED = "published"
    """Read in a page of the place itself."""
    REPORTED = "reported"
    """Read in somebody else's page about the place."""
    REMEMBERED = "remembered"
    """Found in no page: from general knowledge of the place."""


class RuleLevel(StrEnum):
    """What the place does with a picture that breaks a rule."""

    MUST = "must"
    """Refuses it, or may take it down."""
    SHOULD = "should"
    """Takes it, and advises against it."""


class RuleResult(StrEnum):
    """What was found."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNCHECKED = "unchecked"


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class _Rule(_Frozen):
    id: Name
    """Unique within its profile."""
    level: RuleLevel
    text: str = Field(min_length=1)
    """What is asked for, in a sentence."""
    source: str = Field(pattern=r"^https://")
    """The page that says so; of what is remembered, the page where it should be looked up."""
    date: date
    """When that page was read, or when it says that it was published."""
    certainty: Certainty


class _Range(_Rule):
    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        low, high = getattr(self, "min", None), getattr(self, "max", None)
        if low is None and high is None:
            raise ValueError("min, max or both must be given")
        if low is not None and high is not None and low > high:
            raise ValueError("min is larger than max")
        return self


class SideRule(_Range):
    """A length in pixels."""

    kind: Literal["side"]
    side: Literal["longest", "shortest", "width", "height"]
    min: int | None = Field(default=None, ge=1)
    max: int | None = Field(default=None, ge=1)


class MegapixelsRule(_Rule):
    """Width times height, in millions."""

    kind: Literal["megapixels"]
    max: float = Field(gt=0)


class RatioRule(_Range):
    """Width over height. A picture passes whose sides, one pixel longer or shorter, would meet the limit: sides are whole numbers."""

    kind: Literal["ratio"]
    min: float | None = Field(default=None, gt=0)
    max: float | None = Field(default=None, gt=0)


class FormatRule(_Rule):
    """The format of the file, whatever its name ends with."""

    kind: Literal["format"]
    formats: tuple[Literal["jpeg", "png", "webp", "gif", "tiff", "bmp", "avif"], ...] = Field(min_length=1)


class SingleFrameRule(_Rule):
    """One picture in the file: no animation, no pages."""

    kind: Literal["single_frame"]


class BytesRule(_Rule):
    """The size of the file. Where a place says MB, a million bytes are meant here: the smaller reading."""

    kind: Literal["bytes"]
    max: int = Field(ge=1)


class JpegQualityRule(_Rule):
    """The quality of a JPEG on the scale of the Independent JPEG Group, read from its table of luminance. Other formats have none."""

    kind: Literal["jpeg_quality"]
    min: int = Field(ge=1, le=100)


class ColourSpaceRule(_Rule):
    """sRGB, by an embedded profile or by none: what declares no colour space is shown as sRGB."""

    kind: Literal["srgb"]


class WhiteBackgroundRule(_Rule):
    """Pure white (255, 255, 255) around the product.

    Pixels within 16 of the product are left out: there a JPEG's blocks hold its edge.
    """

    kind: Literal["white_background"]
    min_share: Share
    """Of the pixels of the background, and of those at the picture's border, that must be pure white."""
    or_transparent: bool = False
    """Whether a pixel that is wholly transparent is as good."""


class ProductShareRule(_Range):
    """Width of the product over the picture's, or height, whichever is more: what limits how large the product could be shown."""

    kind: Literal["product_share"]
    min: Share | None = None
    max: Share | None = None


class ProductWholeRule(_Rule):
    """Background on all four sides of the product."""

    kind: Literal["product_whole"]
    min_margin_px: int = Field(default=1, ge=1)


class NoBorderRule(_Rule):
    """No frame of one colour along all four sides, and no rectangle drawn around the product."""

    kind: Literal["no_border"]


class OpaqueRule(_Rule):
    """No pixel that is transparent, not even in part."""

    kind: Literal["opaque"]


class UncheckedRule(_Rule):
    """What pixels alone cannot tell."""

    kind: Literal["unchecked"]
    reason: str = Field(min_length=1)


Rule = Annotated[
    SideRule
    | MegapixelsRule
    | RatioRule
    | FormatRule
    | SingleFrameRule
    | BytesRule
    | JpegQualityRule
    | ColourSpaceRule
    | WhiteBackgroundRule
    | ProductShareRule
    | ProductWholeRule
    | NoBorderRule
    | OpaqueRule
    | UncheckedRule,
    Field(discriminator="kind"),
]


class Profile(_Frozen):
    """A place where pictures are published: how to ask for one that fits, and the rules that it is held against."""

    name: ProfileName
    title: str = Field(min_length=1)
    source: str = Field(pattern=r"^https://")
    """The place's own page, where changes should be looked for."""
    read: date
    """When the rules were last looked up."""
    request: dict[Operation, dict[str, Any]]
    """Fields of a request, by operation: defaults under what a caller gives. An operation that is not named does not go with the profile."""
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _requests_are_valid(self) -> Self:
        for operation, fields in self.request.items():
            whole = {"operation": operation, "image": "upload:any", **fields}
            job_request.validate_json(json.dumps(whole), strict=True)
        return self

    @model_validator(mode="after")
    def _each_rule_once(self) -> Self:
        ids = [rule.id for rule in self.rules]
        if len(set(ids)) < len(ids):
            raise ValueError(f"two rules have the id {next(each for each in ids if ids.count(each) > 1)}")
        return self


class Finding(_Frozen):
    """One rule of a profile, and what the picture was found to be."""

    rule: str = Field(description="The rule's id in the profile.")
    level: RuleLevel
    result: RuleResult
    value: float | int | str | None = Field(default=None, description="What was measured; null where nothing was.")
    limit: str | None = Field(default=None, description="What it must be; null where a rule has no figure.")
    reason: str | None = Field(default=None, description="Why a rule is `unchecked`, or what a `value` does not tell of a `fail`.")


class ProfileReport(_Frozen):
    """A picture held against a profile, rule by rule."""

    name: str
    rules: tuple[Finding, ...]

    @property
    def passes(self) -> bool:
        """Whether no rule of level ``must`` fails. What is unchecked is for a person to look at."""
        return not any(each.level is RuleLevel.MUST and each.result is RuleResult.FAIL for each in self.rules)
