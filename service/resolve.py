"""Turns a request into one in which nothing is left to a default: the model, its settings, the seed.

What the chosen model would ignore is refused, so that a field that was accepted is a field that counts.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from api_schemas.errors import ImageTooLarge, Invalid, ModelNotFound, ParameterNotSupported
from api_schemas.models import BACKDROP, EXEMPLAR, STUDIO, U2NETP, ModelCard, ModelInfo
from api_schemas.prompts import weighed
from api_schemas.requests import (
    EraseRequest,
    Fit,
    ImageFormat,
    InpaintRequest,
    JobRequest,
    Margins,
    MaskOptions,
    Operation,
    OutpaintRequest,
    OutputOptions,
    PaintedRequest,
    Placement,
    RemoveBackgroundRequest,
    ReplaceBackgroundRequest,
    job_request,
)
from api_schemas.sizes import MOST_ENLARGED, Size, output_size, painted_size
from profiles.catalogue import profile
from service.intake import Header
from service.problems import invalid

_OPTIONAL = (
    "prompt",
    "background",
    "shadow",
    "negative_prompt",
    "steps",
    "guidance_scale",
    "strength",
    "scheduler",
    "loras",
    "seed",
    "num_images",
    "previews",
)
"""Fields that a model may or may not honour, as ``ModelCard.parameters`` tells."""

MASK_DEFAULTS = {Operation.INPAINT: (4, 4), Operation.ERASE: (8, 6), Operation.REPLACE_BACKGROUND: (0, 0)}
"""Pixels by which a mask grows and over which the edit then fades, where the request does not say.

The fade lies in what was grown, so that what the mask marks is wholly new; docs/using.md ("Masks") gives these figures to callers.

- ``inpaint``: 4 and 4. The soft outer edge of a thing, its antialiasing and sharpening, is 2 to 3 pixels wide and outside of most masks: kept, it
  is left as an outline of the old thing around the new. All of the growth fades, since most such masks are drawn along something that stays.
- ``erase``: 8 and 6. Nothing of the thing may stay, its glow, its contact shadow and what JPEG rings around it included, and the background
  that takes its place can be painted over a margin unseen: two pixels more are wholly replaced before it fades.
- ``replace_background``: 0 and 0. The mask's edge is the product's: growth would eat it, a fade would leave the old background as a rim.
  A matte's own soft edge is kept as it is.
