"""The edits that planted painters paint: one operation on one photo, planned as a worker plans it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from api_schemas.jobs import InputRef, JobSpec, new_id, utc_now
from api_schemas.models import EXEMPLAR, SAMPLING_PARAMETERS, EngineKind, Licence, ModelCard, SamplingDefaults
from api_schemas.requests import Operation, job_request
from core.settings import Quality
from scripts.photos import ellipse
from worker.images.monochrome import is_grey
from worker.images.subject import Segmenter
from worker.intake import Plan, prepare
from worker.report import Examiner

Array = npt.NDArray[np.uint8]
PROMPT = "as it was asked for"
_MARGINS = ((0.3, 0, 0, 0), (0.15, 0.15, 0, 0), (0, 0, 0.1, 0.2), (0.25, 0.25, 0.2, 0.2), (0, 0.2, 0, 0.15))
"""Shares of a photo's sides (left, right, top, bottom) that are cut off and then outpainted, so that the truth is known; one takes two passes."""
_LONGEST = 640
"""Pixels of a photo's longer side: windows are then about as large as the models' sizes, smaller and larger, and a run takes minutes."""
_TOLD = {"steps": 4, "guidance_scale": 5.0, "strength": 1.0, "scheduler": "ddim"}


def _model(native_size: int, multiple: int) -> ModelCard:
    """The card of a diffusion model, as one is pulled: it is shown crops of about ``native_size`` squared pixels."""
    return ModelCard(
        id=f"planted-{native_size}",
        engine=EngineKind.DIFFUSION,
        operations=(Operation.INPAINT, Operation.ERASE, Operation.OUTPAINT, Operation.REPLACE_BACKGROUND),
        description="",
        licence=Licence(id="unknown"),
        revision="1",
        native_size=native_size,
        size_multiple=multiple,
        parameters=SAMPLING_PARAMETERS,
        sampling=SamplingDefaults(),
    )


LARGE, SMALL = _model(512, 8), _model(256, 32)


@dataclass(frozen=True)
class Kind:
    """An operation as it is asked for."""

    operation: Operation
    prompt: str | None = None
    options: tuple[int, int] | None = None
    """How far the mask grows and over how many pixels the edit fades, said explicitly, so that figures do not move with defaults."""

    @property
    def name(self) -> str:
        """Of the rows of a table."""
        return f"{self.operation}{'' if self.prompt or self.operation is not Operation.OUTPAINT else ', no prompt'}"

    @property
    def continues(self) -> bool:
        """Whether going on as before is the wish: nothing new was asked for."""
        return self.prompt is None

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models that such an edit meets, in turn."""
        return (EXEMPLAR, LARGE, SMALL) if self.continues else (LARGE, SMALL)


INPAINT = Kind(Operation.INPAINT, PROMPT, (4, 4))
BACKGROUND = Kind(Operation.REPLACE_BACKGROUND, PROMPT)
EXTENSION = Kind(Operation.OUTPAINT, PROMPT)
ERASE = Kind(Operation.ERASE, None, (8, 6))
CONTINUATION = Kind(Operation.OUTPAINT, None)
KINDS = (INPAINT, BACKGROUND, EXTENSION, ERASE, CONTINUATION)


@dataclass(frozen=True, eq=False)
class Scene:
    """One edit that is ready to be painted, and the truth about it."""

    photo: str
    number: int
    """Of the photo: by it variants of an error take turns."""
    kind: Kind
    card: ModelCard
    spec: JobSpec
    plan: Plan
    truth: Array
    """``uint8 (H, W, 3)``, the size of the output: the photo that nobody edited."""

    @property
    def is_grey(self) -> bool:
        """Whether it is an extension of a photo without colours, which gets none."""
        return self.kind.operation is Operation.OUTPAINT and is_grey(self.truth)


@cache
def examiner() -> Examiner:
    """Grades as a worker of default settings does."""
    return Examiner(segmenter(), Quality())


@cache
def segmenter() -> Segmenter:
    """Of the product, as ``make setup`` brings it."""
    return Segmenter(Path(sys.prefix) / "share/outfill/models/u2netp.onnx")


def scenes(name: str, picture: Array, number: int, wanted: Callable[[Kind], bool] = lambda _: True) -> Iterator[Scene]:
    """The ``wanted`` kinds of edit of one photo, each by one of the models in turn."""
    picture = _fitted(picture)
    for kind in KINDS:
        if wanted(kind):
            yield scene(name, picture, number, kind, kind.cards[number % len(kind.cards)])


def _fitted(picture: Array) -> Array:
    scale = _LONGEST / max(picture.shape[:2])
    return picture if scale >= 1 else np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def scene(name: str, picture: Array, number: int, kind: Kind, card: ModelCard) -> Scene:
    """``kind`` of edit of ``picture (H, W, 3)`` by the model of ``card``.

    What is edited is an ellipse of about a seventh of the photo; to ``replace_background`` the ellipse is the product; to ``outpaint`` it is
    what was cut off the photo before.
    """
    fields: dict[str, Any] = {"operation": kind.operation, "image": "image", "seed": 1}
    fields |= _TOLD if card.sampling else {}
    fields |= {"prompt": kind.prompt} if kind.prompt else {}
    inputs = {"image": picture}
    if kind.operation is Operation.OUTPAINT:
        sides = _sides(picture, number)
        inputs["image"] = picture[sides[2] : picture.shape[0] - sides[3], sides[0] : picture.shape[1] - sides[1]]
        fields["expand"] = dict(zip(("left", "right", "top", "bottom"), sides, strict=True))
    elif kind.operation is Operation.REPLACE_BACKGROUND:
        inputs["product_mask"] = ellipse(picture, number)
        fields["product_mask"] = "product_mask"
    else:
        grow_px, feather_px = kind.options or (0, 0)
        inputs["mask"] = ellipse(picture, number)
        fields |= {"mask": "mask", "mask_options": {"grow_px": grow_px, "feather_px": feather_px}}
    spec, plan = _planned(fields, card, {key: _png(value) for key, value in inputs.items()})
    return Scene(name, number, kind, card, spec, plan, picture)


def _sides(picture: Array, number: int) -> tuple[int, ...]:
    height, width = picture.shape[:2]
    return tuple(int(share * side) for share, side in zip(_MARGINS[number % len(_MARGINS)], (width, width, height, height), strict=True))


def _planned(fields: dict[str, Any], card: ModelCard, inputs: dict[str, bytes]) -> tuple[JobSpec, Plan]:
    """A job of these files, planned."""
    ref = InputRef(key="k", format="png", width=1, height=1, bytes=1, sha256="0")
    spec = JobSpec(
        id=new_id("job"),
        tenant="planted",
        model=card.id,
        model_revision=card.revision,
        request=job_request.validate_python(fields),
        inputs=dict.fromkeys(inputs, ref),
        created_at=utc_now(),
    )
    return spec, prepare(spec, card, inputs.__getitem__, segmenter(), max_pixels=10**8)


def _png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
