"""From a job's stored inputs to pictures that a model can paint: decode, find what is edited, crop, scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from api_schemas.errors import MaskFull, OutfillError
from api_schemas.jobs import JobSpec
from api_schemas.models import ModelCard
from api_schemas.requests import (
    EraseRequest,
    InpaintRequest,
    MaskOptions,
    OutpaintRequest,
    PaintedRequest,
    PictureBackground,
    RemoveBackgroundRequest,
    ReplaceBackgroundRequest,
)
from worker.engines.base import Backdrop, Mask, PaintRequest, Pixels, Sampling
from worker.images.blend import composite, estimate_foreground
from worker.images.canvas import extend, place
from worker.images.codec import Frame, decode, decode_mask
from worker.images.crop import Crop, plan_crop, take, take_mask
from worker.images.mask import edit_alpha
from worker.images.subject import Segmenter, subject_of

OUTPAINT_FEATHER_PX = 2
"""More would blend in the prefill, which shows as a line along the old border."""

Fetch = Callable[[str], bytes]
"""The bytes of an input by its name."""


@dataclass(frozen=True, eq=False)
class Edit:
    """What is changed in a picture and what is kept."""

    source: Frame
    """The decoded input, to prove against what was kept."""
    origin: tuple[int, int]
    """(left, top) of the source in the frame."""
    frame: Frame
    """What the fill is pasted onto, at the output's size. Equal to the source where ``alpha`` is 0."""
    alpha: Mask
    """``uint8 (H, W)``: 0 is kept exactly, 255 is all fill, between is blended."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A job that is ready to be painted."""

    edit: Edit
    crop: Crop | None
    """Where the model's pictures go; ``None`` where nothing is painted."""
    requests: tuple[PaintRequest, ...]
    """One for each output; none where nothing is painted."""


def prepare(spec: JobSpec, card: ModelCard, fetch: Fetch, segmenter: Segmenter, *, max_pixels: int) -> Plan:
    """Decode the inputs of a job and plan its painting. Raises ``OutfillError`` for what is wrong with them."""

    def read(name: str) -> Frame:
        with _blaming(name):
            return decode(fetch(name), max_pixels=max_pixels)

    def read_mask(options: MaskOptions | None) -> Mask:
        options = options or MaskOptions()
        with _blaming("mask"):
            mask = decode_mask(fetch("mask"), options, max_pixels=max_pixels)
        alpha = edit_alpha(mask, options.grow_px or 0, options.feather_px or 0)
        if alpha.all():
            raise MaskFull(f"grown by {options.grow_px} px the mask covers everything; see mask_options.grow_px", field="mask")
        return alpha

    source, request = read("image"), spec.request
    match request:
        case RemoveBackgroundRequest():
            return Plan(_cut_out(source, subject_of(source, segmenter)), None, ())
        case InpaintRequest() | EraseRequest():
            edit = Edit(source, (0, 0), source, read_mask(request.mask_options))
        case OutpaintRequest():
            edit = _outpaint(source, request)
        case ReplaceBackgroundRequest():
            given = request.mask is not None
            alpha = read_mask(request.mask_options) if given else 255 - subject_of(source, segmenter)
            edit = _behind_product(source, alpha)
    picture = read("background.image").pixels if "background.image" in spec.inputs else None
    crop = plan_crop(edit.alpha, native_size=card.native_size, multiple=card.size_multiple, max_upscale=card.max_upscale)
    return Plan(edit, crop, _paint_requests(request, card, edit, crop, picture))


class _blaming:  # noqa: N801 - reads as a statement
    """Names the input field that an error raised inside is to be blamed on."""

    def __init__(self, field: str) -> None:
        self._field = field

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OutfillError):
            error.field = self._field


def _cut_out(source: Frame, matte: Mask) -> Edit:
    """The subject alone: its colours free of the old background, and the matte as alpha. Nothing is pasted."""
    frame = Frame(estimate_foreground(source.pixels, matte), matte, source.icc)
    return Edit(source, (0, 0), frame, 255 - matte)


def _behind_product(source: Frame, alpha: Mask) -> Edit:
    """Everything but the product is edited. The result is opaque, so the frame has no alpha."""
    frame = Frame(estimate_foreground(source.pixels, 255 - alpha), None, source.icc)
    return Edit(source, (0, 0), frame, alpha)


def _outpaint(source: Frame, request: OutpaintRequest) -> Edit:
    if request.expand is not None:
        sides = (request.expand.left, request.expand.right, request.expand.top, request.expand.bottom)
    elif request.canvas is not None:
        sides = place((source.width, source.height), request.canvas)
    frame, mask = extend(source, *sides)
    return Edit(source, (sides[0], sides[2]), frame, edit_alpha(mask, 0, OUTPAINT_FEATHER_PX))


def _paint_requests(request: PaintedRequest, card: ModelCard, edit: Edit, crop: Crop, picture: Pixels | None) -> tuple[PaintRequest, ...]:
    painted = (edit.alpha > 0).astype(np.uint8) * 255
    # A product's mask is soft at its edge; what is seen through it belongs to the new background.
    mask = take_mask(edit.alpha if card.native_size is None else painted, crop)
    first = PaintRequest(_as_seen(edit.frame, crop), mask, request.seed or 0, _recipe(request, picture))
    return tuple(replace(first, seed=first.seed + n) for n in range(request.num_images))


def _as_seen(frame: Frame, crop: Crop) -> Pixels:
    """The crop as a model sees it: what is transparent is white."""
    pixels = take(frame.pixels, crop)
    if frame.alpha is None:
        return pixels
    return composite(np.full_like(pixels, 255), pixels, take(frame.alpha, crop))


def _recipe(request: PaintedRequest, picture: Pixels | None) -> Sampling | Backdrop | None:
    if isinstance(request, ReplaceBackgroundRequest) and request.background is not None:
        return Backdrop(request.background, request.shadow, picture if isinstance(request.background, PictureBackground) else None)
    settings = (request.steps, request.guidance_scale, request.strength, request.scheduler)
    match settings:
        case (int(steps), float(guidance_scale), float(strength), scheduler) if scheduler is not None:
            prompt = getattr(request, "prompt", None) or ""
            loras = tuple((use.name, use.weight) for use in request.loras)
            return Sampling(prompt, request.negative_prompt or "", steps, guidance_scale, strength, scheduler, loras)
    return None
