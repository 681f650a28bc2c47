"""Composites: things with true masks, set into photos without one.

The things are the products of photos whose outlines were drawn by hand (``scripts/product_masks``), and those of a folder of pictures with an
alpha channel. The grounds are what the same photos show beside their products, and the photos of a folder. Everything is drawn from the number of the
composite, and each half of the things meets one half of the grounds: what is learnt on one half has seen nothing of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.images.blend import estimate_foreground

Array = npt.NDArray[np.uint8]
_T = TypeVar("_T")

COUNTS_NOT = 128
"""In a mask: pixels of which nobody can say whose they are."""
SIDES = (640, 1100)
"""Longest side of a composite, pixels, at least and at most."""
SHARES = (0.25, 0.95)
"""How much of the composite's width or height the thing takes, whichever is reached first."""
_LEAST_GROUND = 260
"""Shorter side, pixels, of a part of a photo that can be a ground."""
_BESIDE = 0.015
"""Distance of a ground from the product of the same photo, of the photo's longer side: its blur and shadow stay behind."""
_RIM = 1
"""Pixels of a hand-drawn outline that are left out: a fringe of the old ground would give the thing away."""
_OPEN = 0.2
"""Share of a mask that may count for nothing in a thing that is cut out by it."""
_OVER = 0.12
"""Share of composites in which the thing reaches over a border of the frame, where its photo cut it already or by chance."""


@dataclass(frozen=True, eq=False)
class Thing:
    """A thing cut out, trimmed to what is visible."""

    name: str
    pixels: Array
    """``uint8 (h, w, 4)``: the thing's own colours, and its alpha."""
    cut: frozenset[str]
    """Sides on which its photo cut it off."""


@dataclass(frozen=True, eq=False)
class Composite:
    """A thing on a ground."""

    name: str
    pixels: Array
    truth: Array
    """``uint8 (H, W)``, 255 = thing."""
    held_out: bool


class Corpus:
    """Composites of the things and grounds at hand."""

    def __init__(self, photos: Mapping[str, tuple[Array, Array]], objects: Path | None, grounds: Path | None) -> None:
        """``photos`` are pixels and mask by name; ``objects`` and ``grounds`` are folders, searched with all below them."""
        self._photos, self._objects, self._grounds = photos, objects, grounds

    def first(self, count: int) -> Iterator[Composite]:
        """The first ``count`` composites; every second is held out, and every second of each half is of a photographed thing."""
        for number in range(count):
            yield self._composite(number)

    @cached_property
    def things(self) -> tuple[tuple[Thing, ...], tuple[Thing, ...]]:
        """Photographed things, and drawn ones."""
        photographed = [
            thing for name, (pixels, mask) in sorted(self._photos.items()) if (thing := _cut_out(name, pixels, mask)) is not None
        ]
        files = sorted(path for path in self._objects.rglob("*") if path.suffix in (".png", ".webp")) if self._objects else []
        return tuple(photographed), tuple(thing for path in files if (thing := _drawn(path)) is not None)

    @cached_property
    def grounds(self) -> tuple[tuple[str, Array], ...]:
        beside = [(name, ground) for name, (pixels, mask) in sorted(self._photos.items()) if (ground := _beside(pixels, mask)) is not None]
        files = sorted(path for path in self._grounds.rglob("*") if path.suffix in (".png", ".jpg")) if self._grounds else []
        return tuple(beside + [(path.stem, _opened(path)) for path in files])

    def _composite(self, number: int) -> Composite:
        random = np.random.default_rng(number)
        held_out = number % 2 == 1
        groups = [group for group in self.things if len(group) > 1]
        group = groups[number // 2 % len(groups)]
        thing = _any(group[int(held_out) :: 2], random)
        grounds = self.grounds[int(held_out) :: 2]
        name, ground = _any([each for each in grounds if each[0] != thing.name], random)
        pixels, truth = _set_into(ground, thing, random)
        return Composite(f"{number:03d}-{thing.name}-{name}", pixels, truth, held_out)


def _any(things: Sequence[_T], random: np.random.Generator) -> _T:
    return things[int(random.integers(len(things)))]


def _set_into(ground: Array, thing: Thing, random: np.random.Generator) -> tuple[Array, Array]:
    side = int(random.integers(*SIDES))
    ground = _window(ground, side, random)
    height, width = ground.shape[:2]
    rgba = thing.pixels[:, ::-1] if random.random() < 0.5 and not thing.cut else thing.pixels
    share = float(random.uniform(*SHARES))
    scale = min(share * width / rgba.shape[1], share * height / rgba.shape[0], 3.0)
    size = max(8, round(rgba.shape[1] * scale)), max(8, round(rgba.shape[0] * scale))
    premultiplied = rgba.astype(np.float32) * np.dstack([rgba[..., 3:]] * 3 + [np.full_like(rgba[..., 3:], 255)]) / np.float32(255)
    small = cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top = (round(float(random.uniform(0.0, 1.0)) * (room - extent)) for room, extent in ((width, size[0]), (height, size[1])))
    if random.random() < _OVER and not thing.cut:
        left = round(float(random.uniform(-0.3, 0.0)) * size[0]) if random.random() < 0.5 else width - round(0.8 * size[0])
    left = 0 if "left" in thing.cut else width - size[0] if "right" in thing.cut else left
    top = 0 if "top" in thing.cut else height - size[1] if "bottom" in thing.cut else top
    shift = np.array([[1, 0, left], [0, 1, top]], np.float32)
    placed = np.clip(cv2.warpAffine(small, shift, (width, height), flags=cv2.INTER_NEAREST), 0, 255)
    alpha = placed[..., 3:] / np.float32(255)
    pixels = placed[..., :3] + ground.astype(np.float32) * (1 - alpha)
    # One camera took both: the same noise, and one JPEG.
    noisy = np.clip(pixels + random.normal(0, 1.5, pixels.shape), 0, 255).astype(np.uint8)
    _, file = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(82, 96))])
    decoded = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1]), np.rint(placed[..., 3]).astype(np.uint8)


