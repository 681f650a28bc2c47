"""The errors that planted painters make, and how much of one is in an output.

A flaw turns what a painter meant into what it painted, at the model's size. What it is in the output is measured by itself, by the geometry that
is known here, and by none of the report's figures: only what is there can be asked of the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from scripts.planted.scenes import Scene
from worker.engines.base import PaintRequest
from worker.images.crop import Region

Array = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
_BESIDE_PX = 6
"""Pixels of a photo on each side of a rim or a border with which it is compared."""
_LEAST_RIM, _LEAST_STEP = 12.0, 8.0
"""Levels from which an error counts as there."""
_COARSEST = 3.0
"""Pixels of the photo to one of the model's from which no rim of at most 6 px can be painted."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What a painter sees, and what the harness knows about it."""

    scene: Scene
    region: Region
    request: PaintRequest

    @property
    def inside(self) -> Bool:
        """Where it is to paint, at the model's size."""
        return np.asarray(self.request.mask > 0)

    @property
    def scale(self) -> float:
        """Pixels of the photo to one of the model's."""
        return self.region.crop.box.width / self.region.crop.size[0]

    def depth(self) -> Float:
        """How far into the edit a pixel of the model's lies, in pixels of the photo; 0 outside."""
        window = np.ascontiguousarray(depth(self.scene)[self.region.crop.box.slices])
        return np.asarray(cv2.resize(window, self.region.crop.size, interpolation=cv2.INTER_LINEAR), np.float32)


class Flaw(Protocol):
    """One error."""

    name: str

    def applies(self, scene: Scene) -> bool:
        """Whether it can be planted there as its definition says."""
        ...

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """What is painted instead of ``clean``."""
        ...

    def present(self, scene: Scene, output: Array) -> bool:
        """Whether the error is in the output, as its definition says."""
        ...


@dataclass(frozen=True)
class Shift:
    """One change of colour over all that is painted, kept pixels too, as decoders and precisions make it.

    ``offset`` is added in CIELAB, ``gain`` multiplies the channels of sRGB, and ``gamma`` is the exponent of their share of 255. The user wins
    where the fill has the colours that the model meant, so what counts as left is every difference from those, whatever its direction: a
    correction that overshoots, or that turns one error into another, takes nothing away. What clipping has destroyed was not planted.
    """

    name: str
    offset: tuple[float, float, float] = (0, 0, 0)
    gain: tuple[float, float, float] = (1, 1, 1)
    gamma: float = 1.0

    def applies(self, scene: Scene) -> bool:
        """Everywhere."""
        return scene.truth.size > 0

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """All of it, shifted."""
        del shown
        value = np.clip(clean / np.float32(255) * np.array(self.gain, np.float32), 0, 1) ** np.float32(self.gamma)
        if any(self.offset):
            lab = cv2.cvtColor(value.astype(np.float32), cv2.COLOR_RGB2LAB) + np.array(self.offset, np.float32)
            value = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
        return np.asarray(np.rint(np.clip(value, 0, 1) * 255), np.uint8)

    def present(self, scene: Scene, output: Array) -> bool:
        """Not asked: what is left is a share."""
        return output.shape == scene.truth.shape


@dataclass(frozen=True)
class Grain:
    """What every decoder does: details a little softer, and noise of 2.5 levels, on kept pixels too, with no colour shifted on the mean.

    There is nothing to correct. Without it a harmoniser could win *perfect* by leaving alone what is exact to the bit, which no model's picture is.
    """

    name: str = "grained"

    def applies(self, scene: Scene) -> bool:
        """Everywhere."""
        return scene.truth.size > 0

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """All of it."""
        soft = cv2.GaussianBlur(clean, (0, 0), 0.6).astype(np.float32)
        noise = np.random.default_rng(shown.scene.number).normal(0, 2.5, clean.shape)
        return np.asarray(np.clip(np.rint(soft + noise), 0, 255), np.uint8)

    def present(self, scene: Scene, output: Array) -> bool:
        """Not asked."""
        return output.shape == scene.truth.shape


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

    @property
    def name(self) -> str:
        """Of the row."""
        return "rimmed"

    def applies(self, scene: Scene) -> bool:
        """Where the model's pixels are small enough."""
        return _coarsest(scene) <= _COARSEST

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """``clean`` with the line."""
        first = _first(shown.scene)
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
        deep, first = depth(scene), _first(scene)
        width = max(float(self.width), _coarsest(scene))
        on = (scene.plan.edit.alpha == 255) & (deep > first - 0.5) & (deep <= first - 0.5 + width)
        within = (deep > first + width + 1) & (deep <= first + width + 1 + _BESIDE_PX)
        outside = (deep == 0) & (_away(deep) <= _BESIDE_PX)
        line, inner, outer = (local_mean(output, part, 3.0) for part in (on, within, outside))
        beyond = np.minimum(line - np.maximum(inner, outer), 999) if self.style != "dark" else np.minimum(inner, outer) - line
        channels = [int(self.style[-1])] if self.style.startswith("tint") else [0, 1, 2]
        return float(np.percentile(beyond[on][:, channels].mean(axis=1), percentile)) if on.any() else 0.0

    def _sides(self, shown: Shown, clean: Array, deep: Float, end: float) -> tuple[Float, Float]:
        """The local means just outside and just inside of the line, at the model's size."""
        outside = ~shown.inside & (_away(deep) * shown.scale <= _BESIDE_PX + 2 * shown.scale)
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

    @property
    def name(self) -> str:
        """Of the row."""
        return "stepped"

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
        beside = (scene.plan.edit.alpha == 255) & (deep <= _first(scene) + _BESIDE_PX)
        signs = np.sign(self.levels)
        off = (output[beside].astype(np.float32) - scene.truth[beside])[:, signs != 0] * signs[signs != 0]
        return off.size > 0 and float(np.median(off.mean(axis=1))) >= _LEAST_STEP


