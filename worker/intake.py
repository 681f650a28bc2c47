"""From a job's stored inputs to pictures that a model can paint: decode, find what is edited, crop, scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from api_schemas.errors import Invalid, MaskEmpty, MaskFull, OutfillError, SubjectNotFound
from api_schemas.jobs import JobSpec, JobWarning, Preserved, WarningCode
from api_schemas.models import EXEMPLAR, EngineKind, ModelCard
from api_schemas.requests import (
    EraseRequest,
    InpaintRequest,
    JobRequest,
    MaskOptions,
    OutpaintRequest,
    PaintedRequest,
    PictureBackground,
    RemoveBackgroundRequest,
    ReplaceBackgroundRequest,
)
from api_schemas.sizes import output_size
from worker.decoding import Decoder
from worker.engines.base import Backdrop, Mask, PaintRequest, Pixels, Sampling
from worker.images import codec
from worker.images.backdrop import recoloured
from worker.images.blend import estimate_foreground
from worker.images.canvas import extend, place
from worker.images.codec import Frame, into_space
from worker.images.crop import Crop, Region, fit_mask, plan_crop, plan_regions, take
from worker.images.ground import doubts, things_in
from worker.images.mask import Box, edit_alpha
from worker.images.placement import cut_sides, kept_in_place, placed, product_box
from worker.images.polarity import looks_inverted
from worker.images.resample import Landing, resample
from worker.images.sizing import landing_of
from worker.images.subject import Product, Segmenter, subject_of
from worker.images.transparency import GREY, WHITE, continued, over_ground
from worker.proof import prove

OUTPAINT_FEATHER_PX = 2
"""More would blend in the prefill, which shows as a line along the old border."""

KNOWN_SHARE = 0.4
"""Of what a pass of an outpainting leaves: at least so much was there before it, so that the model sees what to continue."""
_LEAST_GROWTH_PX = 64

_INVERTED = (
    "white is the product, and the segmenter finds the product where the mask is black: it looks inverted (a mask of the background, white where "
    "there is no product)"
)

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
    cover: Mask | None = None
    """``uint8 (H, W)``: how opaque the fill itself is; ``None``: wholly."""
    confidence: float | None = None
    """Confidence, 0..1, that the product is found whole and alone; ``None`` where no segmenter was asked."""
    things: Mask | None = None
    """``uint8 (H, W)``: 255 on the product and above 0 on what else must not be seen twice; ``None`` where nothing was looked for or found."""
    doubts: tuple[str, ...] = ()
    """Reasons, known before it is painted, for which it may not come out well."""
    warnings: tuple[JobWarning, ...] = ()
    """The same, where they have a name and a field of the request to blame."""
    is_continued: bool = False
    """Whether the picture alone goes on, without anything new."""
    landing: Landing | None = None
    """How the photo was brought to the frame, where that is the output's canvas with its product at its place; ``None``: it stands at ``origin``."""
    preserved: Preserved | None = None
    """Of such a product: proof that it was the photo's own before it was placed."""

    @property
    def place(self) -> Box:
        """Where the source stands in the frame."""
        return Box(0, 0, self.source.width, self.source.height).moved(*self.origin)


@dataclass(frozen=True, eq=False)
class Plan:
    """A job that is ready to be painted."""

    edit: Edit
    passes: tuple[tuple[Region, ...], ...] = ()
    """Painted in turn, each on what those before it left; the regions of one at once. None where nothing is painted."""
    recipe: Sampling | Backdrop | None = None
    hard_mask: bool = True
    """Whether the engine is shown what is painted at all, rather than how much of it is pasted."""
    known: tuple[Box, ...] = ()
    """Of an outpainting: what is there before each pass."""
    without_prompt: Callable[[], Plan] | None = None
    """The same by the model that reads no prompt and goes on with the picture, where that has a meaning; made when it is needed, once."""

    @property
    def is_extended_by_model(self) -> bool:
        """Whether a model paints more of the picture, which need not go on with it. Other engines do nothing else."""
        return bool(self.known) and isinstance(self.recipe, Sampling)

    def request(self, region: Region, frame: Frame, passed: int, seed: int) -> PaintRequest:
        """``region`` of the pass after ``passed``, on ``frame`` as it is by then."""
        mask = fit_mask(self.unknown(passed, region.crop.box), region.crop.size)
        things = None
        if self.edit.things is not None and self.recipe is None:  # a model sees for itself
            things = fit_mask(self.edit.things[region.crop.box.slices], region.crop.size)
        return PaintRequest(_as_seen(frame, region.crop), mask, seed, self.recipe, things)

    def unknown(self, passed: int, box: Box) -> Mask:
        """``uint8 (h, w)`` of ``box``: what is not there before the pass after ``passed``: 255, or the strength of the edit for soft masks."""
        alpha = self.edit.alpha[box.slices]
        if not self.known:
            return (alpha > 0).astype(np.uint8) * 255 if self.hard_mask else alpha
        mask, known = np.full(alpha.shape, 255, np.uint8), self.known[passed]
        rows = slice(max(0, known.top - box.top), max(0, known.bottom - box.top))
        mask[rows, max(0, known.left - box.left) : max(0, known.right - box.left)] = 0
        return mask

    def next_canvas(self, frame: Frame, passed: int) -> Frame:
        """``frame`` for the pass after ``passed``: what is not there yet is carried on from what is."""
        box = self.known[passed]
        known = Frame(
            np.ascontiguousarray(frame.pixels[box.slices]),
            None if frame.alpha is None else np.ascontiguousarray(frame.alpha[box.slices]),
            frame.icc,
        )
        return extend(known, box.left, frame.width - box.right, box.top, frame.height - box.bottom)[0]


