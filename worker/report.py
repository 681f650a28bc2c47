"""Measures an output before it leaves: what was kept is proven, not assumed."""

from __future__ import annotations

import hashlib

import numpy as np

from api_schemas.errors import EngineFailed
from api_schemas.jobs import Preserved, Report
from worker.images.codec import Frame
from worker.images.mask import coverage
from worker.intake import Edit


def measure(edit: Edit, output: Frame) -> Report:
    """Compare ``output`` with the decoded input. Raises ``EngineFailed`` if a kept pixel changed: such a result must not leave."""
    left, top = edit.origin
    height, width = edit.source.pixels.shape[:2]
    window = (slice(top, top + height), slice(left, left + width))
    kept = edit.alpha[window] == 0
    before, after = edit.source.pixels[kept], output.pixels[window][kept]
    delta = np.abs(before.astype(np.int16) - after)
    preserved = Preserved(
        max_delta=int(delta.max(initial=0)),
        changed_pixels=int(np.count_nonzero(delta.any(axis=-1))),
        kept_pixels=len(before),
        sha256=hashlib.sha256(after.tobytes()).hexdigest(),
    )
    if preserved.changed_pixels:
        raise EngineFailed(f"{preserved.changed_pixels} pixels outside the edit region changed; the result was withheld")
    return Report(preserved=preserved, coverage=coverage(edit.alpha))
