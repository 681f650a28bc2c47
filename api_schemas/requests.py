"""What a caller asks for: one body per operation, told apart by ``operation``. Unknown fields are refused."""

from __future__ import annotations

import json
import math
import re
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    TypeAdapter,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from api_schemas.colors import DIGITS, NAMES, parse_color

FAULT = "field_fault"
"""The type of pydantic's errors of ``field_fault``; ``ctx["field"]`` is then the field, below the model that was validated."""
MAX_SIDE = 16384
METADATA_LIMIT = 2048

ImageSource = Annotated[
    str,
    StringConstraints(min_length=1),
    Field(
        description="`https://…`, `data:image/…;base64,…`, `upload:{id}` (see `POST /v1/uploads`), or `file:{name}` in a multipart body.",
        examples=["upload:upl_01JD0000000000000000000000"],
    ),
]


class Operation(StrEnum):
    """What is done to the picture."""

    INPAINT = "inpaint"
    ERASE = "erase"
    OUTPAINT = "outpaint"
    REPLACE_BACKGROUND = "replace_background"
    REMOVE_BACKGROUND = "remove_background"


class Priority(StrEnum):
    """Which jobs go first. ``bulk`` yields to the others, and is still served when it has waited long."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BULK = "bulk"


class Scheduler(StrEnum):
    """The sampler of a diffusion model, by its usual name."""

    DDIM = "ddim"
    PNDM = "pndm"
    EULER = "euler"
    EULER_A = "euler_a"
    DPMPP_2M_KARRAS = "dpmpp_2m_karras"
    UNIPC = "unipc"


class Polarity(StrEnum):
    """Which pixels of a mask mean "edit here"."""

    WHITE_EDITS = "white_edits"
    BLACK_EDITS = "black_edits"
    ALPHA = "alpha"


class ImageFormat(StrEnum):
    """Formats that outputs are written in."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class JobEvent(StrEnum):
    """What a webhook can be told of."""

    STARTED = "job.started"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELED = "job.canceled"
    EXPIRED = "job.expired"


_INTEGERS = (
    *("grow_px", "feather_px", "quality", "left", "right", "top", "bottom", "width", "height"),
    *("max_bytes", "dpi", "seed", "num_images", "steps", "max_attempts", "overlap_s", "bytes"),
)
"""Fields of any body below that are integers (tests/service/test_openapi.py holds them against the schemas)."""


class Body(BaseModel):
    """A part of a request: frozen, and strict about unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator(*_INTEGERS, mode="before", check_fields=False)
    @classmethod
    def _whole_numbers_are_integers(cls, value: Any) -> Any:
        # 8.0 is an integer to JSON Schema; bodies are read strictly (service/bodies.py), which would refuse it.
        return int(value) if isinstance(value, float) and value.is_integer() else value


class MaskOptions(Body):
    """How the mask is read.

    The edit region is the mask after ``invert`` and ``grow_px``. A pixel's brightness is how much of it is replaced: white is new content alone,
    grey a blend of old and new. A mask needs at least one pixel that is wholly edited (239 or more of 255) and one that is kept (16 or less).
    """

    polarity: Polarity = Field(
        default=Polarity.WHITE_EDITS,
        description="`white_edits`: white is edited. `black_edits`: black is edited. `alpha`: transparent is edited, as with OpenAI.",
    )
    grow_px: int | None = Field(
        default=None,
        ge=0,
        le=512,
        description="Grow the mask by this many pixels. Default: 4 for `inpaint`, 8 for `erase`, 0 for `replace_background`; 0 too where the default "
        "would leave nothing to keep.",
    )
    feather_px: int | None = Field(
        default=None,
        ge=0,
        le=256,
        description="Fade the edit over this many pixels at its edge: outwards into what was grown, and where that is less, the rest inwards. "
        "Default: 6 for `erase`, else 4, and at most `grow_px`, so that what is white in the mask is new content alone.",
    )
    invert: bool = Field(default=False, description="Swap edited and kept, after `polarity`.")


def _all_of(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"allOf": list(rules)}


def _rules(*rules: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema of what validators say of several fields.

    Under a condition that always holds: what generates clients takes a bare ``allOf`` or ``oneOf`` for types, of which it makes no sense.
    """
    return {"if": {"type": "object"}, "then": rules[0] if len(rules) == 1 else _all_of(*rules)}