def prepare(spec: JobSpec, card: ModelCard, fetch: Fetch, segmenter: Segmenter, *, max_pixels: int, decoder: Decoder = codec) -> Plan:
    """Decode the inputs of a job and plan its painting. Raises ``OutfillError`` for what is wrong with them."""

    def read(name: str) -> Frame:
        with _blaming(name):
            return decoder.decode(fetch(name), max_pixels=max_pixels)

    request = spec.request
    with ThreadPoolExecutor(1) as beside:  # decoders run without the interpreter's lock
        masks = beside.submit(_read_masks, request, fetch, decoder, max_pixels)
        source = read("image")  # what is wrong with the image is said before what is wrong with the mask
    painted, product_mask = masks.result()
    match request:
        case RemoveBackgroundRequest():
            return Plan(_on_canvas(_cut_out(source, *_product(source, product_mask, segmenter)), request))
        case InpaintRequest() | EraseRequest():
            if painted is None:
                raise ValueError("such a request has a mask")
            edit = Edit(source, (0, 0), source, painted, _cover(source, painted, goes_on=isinstance(request, EraseRequest)))
        case OutpaintRequest():
            return _extended(source, request, card, segmenter)
        case ReplaceBackgroundRequest():
            edit = _on_canvas(_behind_product(source, *_product(source, product_mask, segmenter, background=painted)), request)
    backdrop = read("background.image") if "background.image" in spec.inputs else None
    picture = into_space(over_ground(backdrop, WHITE), backdrop.icc, source.icc) if backdrop else None
    plan = _filled(edit, request, card, _recipe(request, source, picture))
    if isinstance(request, EraseRequest) and isinstance(plan.recipe, Sampling):
        return replace(plan, without_prompt=cache(lambda: _filled(edit, request, EXEMPLAR, None)))
    return plan


def _read_masks(request: JobRequest, fetch: Fetch, decoder: Decoder, max_pixels: int) -> tuple[Mask | None, Mask | None]:
    """What is edited, and what is the product, where the request has a mask of it. Raises ``OutfillError`` for what is wrong with them."""
    edited = product = None
    if getattr(request, "mask", None) is not None:
        options: MaskOptions = getattr(request, "mask_options", None) or MaskOptions()
        with _blaming("mask"):
            mask = decoder.decode_mask(fetch("mask"), options, max_pixels=max_pixels)
        edited = edit_alpha(mask, options.grow_px or 0, options.feather_px or 0)
        if edited.all():
            raise MaskFull(f"grown by {options.grow_px} px the mask covers everything; see mask_options.grow_px", field="mask")
    if getattr(request, "product_mask", None) is not None:
        with _blaming("product_mask"):
            product = decoder.decode_product_mask(fetch("product_mask"), max_pixels=max_pixels)
    return edited, product


def _extended(source: Frame, request: OutpaintRequest, card: ModelCard, segmenter: Segmenter) -> Plan:
    plan = _outpaint(source, request, card, segmenter)
    if not plan.is_extended_by_model:
        return plan
    return replace(plan, without_prompt=cache(lambda: _outpaint(source, request, EXEMPLAR, segmenter)))


def _filled(edit: Edit, request: PaintedRequest, card: ModelCard, recipe: Sampling | Backdrop | None) -> Plan:
    if not edit.alpha.any():  # an output that shows nothing but the product
        return Plan(edit)
    # The background behind a product is one thing, however the product parts it.
    apart = plan_regions if isinstance(request, InpaintRequest | EraseRequest) else _whole
    return Plan(edit, (apart(edit.alpha, **_sizes(card)),), recipe, hard_mask=card.native_size is not None)