"""

FILL = 0.85
"""Share of the output that a product takes where the request does not say: what marketplaces ask of main pictures."""

_INSTEAD = {"prompt": "background", "expand": "canvas"}
"""A field that a request gives to a field of a profile that it stands for."""
_MERGED = frozenset({"output", "placement"})
"""Fields that a request and a profile may give parts of; all others are given whole."""

LONGEST_EXTENDED = 32_766
"""Pixels: OpenCV, which draws what goes on, counts places in signed numbers of 16 bits."""
LONGEST_SIDES = {ImageFormat.JPEG: 65500, ImageFormat.WEBP: 16383}
"""What the encoders can write."""


def resolve(
    request: JobRequest, models: Sequence[ModelInfo], *, subject_model: str = U2NETP.id, is_repeat: bool = False
) -> tuple[JobRequest, ModelCard]:
    """The request with every default filled in, and the model that will run it. ``subject_model`` finds the product where none is named.

    Where it ``is_repeat``, its prompts were accepted before and cannot be changed: weights that would be refused today are text.
    """
    if not is_repeat:  # else it was merged when it was first resolved
        request = with_profile(request)
    # What a live worker serves comes first: a model that was retired is nobody's default. Studio stands back behind what was installed.
    ranked = sorted(models, key=lambda model: (not model.workers, model.card.id == STUDIO.id))
    if isinstance(request, RemoveBackgroundRequest):
        named = {"model": request.model, "subject_model": request.subject_model or subject_model}
        field, name = next((field, name) for field, name in named.items() if name is not None)
        card = _segmenter(name, models, field).card
        return request.model_copy(update={"model": card.id, "subject_model": None, **_placing(request)}), card
    card = choose_model(request, {model.card.id: model.card for model in ranked})
    _refuse_ignored(request, card)
    if request.checks.max_attempts > 1 and "seed" not in card.parameters:
        raise ParameterNotSupported(f"the model {card.id} takes no seed: it would paint the same again", field="checks.max_attempts")
    _check_scheduler(request, card)
    _check_loras(request, card)
    if not is_repeat:
        _check_prompts(request)
    update: dict[str, object] = {"model": card.id, **_placing(request), **_sampling(request, card)}
    if isinstance(request, OutpaintRequest) or (
        isinstance(request, ReplaceBackgroundRequest) and request.mask is None and request.product_mask is None
    ):
        update["subject_model"] = _choose_subject_model(request, card, models, subject_model)
    if (options := getattr(request, "mask_options", None)) is not None or getattr(request, "mask", None) is not None:
        update["mask_options"] = _mask_options(options or MaskOptions(), request.operation)
    return request.model_copy(update=update), card


def with_profile(request: JobRequest) -> JobRequest:
    """The request with the fields of its profile where it is silent. What it gives is its own, and what excludes that gives way.

    Raises ``Invalid`` for a profile that is unknown or has nothing for the operation.
    """
    name: str | None = getattr(request, "profile", None)
    if name is None:
        return request
    chosen = profile(name)
    if request.operation not in chosen.request:
        raise Invalid(f"{name} is not for {request.operation}; it is for {', '.join(chosen.request)}", field="profile")
    asked = request.model_dump(exclude_unset=True)
    # One of these there must be: null says no more of it than silence.
    asked = {field: value for field, value in asked.items() if value is not None or field not in _INSTEAD.values()}
    defaults = _beside(asked, chosen.request[request.operation])
    fields = defaults | asked
    for part in _MERGED.intersection(defaults, asked):
        if asked[part] is not None:
            fields[part] = defaults[part] | asked[part]
    try:
        return job_request.validate_python(fields)
    except ValidationError as error:
        raise invalid(error) from error


def _beside(asked: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that go with what is asked: of fields that exclude each other, or mean something only together, what is asked decides."""
    output: Mapping[str, Any] = asked.get("output") or {}
    gone = {field for other, field in _INSTEAD.items() if asked.get(other) is not None}
    of_output: set[str] = set()
    if output.get("fit") is Fit.COVER:
        gone.add("placement")
    if output.get("width") is not None or output.get("height") is not None:
        of_output |= {"width", "height", "fit"}
    if output.get("format") is ImageFormat.PNG:
        of_output |= {"quality", "max_bytes"}
    left = {field: value for field, value in defaults.items() if field not in gone}
    return left | {"output": {field: value for field, value in left.get("output", {}).items() if field not in of_output}}


def choose_model(request: PaintedRequest, cards: Mapping[str, ModelCard]) -> ModelCard:
    """The model that was named, or the default of the operation: of models that read prompts the first. Raises ``ModelNotFound``."""
    if request.model is not None:
        card = cards.get(request.model)
        if card is None or request.operation not in card.operations:
            raise ModelNotFound(f"no model {request.model!r} does {request.operation}; see GET /v1/models", field="model")
        return card
    match request:
        case ReplaceBackgroundRequest(prompt=None):
            return cards[BACKDROP.id]
        case EraseRequest() | OutpaintRequest(prompt=None):
            return cards[EXEMPLAR.id]
        case InpaintRequest() | OutpaintRequest() | ReplaceBackgroundRequest():
            readers = (card for card in cards.values() if card.reads_prompts and request.operation in card.operations)
            card = next(readers, None)
            if card is None:  # where another model took Studio's name
                raise ModelNotFound(f"no model does {request.operation} from a prompt; see GET /v1/models", field="model")
            return card


