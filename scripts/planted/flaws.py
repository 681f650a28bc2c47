"""The errors of a painter that show on kept pixels too: a shift of colours, grain, and stripes that tell nothing.

A flaw turns what a painter meant into what it painted, at the model's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from scripts.planted.geometry import Array, Bool, Float, away, coarsest, depth
from scripts.planted.scenes import Scene
from worker.engines.base import PaintRequest
from worker.images.crop import Region

_STRIPE_PX, _LATENT_PX = 16, 8
"""Pixels of the photo that a stripe is wide, and pixels of the model's that one latent stands for."""
_AROUND_PX, _ROOM = 64, 0.95
"""Kept pixels around an edit, and the share of them that must have room for stripes to be what they are said to be."""


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

    offset: tuple[float, float, float] = (0, 0, 0)
    gain: tuple[float, float, float] = (1, 1, 1)
    gamma: float = 1.0

    def applies(self, scene: Scene) -> bool:
        """Everywhere."""
        return scene.truth.size > 0

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """All of it, shifted."""
        del shown
        value = np.asarray(np.clip(clean / np.float32(255) * np.array(self.gain, np.float32), 0, 1) ** np.float32(self.gamma), np.float32)
        if any(self.offset):
            lab = cv2.cvtColor(value, cv2.COLOR_RGB2LAB) + np.array(self.offset, np.float32)
            value = np.asarray(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB), np.float32)
        return np.asarray(np.rint(np.clip(value, 0, 1) * 255), np.uint8)

    def present(self, scene: Scene, output: Array) -> bool:
        """Not asked: what is left is a share."""
        return output.shape == scene.truth.shape


@dataclass(frozen=True)
class Grain:
    """What every decoder does: details a little softer, and noise of 2.5 levels, on kept pixels too, with no colour shifted on the mean.

    There is nothing to correct. Without it a harmoniser could win *perfect* by leaving alone what is exact to the bit, which no model's picture is.
    """

    def applies(self, scene: Scene) -> bool:
        """Everywhere."""
        return scene.truth.size > 0

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """All of it."""
        soft = cv2.GaussianBlur(clean, (0, 0), 0.6).astype(np.float32)
        channels = 1 if shown.scene.is_grey else 3
        noise = np.random.default_rng(shown.scene.number).normal(0, 2.5, (*clean.shape[:2], channels))
        return np.asarray(np.clip(np.rint(soft + noise), 0, 255), np.uint8)

    def present(self, scene: Scene, output: Array) -> bool:
        """Not asked."""
        return output.shape == scene.truth.shape


@dataclass(frozen=True)
class Stripes:
    """Kept pixels repainted wrong, in stripes of 16 photo pixels that are ``levels`` too light and too dark in turn; the inside as it was meant.

    The error has no mean, no gain and no slow field, so none can be carried inwards: what was painted inside must stay as it is. Yet a model that
    renders what it sees so wrongly has not gone by it, and the report has to say so.
    """

    levels: float

    def applies(self, scene: Scene) -> bool:
        """Where two channels have room in both directions around the edit, and a stripe is a latent wide: finer ones are texture to a model."""
        return int(np.count_nonzero(self._channels(scene))) > 1 and _STRIPE_PX / float(coarsest(scene)) >= _LATENT_PX

    def spoil(self, shown: Shown, clean: Array) -> Array:
        """``clean`` with stripes on what is kept, in the channels that have room."""
        box, (width, height) = shown.region.crop.box, shown.region.crop.size
        rows, columns = (
            np.linspace(low, high, count) for low, high, count in ((box.top, box.bottom, height), (box.left, box.right, width))
        )
        angle = np.radians(30 + 37 * shown.scene.number)
        wave = np.sin(2 * np.pi * (rows[:, None] * np.sin(angle) + columns * np.cos(angle)) / 32)
        off = np.where(wave >= 0, self.levels, -self.levels)[..., None] * self._channels(shown.scene)
        return np.where(shown.inside[..., None], clean, np.clip(clean + off, 0, 255)).astype(np.uint8)

    def _channels(self, scene: Scene) -> Bool:
        deep = depth(scene)
        kept = scene.truth[(deep == 0) & (away(deep) <= _AROUND_PX)]
        return np.asarray(((kept >= self.levels) & (kept <= 255 - self.levels)).mean(axis=0) >= _ROOM)

    def present(self, scene: Scene, output: Array) -> bool:
        """Always: it is in what was painted, and nothing of it can be in the output."""
        return output.shape == scene.truth.shape