class _blaming:  # noqa: N801 - reads as a statement
    """Names the input field that an error raised inside is to be blamed on."""

    def __init__(self, field: str) -> None:
        self._field = field

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OutfillError):
            error.field = self._field


def _product(
    source: Frame, mask: Mask | None, segmenter: Segmenter, *, background: Mask | None = None
) -> tuple[Product, tuple[JobWarning, ...]]:
    """The product that a ``mask`` of it, or one of the ``background``, says; else the one that is found. And what is doubtful of the mask.

    It is nowhere more opaque than the file. Raises ``SubjectNotFound``, and ``MaskEmpty`` where nothing of what the mask says is seen.
    """
    if mask is None:
        return (subject_of(source, segmenter) if background is None else Product(_within(source, 255 - background), None)), ()
    matte = _within(source, mask)
    if not matte.any():
        raise MaskEmpty("the image is clear wherever the mask says that the product is", field="product_mask")
    inverted = JobWarning(code=WarningCode.PRODUCT_MASK_INVERTED, message=_INVERTED, field="product_mask")
    return Product(matte, None), (inverted,) if looks_inverted(mask, source, segmenter) else ()


def _within(source: Frame, matte: Mask) -> Mask:
    """``matte (H, W)``, nowhere above the image's own alpha: of what is kept no more is seen than was there."""
    return matte if source.alpha is None else np.minimum(matte, source.alpha)


def _cut_out(source: Frame, product: Product, warnings: tuple[JobWarning, ...]) -> Edit:
    """The product alone: its colours free of the old background, and the matte as alpha. Nothing is pasted."""
    matte = product.matte
    frame = Frame(_foreground(source, matte), matte, source.icc)
    return Edit(source, (0, 0), frame, 255 - matte, confidence=product.confidence, warnings=warnings)


def _behind_product(source: Frame, product: Product, warnings: tuple[JobWarning, ...]) -> Edit:
    """Everything but the product is edited. The result is opaque, so the frame has no alpha."""
    matte = product.matte
    frame = Frame(_foreground(source, matte), None, source.icc)
    return Edit(source, (0, 0), frame, 255 - matte, confidence=product.confidence, warnings=warnings)


def _on_canvas(edit: Edit, request: RemoveBackgroundRequest | ReplaceBackgroundRequest) -> Edit:
    """``edit``, whose frame is the product's colours, on the canvas of the output: straight from the photo's pixels, which are proven before."""
    source, matte = edit.source, 255 - edit.alpha
    size = source.width, source.height
    canvas = output_size(request.output, size)
    if request.placement is None and canvas == size:
        return edit
    # A cut-out file may be trimmed to its product, which then meets its borders and is whole.
    cut = cut_sides(matte, trimmed=source.alpha is not None and edit.confidence is None)
    if request.placement is None:
        spot = kept_in_place(landing_of(request.output, size), size, cut)
    elif product_box(matte) is None:
        raise SubjectNotFound("What is kept is clear: there is nothing to place.")
    else:
        spot = placed(matte, canvas, request.placement, cut)
    preserved = prove(source.pixels, edit.frame.pixels, edit.alpha)
    product = resample(Frame(edit.frame.pixels, matte, source.icc), spot.landing)
    if product.alpha is None:
        raise ValueError("what had an alpha keeps it")
    frame = Frame(product.pixels, None if edit.frame.alpha is None else product.alpha, source.icc)
    doubts = (*edit.doubts, *spot.doubts)
    return replace(edit, frame=frame, alpha=255 - product.alpha, doubts=doubts, landing=spot.landing, preserved=preserved)


def _foreground(source: Frame, matte: Mask) -> Pixels:
    """The colours ``uint8 (H, W, 3)`` of what ``matte`` keeps. Where the file's own alpha is the matte it has them already, free of any background."""
    estimate = estimate_foreground(over_ground(source, GREY), matte)
    if source.alpha is None:
        return estimate
    own = (source.alpha < 255) & (matte == source.alpha) & (matte > 0)
    return np.where(own[..., None], source.pixels, estimate)


def _cover(source: Frame, alpha: Mask, *, goes_on: bool) -> Mask | None:
    """How opaque what is painted is: where the picture is to go on, as what is kept nearest; new content as the most opaque of the picture."""
    if source.alpha is None:
        return None
    if goes_on:
        return continued(source.alpha, alpha)
    most = int(source.alpha.max())
    return np.full_like(alpha, most) if 0 < most < 255 else None  # in a picture that is clear throughout there is nothing to go by