def _choose_subject_model(
    request: OutpaintRequest | ReplaceBackgroundRequest, painter: ModelCard, models: Sequence[ModelInfo], default: str
) -> str:
    """The segmenter of a job that ``painter`` paints. Raises ``ModelNotFound`` where it is none, or a worker may take the job that does not have it.

    Workers load u2netp and the ``default`` whatever else they serve. Where no worker of the painter lives nobody knows what the next will have.
    """
    name = request.subject_model or default
    if name == U2NETP.id:
        return name
    found = _segmenter(name, models, "subject_model")
    if name != default:
        takers = next(model.workers for model in models if model.card.id == painter.id)
        if lacking := sorted(set(takers) - set(found.workers)):
            raise ModelNotFound(
                f"not every worker that serves {painter.id} has {name} ({len(lacking)} of {len(takers)} lack it); see GET /v1/models",
                field="subject_model",
            )
    return name


def _segmenter(name: str, models: Sequence[ModelInfo], field: str) -> ModelInfo:
    """The segmenter of this name. Raises ``ModelNotFound``."""
    for model in models:
        if model.card.id == name and Operation.REMOVE_BACKGROUND in model.card.operations:
            return model
    raise ModelNotFound(f"no model {name!r} does {Operation.REMOVE_BACKGROUND}; see GET /v1/models", field=field)


def _refuse_ignored(request: JobRequest, card: ModelCard) -> None:
    for field in _OPTIONAL:
        known = type(request).model_fields.get(field)
        # A default that is written out, as generated clients do, asks for nothing.
        asked = known is not None and getattr(request, field) != known.default
        if asked and field not in card.parameters:
            raise ParameterNotSupported(f"the model {card.id} would ignore it", field=field)


def _check_scheduler(request: PaintedRequest, card: ModelCard) -> None:
    if request.scheduler is not None and request.scheduler not in card.schedulers:
        raise ParameterNotSupported(f"the model {card.id} cannot be run with it; it takes {', '.join(card.schedulers)}", field="scheduler")


def _check_loras(request: PaintedRequest, card: ModelCard) -> None:
    unknown = [use.name for use in request.loras if use.name not in card.loras]
    if unknown:
        raise Invalid(f"the model {card.id} has no LoRA {unknown[0]!r}; see its loras in GET /v1/models", field="loras")


def _check_prompts(request: PaintedRequest) -> None:
    prompt: str | None = getattr(request, "prompt", None)
    if prompt is not None and not prompt.strip():
        raise Invalid("a prompt has to say something", field="prompt")
    for field in ("prompt", "negative_prompt"):
        try:
            weighed(getattr(request, field, None) or "")
        except Invalid as error:
            error.field = field
            raise


def _sampling(request: PaintedRequest, card: ModelCard) -> dict[str, object]:
    update: dict[str, Any] = {}
    if "seed" in card.parameters and request.seed is None:
        # Seeds of one job are consecutive, so the last one must fit too.
        update["seed"] = secrets.randbelow(2**32 - request.num_images * request.checks.max_attempts)
    elif request.seed is not None and request.seed + request.num_images * request.checks.max_attempts > 2**32:
        raise Invalid("seed + num_images × checks.max_attempts must not pass 2**32", field="seed")
    if card.sampling is not None:
        defaults = card.sampling.settings(request.operation)
        update |= {name: value for name, value in defaults.items() if getattr(request, name) is None}
        steps, strength, guidance_scale = (update.get(name, getattr(request, name)) for name in ("steps", "strength", "guidance_scale"))
        if int(steps * strength) < 1:
            raise Invalid(f"strength {strength:g} of {steps} steps leaves no step to run", field="strength")
        if request.negative_prompt and guidance_scale <= 1:
            raise Invalid("only with a guidance_scale above 1 is a negative prompt looked at", field="negative_prompt")
    return update


def _placing(request: JobRequest) -> dict[str, object]:
    """How the picture comes into its output, and its product to its place."""
    placement: Placement | None = getattr(request, "placement", None)
    if placement is not None:
        return {"placement": _placement(placement)}
    output = request.output
    if output.width is not None and output.height is not None and output.fit is None:
        return {"output": output.model_copy(update={"fit": Fit.CONTAIN})}
    return {}