@dataclass(frozen=True)
class Stripes:
    """Kept pixels repainted wrong, in stripes of 16 photo pixels that are ``levels`` too light and too dark in turn; the inside as it was meant.

    The error has no mean, no gain and no slow field, so none can be carried inwards: what was painted inside must stay as it is. Yet a model that
    renders what it sees so wrongly has not gone by it, and the report has to say so.
    """

    levels: float

    @property
    def name(self) -> str:
        """Of the row."""
        return "stepped"

    def applies(self, scene: Scene) -> bool:
        """Where the kept pixels have room in both directions."""
        kept = scene.truth[scene.plan.edit.alpha == 0]
        return float(((kept >= self.levels) & (kept <= 255 - self.levels)).mean()) >= 0.9

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """``clean`` with stripes on what is kept."""
        box, (width, height) = shown.region.crop.box, shown.region.crop.size
        rows, columns = (
            np.linspace(low, high, count) for low, high, count in ((box.top, box.bottom, height), (box.left, box.right, width))
        )
        angle = np.radians(30 + 37 * shown.scene.number)
        wave = np.sin(2 * np.pi * (rows[:, None] * np.sin(angle) + columns * np.cos(angle)) / 32)
        off = np.where(wave >= 0, self.levels, -self.levels)[..., None]
        return np.where(shown.inside[..., None], clean, np.clip(clean + off, 0, 255)).astype(np.uint8)

    def present(self, scene: Scene, output: Array) -> bool:
        """Always: it is in what was painted, and nothing of it can be in the output."""
        return output.shape == scene.truth.shape


def depth(scene: Scene) -> Float:
    """How far into the edit each pixel lies, ``float32 (H, W)``; the frame's border is no edge; 0 outside."""
    edited = (scene.plan.edit.alpha > 0).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(edited, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def local_mean(values: Array, part: Bool, sigma: float) -> Float:
    """The mean of ``values (h, w, 3)`` over what of ``part (h, w)`` is near, around each pixel; far from it that of all of it."""
    weight = part.astype(np.float32)
    if not part.any():
        return values.astype(np.float32)
    whole = values[part].mean(axis=0, dtype=np.float32)
    total, seen = (1e-3 * whole).astype(np.float32), np.float32(1e-3)
    for factor, share in ((1, 1.0), (3, 1e-1), (9, 1e-2)):
        blurred = cv2.GaussianBlur(weight, (0, 0), sigma * factor)
        total = total + share * cv2.GaussianBlur(values * weight[..., None], (0, 0), sigma * factor)
        seen = seen + share * blurred
    return np.asarray(total / seen[..., None], np.float32)


def _coarsest(scene: Scene) -> float:
    """The most pixels of the photo to one of the model's."""
    return max(region.crop.box.width / region.crop.size[0] for regions in scene.plan.passes for region in regions)


def _first(scene: Scene) -> float:
    """The depth from which the fill is nearly all that is seen."""
    edit = scene.plan.edit.alpha
    fades = (edit > 0) & (edit < 255)
    return float(max(1.0, np.floor(np.percentile(depth(scene)[fades], 95)))) if fades.any() else 1.0


def _away(deep: Float) -> Float:
    """The distance from the edit of what is outside of it."""
    return np.asarray(cv2.distanceTransform((deep == 0).astype(np.uint8), cv2.DIST_L2, 5), np.float32)