def _outpaint(source: Frame, request: OutpaintRequest, card: ModelCard, segmenter: Segmenter) -> Plan:
    if request.expand is not None:
        sides = (request.expand.left, request.expand.right, request.expand.top, request.expand.bottom)
    elif request.canvas is not None:
        sides = place((source.width, source.height), request.canvas)
    frame, mask = extend(source, *sides)
    if request.prompt and frame.alpha is not None and not frame.alpha[mask > 0].any():
        raise Invalid(
            "the picture is clear along the border that is extended, and clear goes on as clear; see replace_background", field="image"
        )
    alone = card.engine is EngineKind.EXEMPLAR
    things = things_in(source, segmenter)
    edit = Edit(
        source,
        (sides[0], sides[2]),
        frame,
        edit_alpha(mask, 0, OUTPAINT_FEATHER_PX),
        cover=frame.alpha,
        things=None if things is None else np.pad(things, (sides[2:], sides[:2])),
        doubts=doubts(things, *sides) if alone else (),
        is_continued=alone,
    )
    known = [edit.place]
    # The exemplar engine continues what it is shown: that it can do at full size and at once, and shrinking would cost texture.
    sizes = _sizes(card) | ({"native_size": None} if alone else {})
    passes, whole = [], Box(0, 0, frame.width, frame.height)
    while known[-1] != whole:
        grown = whole if alone else _grown(known[-1], mask.shape)
        new = np.zeros(mask.shape, np.uint8)
        new[grown.slices] = 255
        new[known[-1].slices] = 0
        alpha = edit_alpha(new, 0, OUTPAINT_FEATHER_PX)
        # Of the canvas the model sees no more than this pass paints: beyond it there is nothing to go by.
        crop = plan_crop(alpha[grown.slices], **sizes).moved(grown.left, grown.top)
        passes.append((Region(crop, alpha[crop.box.slices]),))
        known.append(grown)
    recipe = _recipe(request, source) if card.sampling is not None else None
    return Plan(edit, tuple(passes), recipe, known=tuple(known))


def _grown(known: Box, shape: tuple[int, ...]) -> Box:
    """What is there after the next pass: on all sides the same part of what is missing, as much as leaves ``KNOWN_SHARE`` known."""
    missing = (known.left, known.top, shape[1] - known.right, shape[0] - known.bottom)
    x, y = missing[0] + missing[2], missing[1] + missing[3]
    # (width + part x)(height + part y) = width height / share, solved for the part.
    square, linear = x * y, known.width * y + known.height * x
    constant = known.width * known.height * (1 - 1 / KNOWN_SHARE)
    part = (math.sqrt(linear**2 - 4 * square * constant) - linear) / (2 * square) if square else -constant / linear
    left, top, right, bottom = (min(side, max(_LEAST_GROWTH_PX, math.ceil(side * part))) for side in missing)
    return Box(known.left - left, known.top - top, known.right + right, known.bottom + bottom)


def _whole(alpha: Mask, **sizes: Any) -> tuple[Region, ...]:
    crop = plan_crop(alpha, **sizes)
    return (Region(crop, alpha[crop.box.slices]),)


def _sizes(card: ModelCard) -> dict[str, Any]:
    return {
        "native_size": card.native_size,
        "min_size": card.min_size,
        "multiple": card.size_multiple,
        "max_upscale": card.max_upscale,
    }


def _as_seen(frame: Frame, crop: Crop) -> Pixels:
    """The crop as a model sees it: what is transparent is white."""
    if frame.alpha is None:
        return take(frame.pixels, crop)
    # Before it is scaled: colours and alpha scaled apart would bring hidden colours to light.
    shown, window = frame.pixels.copy(), crop.box.slices
    shown[window] = over_ground(Frame(frame.pixels[window], frame.alpha[window]), WHITE)
    return take(shown, crop)


def _recipe(request: PaintedRequest, source: Frame, picture: Pixels | None = None) -> Sampling | Backdrop | None:
    if isinstance(request, ReplaceBackgroundRequest) and request.background is not None:
        # The output is in the photo's colour space, and colours are asked for in sRGB.
        background = recoloured(request.background, lambda pixels: into_space(pixels, None, source.icc))
        return Backdrop(background, request.shadow, picture if isinstance(background, PictureBackground) else None)
    settings = (request.steps, request.guidance_scale, request.strength, request.scheduler)
    match settings:
        case (int(steps), float(guidance_scale), float(strength), scheduler) if scheduler is not None:
            prompt = getattr(request, "prompt", None) or ""
            loras = tuple((use.name, use.weight) for use in request.loras)
            return Sampling(prompt, request.negative_prompt or "", steps, guidance_scale, strength, scheduler, loras)
    return None