def _given(field: str, *kinds: str) -> dict[str, Any]:
    """It is there, and not null."""
    return {"required": [field], "properties": {field: {"type": kinds[0] if len(kinds) == 1 else list(kinds)}}}


def _only_with(field: str, other: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [_without(field), other]}


def _without(field: str) -> dict[str, Any]:
    """It is not there, or null."""
    return {"properties": {field: {"type": "null"}}}


def _by_profile(*fields: str) -> dict[str, Any]:
    """A profile is there, which gives what none of the fields does."""
    return {"required": ["profile"], "properties": {"profile": {"type": "string"}, **{field: {"type": "null"} for field in fields}}}


def _is_not_one(one: object | None, other: object | None, profile: str | None) -> bool:
    """Whether there is not exactly one of two fields, nor a profile that may give one where there is none."""
    return (one is None) == (other is None) and (one is not None or profile is None)


def field_fault(field: str, message: str) -> PydanticCustomError:
    """Fields that do not go together: pydantic itself would name the model that holds them."""
    return PydanticCustomError(FAULT, message, {"field": field})


Color = TypeAliasType(
    "Color",
    Annotated[
        str,
        AfterValidator(parse_color),
        WithJsonSchema(
            {
                "type": "string",
                "anyOf": [{"type": "string", "pattern": f"^{DIGITS}$"}, {"type": "string", "enum": list(NAMES)}],
                "description": "`#rrggbb`, `#rgb` or a CSS colour name, in small or capital letters.",
                "examples": ["#ffffff", "white"],
            }
        ),
    ],
)


class Fit(StrEnum):
    """How a picture fills an output of another ratio."""

    CONTAIN = "contain"
    COVER = "cover"