def _window(ground: Array, side: int, random: np.random.Generator) -> Array:
    """A part of ``ground``, of chance proportions and place, at a longest side of ``side``."""
    height, width = ground.shape[:2]
    wanted = float(np.exp(random.uniform(np.log(3 / 4), np.log(3 / 2))))
    most = min(width, wanted * height) * float(random.uniform(0.7, 1.0))
    size = max(32, round(most)), max(32, round(most / wanted))
    left, top = int(random.integers(max(1, width - size[0] + 1))), int(random.integers(max(1, height - size[1] + 1)))
    part = ground[top : top + size[1], left : left + size[0]]
    scale = side / max(part.shape[:2])
    resized = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def _cut_out(name: str, pixels: Array, mask: Array) -> Thing | None:
    if np.count_nonzero(mask == COUNTS_NOT) > _OPEN * np.count_nonzero(mask == 255):
        return None
    solid = cv2.erode((mask == 255).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=_RIM, borderValue=1)
    matte = np.rint(cv2.GaussianBlur(solid.astype(np.float32) * 255, (0, 0), 0.8)).astype(np.uint8)
    borders = {"left": solid[:, 0], "right": solid[:, -1], "top": solid[0], "bottom": solid[-1]}
    cut = frozenset(side for side, border in borders.items() if np.count_nonzero(border) > 2)
    if {"left", "right"} <= cut or {"top", "bottom"} <= cut:
        return None
    colours = np.clip(np.rint(estimate_foreground(pixels, matte)), 0, 255).astype(np.uint8)
    return Thing(name, _trimmed(np.dstack([colours, matte])), cut)


def _drawn(path: Path) -> Thing | None:
    with Image.open(path) as image:
        if "A" not in image.getbands():
            return None
        rgba = np.array(image.convert("RGBA"), np.uint8)
    return Thing(path.stem, _trimmed(rgba), frozenset()) if np.count_nonzero(rgba[..., 3] > 127) > 0.1 * rgba[..., 3].size else None


def _trimmed(rgba: Array) -> Array:
    x, y, width, height = cv2.boundingRect((rgba[..., 3] > 0).astype(np.uint8))
    return np.ascontiguousarray(rgba[y : y + height, x : x + width])


def _beside(pixels: Array, mask: Array) -> Array | None:
    """The largest rectangle of a photo that shows nothing of its product; ``None`` where none is large enough."""
    reach = 2 * round(_BESIDE * max(mask.shape)) + 1
    taken = cv2.dilate((mask > 0).astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    best, found = 0, None
    heights = np.zeros(mask.shape[1], np.int64)
    for bottom in range(mask.shape[0]):  # the largest rectangle below a histogram, row by row
        heights = np.where(taken[bottom], 0, heights + 1)
        stack: list[tuple[int, int]] = []
        for column, tall in enumerate([*heights.tolist(), 0]):
            left = column
            while stack and stack[-1][1] >= tall:
                left, above = stack.pop()
                if above * (column - left) > best and min(above, column - left) >= _LEAST_GROUND:
                    best, found = above * (column - left), (bottom + 1 - above, bottom + 1, left, column)
            stack.append((left, tall))
    return None if found is None else np.ascontiguousarray(pixels[found[0] : found[1], found[2] : found[3]])


def _opened(path: Path) -> Array:
    with Image.open(path) as image:
        image.draft("RGB", (1600, 1600))
        image.thumbnail((1600, 1600))
        return np.array(image.convert("RGB"), np.uint8)
