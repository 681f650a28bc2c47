"""Turns a request into one in which nothing is left to a default: the model, its settings, the seed.

What the chosen model would ignore is refused, so that a field that was accepted is a field that counts.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from api_schemas.errors import ImageTooLarge, Invalid, ModelNotFound, ParameterNotSupported
from api_schemas.models import BACKDROP, EXEMPLAR, STUDIO, U2NETP, ModelCard, ModelInfo
from api_schemas.prompts import weighed
from api_schemas.requests import (
    EraseRequest,
    ImageFormat,
    InpaintRequest,
    JobRequest,
    MaskOptions,
    Operation,
    OutpaintRequest,
    PaintedRequest,
    RemoveBackgroundRequest,
    ReplaceBackgroundRequest,
)
from service.intake import Header

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

LONGEST_SIDES = {ImageFormat.JPEG: 65500, ImageFormat.WEBP: 16383}
"""What the encoders can write."""


def resolve(
    request: JobRequest, models: Sequence[ModelInfo], *, subject_model: str = U2NETP.id, is_repeat: bool = False
) -> tuple[JobRequest, ModelCard]:
    """The request with every default filled in, and the model that will run it. ``subject_model`` finds the product where none is named.

    Where it ``is_repeat``, its prompts were accepted before and cannot be changed: weights that would be refused today are text.
    """
    # What a live worker serves comes first: a model that was retired is nobody's default. Studio stands back behind what was installed.
    ranked = sorted(models, key=lambda model: (not model.workers, model.card.id == STUDIO.id))
    if isinstance(request, RemoveBackgroundRequest):
        named = {"model": request.model, "subject_model": request.subject_model or subject_model}
        field, name = next((field, name) for field, name in named.items() if name is not None)
        card = _segmenter(name, models, field).card
        return request.model_copy(update={"model": card.id, "subject_model": None}), card
    card = choose_model(request, {model.card.id: model.card for model in ranked})
    _refuse_ignored(request, card)
    if request.checks.max_attempts > 1 and "seed" not in card.parameters:
        raise ParameterNotSupported(f"the model {card.id} takes no seed: it would paint the same again", field="checks.max_attempts")
    _check_scheduler(request, card)
    _check_loras(request, card)
    if not is_repeat:
        _check_prompts(request)
    update: dict[str, object] = {"model": card.id, **_sampling(request, card)}
    if isinstance(request, OutpaintRequest) or (isinstance(request, ReplaceBackgroundRequest) and request.mask is None):
        update["subject_model"] = _choose_subject_model(request, card, models, subject_model)
    if (options := getattr(request, "mask_options", None)) is not None or getattr(request, "mask", None) is not None:
        update["mask_options"] = _mask_options(options or MaskOptions(), request.operation)
    return request.model_copy(update=update), card


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
        value = getattr(request, field, None)
        asked = field in request.model_fields_set and value is not None and value is not False and value != ()
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
    field, width, height = "image", image.width, image.height
    if isinstance(request, OutpaintRequest) and request.canvas is not None:
        field, width, height = "canvas", request.canvas.width, request.canvas.height
        if width < image.width or height < image.height or (width, height) == (image.width, image.height):
            raise Invalid(f"the canvas must be larger than the image ({image.width}×{image.height})", field=field)
    elif isinstance(request, OutpaintRequest) and request.expand is not None:
        field, sides = "expand", request.expand
        width, height = image.width + sides.left + sides.right, image.height + sides.top + sides.bottom
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}×{height} pixels are more than {max_pixels}", field=field)
    longest = LONGEST_SIDES.get(request.output.format)
    if longest is not None and max(width, height) > longest:
        raise Invalid(f"{request.output.format} holds at most {longest} pixels on a side; use png", field="output.format")