_BOTH_SIDES: dict[str, Any] = {"required": ["width", "height"], "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}}}
_WHOLE: dict[str, Any] = {"properties": {"fit": {"enum": [Fit.CONTAIN.value, None]}}}
_AS_JPEG = {"required": ["format"], "properties": {"format": {"enum": ["jpeg", "jpg"]}}}
_AS_LOSSY_WEBP = {"required": ["format", "quality"], "properties": {"format": {"const": "webp"}, "quality": {"type": "integer"}}}


_NOT_IN_NAMES = r"\u0000-\u001f\u007f-\u009f/\\\u2028-\u202e\u2066-\u2069"
"""Controls, what parts a path, and what turns the direction of text, behind which another ending could hide."""
_FILE_NAME = rf"^[^{_NOT_IN_NAMES}]*[^{_NOT_IN_NAMES}\s][^{_NOT_IN_NAMES}]*$"


def _names_a_file(value: str) -> str:
    if not value.strip() or re.search(f"[{_NOT_IN_NAMES}]", value):
        raise ValueError("a file name is not blank, and holds no slash, no backslash and no control character")
    return value


FileName = Annotated[
    str,
    StringConstraints(max_length=120),
    AfterValidator(_names_a_file),
    Field(examples=["shoe-17"], json_schema_extra={"pattern": _FILE_NAME}),
]


def _by_ending(value: Any) -> Any:
    """``jpeg`` as files are named."""
    return ImageFormat.JPEG.value if value == "jpg" else value


class OutputOptions(Body):
    """What the result is written as, and how large."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            _only_with("quality", {"required": ["format"], "properties": {"format": {"enum": ["jpeg", "jpg", "webp"]}}}),
            _only_with("max_bytes", {"anyOf": [_AS_JPEG, _AS_LOSSY_WEBP]}),
            _only_with("fit", _BOTH_SIDES),
            _only_with("pad_color", _all_of(_BOTH_SIDES, _WHOLE)),
        )
    )

    format: Annotated[ImageFormat, BeforeValidator(_by_ending, json_schema_input_type=Literal["png", "jpeg", "jpg", "webp"])] = (
        ImageFormat.PNG
    )
    quality: int | None = Field(
        default=None, ge=1, le=100, description="JPEG (default 92) and lossy WebP. A WebP without it is lossless. Refused for PNG."
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=MAX_SIDE,
        description="Pixels of the output. Without `height` the ratio is kept. Default: as painted. No picture is enlarged more than 4 times.",
    )
    height: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="Pixels of the output. Without `width` the ratio is kept.")
    fit: Fit | None = Field(
        default=None,
        description="With `width` and `height`. `contain` (default): all of the picture, centred, and padded where the ratios differ. `cover`: it fills the "
        "output, and what is over is cut off on both sides alike. `replace_background` pads with the new background, `remove_background` with nothing.",
    )
    pad_color: Color | None = Field(
        default=None,
        description="Of what is padded, in sRGB. For `inpaint`, `erase` and `outpaint`, with `width`, `height` and `contain`. Default: "
        "transparent; in JPEG white, as all that is transparent.",
    )
    max_bytes: int | None = Field(
        default=None,
        ge=1,
        le=2**40,
        description="The file's size at most, for JPEG, and for WebP with a `quality`: the quality is lowered from there as little as is needed, to 50 at least; "
        "where that is too much still, the job fails with `output_too_large`. Not of `layers`.",
    )
    dpi: int | None = Field(
        default=None,
        ge=1,
        le=2400,
        description="Dots per inch, as the file declares them. Default: what the input declares, in PNG and JPEG.",
    )
    filename: FileName | None = Field(
        default=None,
        description="What a download is called: `shoe-17` and `shoe-17.heic` become `shoe-17.png`, of several `shoe-17-1.png`, `shoe-17-2.png`, …, and layers "
        "`shoe-17.cutout.png`. Neither blank nor a path. The URLs then say `Content-Disposition: attachment`.",
    )
    layers: bool = Field(
        default=False,
        description="Also return the fill as an RGBA PNG, and the mask of the edit region; of `replace_background` the `product_mask` and the `cutout` "
        "too. Refused for `remove_background`, which always returns its `product_mask`.",
    )

    @model_validator(mode="after")
    def _quality_needs_a_lossy_format(self) -> Self:
        if self.quality is not None and self.format is ImageFormat.PNG:
            raise field_fault("quality", "quality has no meaning for png")
        if self.max_bytes is not None and self.format is ImageFormat.PNG:
            raise field_fault("max_bytes", "max_bytes has no meaning for png, which is lossless; use jpeg or webp")
        if self.max_bytes is not None and self.format is ImageFormat.WEBP and self.quality is None:
            raise field_fault("max_bytes", "a webp without quality is lossless; max_bytes lowers a quality, so give one to begin with")
        return self

    @model_validator(mode="after")
    def _fit_needs_both_sides(self) -> Self:
        both = self.width is not None and self.height is not None
        if self.fit is not None and not both:
            raise field_fault("fit", "fit needs width and height: with one of them the ratio is kept")
        if self.pad_color is not None and not both:
            raise field_fault("pad_color", "pad_color needs width and height: with one of them nothing is padded")
        if self.pad_color is not None and self.fit is Fit.COVER:
            raise field_fault("pad_color", "pad_color has no meaning with cover: nothing is padded")
        return self


def _no_event_twice(events: tuple[JobEvent, ...]) -> tuple[JobEvent, ...]:
    if len(set(events)) < len(events):
        raise ValueError("an event is named twice")
    return events


JobEvents = Annotated[
    tuple[JobEvent, ...],
    Field(min_length=1, max_length=len(JobEvent), json_schema_extra={"uniqueItems": True}),
    AfterValidator(_no_event_twice),
]
"""Each is looked at whenever a job's state changes, inside of Redis."""


class WebhookTarget(Body):
    """Where to send a signed POST when the job's state changes (Standard Webhooks)."""

    url: str = Field(min_length=1, max_length=2048, examples=["https://shop.example/hooks/outfill"])
    events: JobEvents = Field(
        default=(JobEvent.SUCCEEDED, JobEvent.FAILED, JobEvent.CANCELED, JobEvent.EXPIRED), description="By default every terminal event."
    )


class ColorBackground(Body):
    """One colour."""

    color: Color


class GradientStops(Body):
    """A linear gradient."""

    start: Color
    end: Color
    angle_deg: float = Field(default=180.0, ge=0, lt=360, description="As in CSS: 180 runs from top to bottom, 90 from left to right.")


class GradientBackground(Body):
    """A linear gradient from one colour to another."""

    gradient: GradientStops


class PictureBackground(Body):
    """A given picture, scaled to cover the frame and centred."""

    image: ImageSource


def _of_color(value: str) -> ColorBackground:
    return ColorBackground(color=parse_color(value))


def _background_kind(value: Any) -> str:
    """Which background is meant, by the field that only it has; so that an error speaks of that one."""
    if isinstance(value, str):
        return "Name"
    given = value if isinstance(value, dict) else value.__dict__ if isinstance(value, BaseModel) else {}
    return next((kind for kind, field in (("Gradient", "gradient"), ("Picture", "image")) if field in given), "Color")


Background = Annotated[
    Annotated[ColorBackground, PlainValidator(_of_color, json_schema_input_type=Color), Tag("Name")]
    | Annotated[ColorBackground, Tag("Color")]
    | Annotated[GradientBackground, Tag("Gradient")]
    | Annotated[PictureBackground, Tag("Picture")],
    Discriminator(_background_kind),
]


class ShadowKind(StrEnum):
    """What kind of shadow."""

    CONTACT = "contact"
    CAST = "cast"


_IS_CAST: dict[str, Any] = {"required": ["type"], "properties": {"type": {"const": "cast"}}}
_CAST = {"angle_deg": 315.0, "length": 1.0}
"""The light of a shadow that is cast, where none is given."""


class Shadow(Body):
    """A soft shadow on the ground, drawn from the product's mask."""

    model_config = ConfigDict(json_schema_extra=_rules(*(_only_with(name, _IS_CAST) for name in _CAST)))

    type: ShadowKind = Field(
        default=ShadowKind.CONTACT,
        description="`contact`: where each part of the product touches the ground. `cast`: its outline too, laid on the ground by a light.",
    )
    opacity: float = Field(default=0.45, gt=0, le=1)
    softness: float = Field(default=0.5, ge=0, le=1, description="0 is a hard edge; 1 spreads over a tenth of the product's width.")
    angle_deg: float | None = Field(
        default=None,
        ge=0,
        lt=360,
        description="Where the light comes from, seen from above and clockwise: 0 from behind the product, 90 from the right, 180 from the "
        "camera. Only for `cast`; its default is 315, from behind on the left.",
    )
    length: float | None = Field(
        default=None,
        ge=0.1,
        le=3,
        description="Length of a shadow on the ground, in heights of what casts it. Only for `cast`; its default is 1.",
    )

    @model_validator(mode="before")
    @classmethod
    def _lit(cls, value: Any) -> Any:
        """A light for a shadow that is cast and was given none."""
        if not isinstance(value, dict) or value.get("type") != "cast":
            return value
        return {**value, **{name: default for name, default in _CAST.items() if value.get(name) is None}}

    @model_validator(mode="after")
    def _light_is_used(self) -> Self:
        given = next((name for name in _CAST if getattr(self, name) is not None), None)
        if self.type is ShadowKind.CONTACT and given is not None:
            raise field_fault(given, 'only a shadow of "type": "cast" has a light')
        return self


class Expand(Body):
    """How far to extend the picture on each side, in pixels."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            {"anyOf": [{"required": [side], "properties": {side: {"minimum": 1}}} for side in ("left", "right", "top", "bottom")]}
        )
    )

    left: int = Field(default=0, ge=0, le=MAX_SIDE)
    right: int = Field(default=0, ge=0, le=MAX_SIDE)
    top: int = Field(default=0, ge=0, le=MAX_SIDE)
    bottom: int = Field(default=0, ge=0, le=MAX_SIDE)

    @model_validator(mode="after")
    def _extends_something(self) -> Self:
        if not (self.left or self.right or self.top or self.bottom):
            raise ValueError("at least one side must be extended")
        return self


class Anchor(StrEnum):
    """Where a picture stands on a larger canvas."""

    TOP_LEFT = "top_left"
    TOP = "top"
    TOP_RIGHT = "top_right"
    LEFT = "left"
    CENTER = "center"
    RIGHT = "right"
    BOTTOM_LEFT = "bottom_left"
    BOTTOM = "bottom"
    BOTTOM_RIGHT = "bottom_right"


_UP_TO_100 = r"(?:[1-9][0-9]?(?:\.[0-9]{1,3})?|100)"
Ratio = Annotated[
    str,
    StringConstraints(pattern=rf"^{_UP_TO_100}:{_UP_TO_100}$"),
    Field(examples=["4:5", "1.91:1"], description="Width to height, each 1 to 100: `4:5`, `16:9`, `1.91:1`."),
]


class Canvas(Body):
    """The size of the extended picture, or its ratio, and where the input stands on it."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            {
                "oneOf": [
                    {**_BOTH_SIDES, "properties": {**_BOTH_SIDES["properties"], "ratio": {"type": "null"}}},
                    {
                        "required": ["ratio"],
                        "properties": {"ratio": {"type": "string"}, "width": {"type": "null"}, "height": {"type": "null"}},
                    },
                ]
            }
        )
    )

    width: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    height: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    ratio: Ratio | None = Field(
        default=None, description="In place of `width` and `height`: the smallest canvas of it that holds the picture."
    )
    anchor: Anchor = Anchor.CENTER

    @model_validator(mode="after")
    def _sides_or_ratio(self) -> Self:
        if self.ratio is not None and (self.width is not None or self.height is not None):
            raise field_fault("ratio", "give exactly one of ratio and width with height")
        for side, length in (("width", self.width), ("height", self.height)):
            if self.ratio is None and length is None:
                raise field_fault(side, f"give width and height, or ratio: {side} is missing")
        return self


