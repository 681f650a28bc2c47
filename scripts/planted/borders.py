"""The errors of a painter along the border of an edit: a rim, and a step.

How much of one is in an output is measured by itself, by the geometry that is known here and by none of the report's figures: only what is there
can be asked of the report.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scripts.planted.flaws import Shown
from scripts.planted.geometry import Array, Float, away, coarsest, depth, first_full, local_mean
from scripts.planted.scenes import Scene

_BESIDE_PX = 6
"""Pixels of a photo on each side of a rim or a border with which it is compared."""
_LEAST_RIM, _LEAST_STEP = 12.0, 8.0
"""Levels from which an error counts as there."""
_COARSEST = 3.0
"""Pixels of the photo to one of the model's from which no rim of at most 6 px can be painted."""


@dataclass(frozen=True)
class Rim:
    """A line of ``width`` pixels of the photo along the whole border, where the fill is all that is seen, in a colour that neither side has.

    It lies beyond both sides: lighter than the lighter one, darker than the darker one, or further in one channel. A line between the two would be
    a soft transition, and no fault. ``levels`` are those beyond both local means; the harness raises them until at least 12 are left in what is
    pasted, softened by the model's size. It counts as there where half of the border shows 12 in the output.
    """

    style: str
    width: int
    levels: float = _LEAST_RIM

    def applies(self, scene: Scene) -> bool:
        """Where the model's pixels are small enough."""
        return coarsest(scene) <= _COARSEST

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """``clean`` with the line."""
        first = first_full(shown.scene)
        deep, width = shown.depth(), max(float(self.width), shown.scale)
        line = shown.inside & (deep > first - 0.5) & (deep <= first - 0.5 + width)
        outer, inner = self._sides(shown, clean, deep, first + width)
        colour = np.maximum(outer, inner) + self.levels if self.style == "light" else np.minimum(outer, inner) - self.levels
        if self.style.startswith("tint"):
            channel = int(self.style[-1])
            colour = (outer + inner) / 2
            colour[..., channel] = np.maximum(outer, inner)[..., channel] + 2 * self.levels
        return np.where(line[..., None], np.clip(np.rint(colour), 0, 255), clean).astype(np.uint8)

    def present(self, scene: Scene, output: Array) -> bool:
        """Whether half of the border shows it."""
        return self.height(scene, output, 50) >= _LEAST_RIM

    def height(self, scene: Scene, output: Array, percentile: float) -> float:
        """The levels by which the line is beyond both sides in ``output (H, W, 3)``, at a ``percentile`` of its pixels."""
        deep, first = depth(scene), first_full(scene)
        width = max(float(self.width), coarsest(scene))
        on = (scene.plan.edit.alpha == 255) & (deep > first - 0.5) & (deep <= first - 0.5 + width)
        within = (deep > first + width + 1) & (deep <= first + width + 1 + _BESIDE_PX)
        outside = (deep == 0) & (away(deep) <= _BESIDE_PX)
        line, inner, outer = (local_mean(output, part, 3.0) for part in (on, within, outside))
        beyond = np.minimum(line - np.maximum(inner, outer), 999) if self.style != "dark" else np.minimum(inner, outer) - line
        channels = [int(self.style[-1])] if self.style.startswith("tint") else [0, 1, 2]
        return float(np.percentile(beyond[on][:, channels].mean(axis=1), percentile)) if on.any() else 0.0

    def _sides(self, shown: Shown, clean: Array, deep: Float, end: float) -> tuple[Float, Float]:
        """The local means just outside and just inside of the line, at the model's size."""
        outside = ~shown.inside & (away(deep) * shown.scale <= _BESIDE_PX + 2 * shown.scale)
        within = shown.inside & (deep > end) & (deep <= end + _BESIDE_PX + shown.scale)
        sigma = max(1.0, 3.0 / shown.scale)
        return local_mean(shown.request.image, outside, sigma), local_mean(clean, within, sigma)


@dataclass(frozen=True)
class Step:
    """The truth inside, off by ``levels`` in some channels: a step along the whole border of an edit that was to go on as before.

    A correction may take it away. It counts as there where, in the first pixels that are all fill, the output is still 8 levels off the truth in
    the median.
    """

    levels: tuple[float, float, float]

    def applies(self, scene: Scene) -> bool:
        """Where the photo has room for it."""
        return self.present(scene, np.clip(scene.truth + np.array(self.levels), 0, 255).astype(np.uint8))

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """``clean``, off inside only."""
        off = np.clip(np.rint(clean + np.array(self.levels)), 0, 255)
        return np.where(shown.inside[..., None], off, clean).astype(np.uint8)

    def present(self, scene: Scene, output: Array) -> bool:
        """Whether the step is still 8 levels high."""
        deep = depth(scene)
        beside = (scene.plan.edit.alpha == 255) & (deep <= first_full(scene) + _BESIDE_PX)
        signs = np.sign(self.levels)
        off = (output[beside].astype(np.float32) - scene.truth[beside])[:, signs != 0] * signs[signs != 0]
        return off.size > 0 and float(np.median(off.mean(axis=1))) >= _LEAST_STEP
