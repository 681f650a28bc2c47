"""Measures an output before it leaves: what was kept is proven, not assumed."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from api_schemas.errors import EngineFailed, SubjectNotFound
from api_schemas.jobs import Preserved, Report, Subject, Verdict
from api_schemas.requests import JobRequest, Level, RemoveBackgroundRequest, ReplaceBackgroundRequest
from core.settings import Quality
from worker.images.codec import Frame
from worker.images.copies import second_copy
from worker.images.ground import PRODUCT
from worker.images.mask import coverage
from worker.images.measures import Border
from worker.images.subject import Segmenter
from worker.intake import Edit

_STRIP = 64
"""Rows compared at a time."""
_SEEN = 128
"""Alpha from which a pixel counts as seen."""
_TWICE = "a part of the product is seen a second time"
_NOT_FOUND = "the product was not found in the output"


class Examiner:
    """Measures outputs and judges them by ``limits``."""

    def __init__(self, segmenter: Segmenter, limits: Quality) -> None:
        self._segmenter = segmenter
        self._limits = limits

    def report(self, request: JobRequest, edit: Edit, output: Frame) -> Report:
        """What can be measured on ``output`` of ``request``. Raises ``EngineFailed`` if a kept pixel changed: such a result must not leave."""
        preserved = prove(edit, output)
        found = seam = shift = None
        reasons: list[tuple[Level, str]] = []
        if isinstance(request, ReplaceBackgroundRequest):
            if request.background is None:  # a colour, a gradient or a picture adds nothing to the product
                found = self._subject(edit, output)
                growth = found.growth if found else None
                reasons += [(Level.WARN, _NOT_FOUND)] if found is None else self._beyond("growth", growth)
        elif not isinstance(request, RemoveBackgroundRequest):
            border = Border.of(edit.alpha, None if edit.frame.alpha is None else edit.frame.alpha < _SEEN)
            if border is not None:
                seam, shift = border.seam(output.pixels), border.colour_shift(output.pixels)
            reasons += self._beyond("seam", seam) + self._beyond("colour_shift", shift)
            reasons += [(Level.WARN, doubt) for doubt in edit.doubts]
            if edit.things is not None and second_copy(output.pixels, edit.things == PRODUCT, edit.alpha > 0):
                reasons.append((Level.FAIL, _TWICE))
        level = max((level for level, _ in reasons), key=lambda level: level.rank, default=Level.PASS)
        return Report(
            preserved=preserved,
            coverage=coverage(edit.alpha),
            seam=seam,
            colour_shift=shift,
            subject=found,
            verdict=Verdict(level=level, reasons=tuple(reason for _, reason in reasons)),
        )

    def _beyond(self, name: str, value: float | None) -> list[tuple[Level, str]]:
        for level in (Level.FAIL, Level.WARN):
            limit: float = getattr(self._limits, f"{name}_{level}")
            if value is not None and value >= limit:
                return [(level, f"{name} {value:.2f} is {limit:g} or more")]
        return []

    def _subject(self, edit: Edit, output: Frame) -> Subject | None:
        before = edit.alpha < 128
        try:
            after = self._segmenter.matte(output.pixels) > 127
        except SubjectNotFound:
            return None
        area, both = np.count_nonzero(before), np.count_nonzero(before | after)
        if not area:
            return None
        return Subject(iou=np.count_nonzero(before & after) / both, growth=both / area - 1)


def prove(edit: Edit, output: Frame) -> Preserved:
    """Compare ``output`` with the decoded input. Raises ``EngineFailed`` if a kept pixel changed."""
    left, top = edit.origin
    height, width = edit.source.pixels.shape[:2]
    window = (slice(top, top + height), slice(left, left + width))
    kept, after = edit.alpha[window] == 0, output.pixels[window]
    digest, largest, changed, count = hashlib.sha256(), 0, 0, 0
    for start in range(0, height, _STRIP):
        rows = slice(start, start + _STRIP)
        before, now, keep = edit.source.pixels[rows], np.ascontiguousarray(after[rows]), kept[rows]
        count += (here := int(np.count_nonzero(keep)))
        if here < keep.size:
            before, now = before[keep], now[keep]
        # Rows that are wholly kept, as most are, need not be picked apart; nor pixels that are equal, as all should be.
        digest.update(now.data)
        if not np.array_equal(before, now):
            delta = np.asarray(cv2.absdiff(before, now)).reshape(-1, 3).max(axis=1)
            largest, changed = max(largest, int(delta.max())), changed + int(np.count_nonzero(delta))
    if changed:
        raise EngineFailed(f"{changed} pixels outside the edit region changed; the result was withheld")
    return Preserved(max_delta=largest, changed_pixels=changed, kept_pixels=count, sha256=digest.hexdigest())