class Margins(Body):
    """What stays free of the product, as a share of the output's width (`left`, `right`) and height (`top`, `bottom`)."""

    left: float = Field(default=0.0, ge=0, lt=0.5)
    right: float = Field(default=0.0, ge=0, lt=0.5)
    top: float = Field(default=0.0, ge=0, lt=0.5)
    bottom: float = Field(default=0.0, ge=0, lt=0.5)


class Placement(Body):
    """How large the product is in the output, and where it stands.

    It is as large as `fill` and `margins` both allow. Where the photo cuts it off it stands at that border of the output, whatever is asked for.
    """

    fill: float | None = Field(
        default=None,
        ge=0.01,
        le=1,
        description="Share of the output's width or height, whichever is reached first, that the product takes. Default: 0.85, or with `margins` what they leave.",
    )
    align: Anchor = Field(default=Anchor.CENTER, description="Where it stands within the margins.")
    margins: Margins | None = Field(default=None, description="Default: (1 - `fill`) / 2 on each side.")


class LoraUse(Body):
    """A LoRA that is added to the model for one job."""

    name: str = Field(min_length=1, max_length=128)
    weight: float = Field(default=1.0, gt=0, le=2, description="How strongly it acts; 1 is as it was trained.")


class Level(StrEnum):
    """How good a result is, from best to worst."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"

    @property
    def rank(self) -> int:
        """0 is the best."""
        return list(Level).index(self)


class _Verdicts(Body):
    min_verdict: Literal[Level.PASS, Level.WARN] | None = Field(
        default=None, description="Where the best is still worse, the job fails with `checks_not_met`. Default: it never does."
    )


class _Confidence(Body):
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Where the product is found with less confidence (`report.subject.confidence`), the job fails with `checks_not_met` before anything "
        "is painted. Default: it never does. Not looked at where a mask or the image's own alpha says what the product is.",
    )


class Checks(_Verdicts):
    """Demands on a result, and how often it is tried."""

    max_attempts: int = Field(
        default=1,
        ge=1,
        le=8,
        description="Where a result is worse than `min_verdict` (or than `pass`), other seeds are tried; the best is kept.",
    )


class ProductChecks(Checks, _Confidence):
    """Demands on a result, on the product in it, and how often it is tried."""


class CutoutChecks(_Verdicts, _Confidence):
    """Demands on a cut-out. There is one answer: it is tried once."""

    max_attempts: ClassVar[int] = 1


class _Request(Body):
    image: ImageSource
    model: str | None = Field(default=None, max_length=128, description="Default: by operation; see `GET /v1/models`.")
    output: OutputOptions = OutputOptions()
    priority: Priority = Priority.STANDARD
    deadline_s: float | None = Field(
        default=None,
        ge=1,
        le=86400,
        description="Seconds from acceptance after which the job is worthless: it then ends `expired` or `failed`.",
    )
    webhook: WebhookTarget | None = None
    metadata: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Echoed in the job and its webhooks; at most 2 kB as JSON."
    )

    @field_validator("metadata")
    @classmethod
    def _metadata_is_small(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        if any(isinstance(item, float) and not math.isfinite(item) for item in value.values()):
            raise ValueError("metadata numbers must be finite")
        if len(json.dumps(value, ensure_ascii=False).encode()) > METADATA_LIMIT:
            raise ValueError(f"metadata must be at most {METADATA_LIMIT} bytes as JSON")
        return value


class _Painted(_Request):
    """Fields of operations in which a model paints. What the model in use would ignore is refused."""

    seed: int | None = Field(default=None, ge=0, lt=2**32, description="Default: drawn, and told in the output.")
    num_images: int = Field(default=1, ge=1, le=8, description="Variations, with seeds `seed`, `seed`+1, …")
    negative_prompt: str | None = Field(default=None, max_length=4000, description="What not to paint; weights as in `prompt`.")
    steps: int | None = Field(default=None, ge=1, le=150)
    guidance_scale: float | None = Field(default=None, ge=0, le=30)
    strength: float | None = Field(default=None, gt=0, le=1, description="1 repaints from noise; less starts from what is there.")
    scheduler: Scheduler | None = None
    loras: tuple[LoraUse, ...] = Field(default=(), max_length=4, description="Adapters of the model, by the names in its `loras`.")
    checks: Checks = Checks()
    previews: bool = Field(default=False, description="Small pictures while it is painted: `progress.preview_url` of the running job.")

    @field_validator("loras")
    @classmethod
    def _each_lora_once(cls, value: tuple[LoraUse, ...]) -> tuple[LoraUse, ...]:
        if len({use.name for use in value}) < len(value):
            raise ValueError("each LoRA may be named once")
        return value


Prompt = Annotated[
    str,
    StringConstraints(min_length=1, max_length=4000),
    Field(
        description="Not blank. `(teal wall:1.4)` asks for it more, `(teal wall:0.5)` less (0 to 2); `\\(` and `\\)` are parentheses. "
        "What the model does not read is in the report.",
        json_schema_extra={"pattern": r"\S"},
    ),
]


ProfileName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$"),
    Field(
        examples=["amazon_main"],
        description="A place that the picture is for (docs/profiles.md): `amazon_main`, `ebay`, `google_shopping`, `instagram_portrait` or `shopify_square`. "
        "What the request does not give is as the profile has it, size, format, placement and background; and the report tells of each of its rules. "
        "What is given is the request's own; `null` leaves `placement`, or a part of `output`, out.",
    ),
]

SubjectModel = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=128,
        description="The segmenter that finds the product: a model that does `remove_background`, by its id in `GET /v1/models`. Default: a setting of "
        "the service. It is not asked where the image's own alpha channel says what the product is.",
    ),
]


class InpaintRequest(_Painted):
    """Fill the masked region from the prompt."""

    operation: Literal[Operation.INPAINT]
    mask: ImageSource
    prompt: Prompt
    mask_options: MaskOptions = MaskOptions()


class EraseRequest(_Painted):
    """Remove what is under the mask. No prompt."""

    operation: Literal[Operation.ERASE]
    mask: ImageSource
    mask_options: MaskOptions = MaskOptions()


class OutpaintRequest(_Painted):
    """Extend the picture beyond its border, by ``expand`` or by ``canvas``, or as a ``profile`` has it."""

    model_config = ConfigDict(
        json_schema_extra=_rules({"oneOf": [_given("expand", "object"), _given("canvas", "object"), _by_profile("expand", "canvas")]})
    )

    operation: Literal[Operation.OUTPAINT]
    expand: Expand | None = None
    canvas: Canvas | None = None
    prompt: Prompt | None = None
    profile: ProfileName | None = None
    subject_model: SubjectModel = None

    @model_validator(mode="after")
    def _one_way_to_extend(self) -> Self:
        if _is_not_one(self.expand, self.canvas, self.profile):
            raise field_fault("expand", "give exactly one of expand and canvas")
        return self


_PLACED_RULES = (
    {"properties": {"output": {"properties": {"pad_color": {"type": "null"}}}}},
    _only_with("placement", {"properties": {"output": _WHOLE}}),
)
"""JSON Schema of what ``_refuse_unplaced`` says."""


def _refuse_unplaced(output: OutputOptions, placement: Placement | None, padding: str) -> None:
    """Raise where ``output`` asks for what has no meaning for a product on a new background."""
    if output.pad_color is not None:
        raise field_fault("output.pad_color", f"pad_color has no meaning here: {padding}")
    if placement is not None and output.fit is Fit.COVER:
        raise field_fault("output.fit", "cover has no meaning with placement, which shows the product whole")


ProductMask = Annotated[
    ImageSource | None,
    Field(
        description="White is the product, black is background, and what is between shows as much of the product. Where the file has an alpha channel "
        "that is not opaque throughout, its alpha is the mask, so that a cut-out can be given as it is. Neither grown nor faded, and nowhere "
        "above the image's own alpha. Default: the product is found.",
    ),
]


class ReplaceBackgroundRequest(_Painted):
    """Keep the product and paint the rest: from a ``prompt``, as a colour, a gradient or a picture, or as a ``profile`` has it."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            {"oneOf": [_given("prompt", "string"), _given("background", "object", "string"), _by_profile("prompt", "background")]},
            _only_with("mask_options", _given("mask", "string")),
            _only_with("mask", _without("product_mask")),
            _only_with("subject_model", {"properties": {"mask": {"type": "null"}, "product_mask": {"type": "null"}}}),
            *_PLACED_RULES,
        )
    )

    operation: Literal[Operation.REPLACE_BACKGROUND]
    checks: ProductChecks = ProductChecks()
    product_mask: ProductMask = None
    mask: ImageSource | None = Field(
        default=None,
        description="Deprecated: give `product_mask`, which is the other way up. By the default polarity white is edited, so here white marks the "
        "background. Taken for one more release, with the warning `mask_deprecated`; not together with `product_mask`.",
        json_schema_extra={"deprecated": True},
    )
    mask_options: MaskOptions | None = Field(
        default=None, description="Only with `mask`, and deprecated with it.", json_schema_extra={"deprecated": True}
    )
    subject_model: SubjectModel = None
    prompt: Prompt | None = None
    background: Background | None = Field(
        default=None, description='A string is the short form of one colour: `"white"` is `{"color": "white"}`.'
    )
    shadow: Shadow | None = Field(default=None, description="Grounds the product; one that meets the lower border warns. Default: none.")
    placement: Placement | None = Field(default=None, description="Default: where it is in the photo.")
    profile: ProfileName | None = None

    @model_validator(mode="after")
    def _one_background(self) -> Self:
        if _is_not_one(self.prompt, self.background, self.profile):
            raise field_fault("background", "give exactly one of prompt and background")
        if self.mask is not None and self.product_mask is not None:
            raise field_fault("mask", "mask and product_mask both say what the product is; give product_mask alone")
        if self.mask_options is not None and self.mask is None:
            needs = "mask_options belongs to mask: in product_mask white is the product, and it is neither grown nor faded"
            raise field_fault("mask_options", needs if self.product_mask is not None else "mask_options needs mask")
        if (self.mask is not None or self.product_mask is not None) and self.subject_model is not None:
            raise field_fault("subject_model", "the mask says what the product is: no model is asked for it")
        _refuse_unplaced(self.output, self.placement, "the background fills the output")
        return self


