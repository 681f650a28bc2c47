"""Measures an output before it leaves: what was kept is proven, not assumed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from api_schemas.errors import SubjectNotFound
from api_schemas.jobs import ModelError, Preserved, ProductBox, Report, Subject, Verdict
from api_schemas.requests import EraseRequest, JobRequest, Level, OutpaintRequest, RemoveBackgroundRequest, ReplaceBackgroundRequest
from core.settings import Quality
from worker.images import coherence
from worker.images.backdrop import base_is_cut
from worker.images.codec import Frame
from worker.images.copies import second_copy
from worker.images.ground import PRODUCT
from worker.images.mask import coverage
from worker.images.measures import Border
from worker.images.placement import product_box
from worker.images.profile import Profile
from worker.images.resample import Landing
from worker.images.sizing import landing_of
from worker.images.step import step
from worker.images.subject import Segmenter
from worker.images.transparency import WHITE, over_ground
from worker.intake import Edit
from worker.proof import prove

_SEEN = 128
"""Alpha from which a pixel counts as seen."""
_TWICE = "a part of the product is seen a second time"
_NOT_FOUND = "the product was not found in the output"
_CUT = "the product meets the lower border: of its shadow no more is seen than lies beside it"


@dataclass(frozen=True)
class _AtBorder:
    """The measures of a border; see ``Report``."""

    rim: float | None = None
    step: float | None = None
    seam: float | None = None
    colour_shift: float | None = None


class Examiner:
    """Measures outputs and judges them by ``limits``."""

    def __init__(self, segmenter: Segmenter, limits: Quality) -> None:
        self._segmenter = segmenter
        self._limits = limits

    def report(self, request: JobRequest, edit: Edit, output: Frame, error: ModelError | None) -> Report:
        """The measures of ``output`` of ``request``, painted by a model with ``error`` on kept pixels.

        Raises ``EngineFailed`` if a kept pixel changed: such a result must not leave.
        """
        kept, landing = preserved(edit, output), _landing(request, edit)
        reasons = self._brought(request, edit)
        border, subject = _AtBorder(), None if edit.confidence is None else Subject(confidence=edit.confidence)
        if not isinstance(request, RemoveBackgroundRequest):
            border = _at_border(request, edit, output)
        if isinstance(request, ReplaceBackgroundRequest) and request.background is None:
            # A colour, a gradient or a picture adds nothing to the product.
            found = self._again(edit, output)
            reasons += [(Level.WARN, _NOT_FOUND)] if found is None else self._beyond("growth", found.growth)
            if found is not None:
                subject = found.model_copy(update={"confidence": edit.confidence})
        for name, value in vars(border).items():
            reasons += self._beyond(name, value)
        if error is not None and not isinstance(request, ReplaceBackgroundRequest):
            # How well a model renders a product in detail says little of the background that it paints.
            reasons += self._beyond("model_error", error.corrected)
        if isinstance(request, OutpaintRequest):
            reasons += _of_extension(edit, over_ground(output, WHITE))
        return Report(
            preserved=kept,
            resampled=not landing.is_exact,
            scale=round(landing.scale, 4),
            product=_product(request, edit),
            coverage=coverage(edit.alpha),
            model_error=error,
            **vars(border),
            subject=subject,
            warnings=edit.warnings,
            verdict=Verdict(level=_worst(reasons), reasons=tuple(reason for _, reason in reasons)),
        )

    def brought(self, request: JobRequest, edit: Edit) -> Verdict:
        """The verdict that no output of ``request`` is better than, whatever is painted: the input brings it."""
        reasons = self._brought(request, edit)
        return Verdict(level=_worst(reasons), reasons=tuple(reason for _, reason in reasons))

    def _brought(self, request: JobRequest, edit: Edit) -> list[tuple[Level, str]]:
        cut = isinstance(request, ReplaceBackgroundRequest) and request.shadow is not None and base_is_cut(255 - edit.alpha)
        named = [f"{warning.code}: {warning.message}" for warning in edit.warnings]
        doubts = [(Level.WARN, doubt) for doubt in (*named, *edit.doubts, *((_CUT,) if cut else ()))]
        return self._unsure(edit.confidence) + self._beyond("scale", _landing(request, edit).scale) + doubts

    def _beyond(self, name: str, value: float | None) -> list[tuple[Level, str]]:
        for level in (Level.FAIL, Level.WARN):
            limit: float = getattr(self._limits, f"{name}_{level}")
            if value is not None and value >= limit:
                return [(level, f"{name} {value:.2f} is {limit:g} or more")]
        return []

    def _unsure(self, confidence: float | None) -> list[tuple[Level, str]]:
        for level, limit in ((Level.FAIL, self._limits.confidence_fail), (Level.WARN, self._limits.confidence_warn)):
            if confidence is not None and confidence < limit:
                return [(level, f"subject.confidence {confidence:.2f} is below {limit:g}")]
        return []

    def _again(self, edit: Edit, output: Frame) -> Subject | None:
        """The product as it is found in ``output``; ``None`` where nothing is."""
        before = edit.alpha < 128
        try:
            after = self._segmenter.matte(output.pixels) > 127
        except SubjectNotFound:
            return None
        area, both = np.count_nonzero(before), np.count_nonzero(before | after)
        if not area:
            return None
        return Subject(iou=np.count_nonzero(before & after) / both, growth=both / area - 1)


def _worst(reasons: list[tuple[Level, str]]) -> Level:
    return max((level for level, _ in reasons), key=lambda level: level.rank, default=Level.PASS)


def _of_extension(edit: Edit, seen: npt.NDArray[np.uint8]) -> list[tuple[Level, str]]:
    """Faults of an extension, whose output is ``seen (H, W, 3)``."""
    reasons: list[tuple[Level, str]] = []
    if edit.things is not None and second_copy(seen, edit.things == PRODUCT, edit.alpha > 0):
        reasons.append((Level.FAIL, _TWICE))
    if edit.is_continued:
        reasons += [(Level.WARN, doubt) for doubt in coherence.doubts(seen, edit.place)]
    return reasons


def _at_border(request: JobRequest, edit: Edit, output: Frame) -> _AtBorder:
    clear = None if edit.frame.alpha is None else edit.frame.alpha < _SEEN
    profile = Profile.of(output.pixels, edit.alpha, clear)
    rim = profile.rim(outside=not isinstance(request, ReplaceBackgroundRequest)) if profile else None
    if not isinstance(request, EraseRequest | OutpaintRequest):
        return _AtBorder(rim)
    # The photo goes on: here a difference of the two sides is a fault.
    border = Border.of(edit.alpha, clear)
    around = edit.place if isinstance(request, OutpaintRequest) else None
    return _AtBorder(
        rim,
        step(output.pixels, edit.alpha, profile.fade, clear, around=around) if profile else None,
        border.seam(output.pixels) if border else None,
        border.colour_shift(output.pixels) if border else None,
    )


def preserved(edit: Edit, output: Frame) -> Preserved:
    """Prove that kept pixels of ``output`` are the decoded input's. Raises ``EngineFailed`` if one changed.

    Of a product that was placed it was proven before; here, that it is as it was placed.
    """
    if edit.preserved is None:
        window = edit.place.slices
        return prove(edit.source.pixels, output.pixels[window], edit.alpha[window])
    prove(edit.frame.pixels, output.pixels, edit.alpha)
    return edit.preserved


def _product(request: JobRequest, edit: Edit) -> ProductBox | None:
    box = product_box(255 - edit.alpha) if isinstance(request, ReplaceBackgroundRequest | RemoveBackgroundRequest) else None
    return None if box is None else ProductBox(left=box.left, top=box.top, right=box.right, bottom=box.bottom)


def _landing(request: JobRequest, edit: Edit) -> Landing:
    """How pixels come from the photo, or from what was made of it, to the output."""
    frame = edit.frame
    return edit.landing or landing_of(request.output, (frame.width, frame.height))