def _placement(asked: Placement) -> Placement:
    fill, margins = asked.fill, asked.margins
    if fill is None:
        fill = FILL if margins is None else 1.0
    if margins is None:
        each = round((1 - fill) / 2, 6)
        margins = Margins(left=each, right=each, top=each, bottom=each)
    return asked.model_copy(update={"fill": fill, "margins": margins})


def _mask_options(options: MaskOptions, operation: Operation) -> MaskOptions:
    default_grow, default_feather = MASK_DEFAULTS[operation]
    grow = default_grow if options.grow_px is None else options.grow_px
    feather = min(default_feather, grow) if options.feather_px is None else options.feather_px
    return options.model_copy(update={"grow_px": grow, "feather_px": feather})


def default_growth(request: JobRequest, resolved: JobRequest) -> int:
    """Pixels by which the mask of ``resolved`` grows though ``request`` does not say so."""
    asked: MaskOptions | None = getattr(request, "mask_options", None)
    chosen: MaskOptions | None = getattr(resolved, "mask_options", None)
    return 0 if chosen is None or (asked is not None and asked.grow_px is not None) else chosen.grow_px or 0


def ungrown(request: JobRequest, resolved: JobRequest) -> JobRequest:
    """``resolved`` with the mask as it is drawn: a default is no reason to refuse one that growth would make cover everything."""
    asked: MaskOptions = getattr(request, "mask_options", None) or MaskOptions()
    options = _mask_options(asked.model_copy(update={"grow_px": 0}), request.operation)
    return resolved.model_copy(update={"mask_options": options})


def check_output_size(request: JobRequest, image: Header, max_pixels: int) -> None:
    """Refuse a result that is no larger than its input where it should be, larger than the limit, or than its format can hold."""
    photo = image.width, image.height
    painted = painted_size(request, photo)
    if isinstance(request, OutpaintRequest):
        _check_extension(request, photo, painted, max_pixels)
    width, height = output_size(request.output, painted)
    field = _side_of(request.output)
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}×{height} pixels are more than {max_pixels}", field=field)
    if getattr(request, "placement", None) is None:  # else it is the product that is scaled, and how large it is only the worker sees
        scales = width / painted[0], height / painted[1]
        scale = (max if request.output.fit is Fit.COVER else min)(scales)
        if scale > MOST_ENLARGED:
            have = f"{painted[0]}×{painted[1]} pixels would be enlarged {scale:.1f} times"
            raise Invalid(f"{have}, and more than {MOST_ENLARGED:g} show nothing but blur", field=field)
    longest = LONGEST_SIDES.get(request.output.format)
    if longest is not None and max(width, height) > longest:
        raise Invalid(f"{request.output.format} holds at most {longest} pixels on a side; use png", field="output.format")


def _check_extension(request: OutpaintRequest, photo: Size, painted: Size, max_pixels: int) -> None:
    field = "expand" if request.canvas is None else "canvas" if request.canvas.ratio is None else "canvas.ratio"
    if painted == photo and field == "canvas.ratio":
        raise Invalid(f"the image ({photo[0]}×{photo[1]}) has this ratio already", field=field)
    if painted[0] < photo[0] or painted[1] < photo[1] or painted == photo:
        raise Invalid(f"the canvas must be larger than the image ({photo[0]}×{photo[1]})", field=field)
    if painted[0] * painted[1] > max_pixels:
        raise ImageTooLarge(f"{painted[0]}×{painted[1]} pixels are more than {max_pixels}", field=field)
    if max(painted) > LONGEST_EXTENDED:
        raise ImageTooLarge(f"an extension may have {LONGEST_EXTENDED} pixels on a side, and not {max(painted)}", field=field)


def _side_of(output: OutputOptions) -> str:
    """The field to blame for the output's size: without any it is the image's own."""
    return "output.width" if output.width is not None else "output.height" if output.height is not None else "image"