class RemoveBackgroundRequest(_Request):
    """Return the cut-out of the product (RGBA) and its mask."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            {
                "properties": {
                    "output": {"properties": {"format": {"enum": ["png", "webp"]}, "layers": {"type": "boolean", "const": False}}}
                }
            },
            *_PLACED_RULES,
        )
    )

    operation: Literal[Operation.REMOVE_BACKGROUND]
    checks: CutoutChecks = CutoutChecks()
    product_mask: ProductMask = None
    placement: Placement | None = Field(default=None, description="Default: where it is in the photo.")
    profile: ProfileName | None = None
    subject_model: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="The same as `model`; other operations know it by this name. With a `product_mask` it finds no product, and looks whether the mask is "
        "upside down.",
    )

    @model_validator(mode="after")
    def _one_segmenter(self) -> Self:
        if self.model is not None and self.subject_model is not None and self.model != self.subject_model:
            raise field_fault("subject_model", "model and subject_model both name the segmenter; give one of them")
        return self

    @model_validator(mode="after")
    def _transparent_format(self) -> Self:
        if self.output.format is ImageFormat.JPEG:
            raise field_fault("output.format", "jpeg has no transparency; use png or webp")
        if self.output.layers:
            raise field_fault("output.layers", "layers has no meaning here: the mask is always returned")
        _refuse_unplaced(self.output, self.placement, "what is around the product is transparent; see replace_background")
        return self


PaintedRequest = InpaintRequest | EraseRequest | OutpaintRequest | ReplaceBackgroundRequest
JobRequest = Annotated[
    InpaintRequest | EraseRequest | OutpaintRequest | ReplaceBackgroundRequest | RemoveBackgroundRequest,
    Field(discriminator="operation"),
]
job_request: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


class RepeatRequest(Body):
    """How a repeated job differs from the first. What is left out stays as it was; `null` is the field's default."""

    seed: int | None = Field(default=None, ge=0, lt=2**32, description="`null` draws a new one.")
    num_images: int | None = Field(default=None, ge=1, le=8)
    priority: Priority | None = None
    deadline_s: float | None = Field(default=None, ge=1, le=86400, description="Counted from the acceptance of the repetition.")
    webhook: WebhookTarget | None = Field(default=None, description="`null`: nobody is told.")
    metadata: dict[str, str | int | float | bool] | None = None


class PresignRequest(Body):
    """What is to be put to a presigned URL."""

    bytes: int | None = Field(
        default=None,
        ge=1,
        description="Size of the file. The URL then takes that size alone, and it counts as so much; else as the largest file that is accepted.",
    )
