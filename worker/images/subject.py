"""Which part of a picture is the product: its matte, ``uint8 (H, W)``, 255 = product."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import SubjectNotFound
from worker.images.codec import Frame
from worker.images.mask import Box, bounding_box, coverage
from worker.images.matting import redraw_edge
from worker.images.network import Network
from worker.images.transparency import CLEAR, framed, ground_for, over_ground, visible

_INPUT_SIDE = 320
_WORK_SIDE = 1600
"""Longest side, pixels, at which the edge is refined; more would cost memory and gain little over a 320-pixel prediction."""
_PEAK = 0.5
"""Highest saliency, 0..1, below which nothing is said to stand out."""
_AREA = (0.001, 0.99)
"""Share of the frame that a subject covers."""
_LEVELS = (0.4, 0.7)
"""Refined saliency up to the first is background, from the second on subject; between them lies the soft edge."""
_SPECK = 0.02
"""Parts and holes below this share of the largest part are noise, unless the network is certain of them."""
_CERTAIN = 0.1
"""Saliency nearer than this to 0 or to 1 is the network's word for certain."""
_EDGE = 7
"""Pixels of the network's map that a plain edge is wide at most: what it leaves open over a wider stretch, it does not know."""
_ZOOM = 0.3
"""A subject whose box covers less of the frame than this is looked at again, closer."""
_AGREEMENT = 0.6
"""Intersection over union with the first look below which the closer look is not believed: it found a part, or something else."""
_MARGIN = 0.06
"""Plain ground around a framed picture, of its longer side, on which it is seen whether it stands out as one thing."""
_WHOLE = 0.98
"""Share of a frame's shape that is then found where it is a product itself: a phone, a plate. Photos were up to 0.97."""


@dataclass(frozen=True, eq=False)
class Product:
    """The product, found."""

    matte: npt.NDArray[np.uint8]
    """``uint8 (H, W)``, 255 = product."""
    ambiguity: float | None
    """Share of it, 0..1, where the segmenter was in two minds, plain edges aside; ``None`` where none was asked."""


class Segmenter:
    """Finds the product by a segmentation network: U²-Net small (Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object
    Detection", 2020) unless another is given.

    ``network`` is the path of its file, read once, or one that is loaded.
    """

    def __init__(self, network: Path | Network) -> None:
        self._network = Network(network) if isinstance(network, Path) else network

    def matte(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The matte of the salient object in ``pixels (H, W, 3)``, with a narrow soft edge that follows the picture's own.

        Raises ``SubjectNotFound`` where nothing stands out, or everything does.
        """
        return self.find(pixels).matte

    def find(self, pixels: npt.NDArray[np.uint8]) -> Product:
        """The salient object in ``pixels (H, W, 3)``, and how far its matte is to be trusted. Raises ``SubjectNotFound``."""
        saliency = self._saliency(pixels)
        found = Product(_refine(pixels, saliency), _ambiguity(saliency))
        box = bounding_box(np.where(found.matte > 127, found.matte, 0).astype(np.uint8))
        if box is not None and box.width * box.height < _ZOOM * found.matte.size:
            found = self._closer(pixels, found, box)
        share = coverage(found.matte)
        if not _AREA[0] <= share <= _AREA[1]:
            raise SubjectNotFound(f"What stands out covers {share:.1%} of the picture.")
        return found

    def _closer(self, pixels: npt.NDArray[np.uint8], found: Product, box: Box) -> Product:
        """``found`` again, from a window around ``box``, so that a small subject gets all of the network's pixels."""
        window = box.padded(max(8, round(0.3 * max(box.width, box.height))), found.matte.shape).slices
        view = np.ascontiguousarray(pixels[window])
        try:
            saliency = self._saliency(view)
        except SubjectNotFound:
            return found
        closer = _refine(view, saliency)
        first, second = found.matte[window] > 127, closer > 127
        if np.count_nonzero(first & second) < _AGREEMENT * np.count_nonzero(first | second):
            return found
        out = np.zeros_like(found.matte)
        out[window] = closer
        return Product(out, _ambiguity(saliency))

    def _saliency(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The network's map, ``float32 (320, 320)``, min-max normalised, after the preprocessing it was trained with."""
        raw = self._network.maps([pixels])[0]
        low, high = float(raw.min()), float(raw.max())
        if not high >= _PEAK or high - low < _PEAK / 2:
            raise SubjectNotFound("Nothing stands out from the background; give a mask.")
        return np.asarray((raw - low) / (high - low), dtype=np.float32)


def subject_of(frame: Frame, segmenter: Segmenter) -> Product:
    """The product in ``frame``, nowhere more opaque than it.

    An alpha channel is the matte itself, unless its shape is that of a frame (``framed``) which does not stand out on a plain ground as one thing:
    then it is the border of a photo, and the product is looked for inside. Raises ``SubjectNotFound``.
    """
    alpha = frame.alpha
    if alpha is None:
        return segmenter.find(frame.pixels)
    if int(alpha.max()) < CLEAR:
        raise SubjectNotFound("The picture is clear throughout.")
    ground = ground_for(frame)
    seen = over_ground(frame, ground)
    if int(alpha.min()) >= CLEAR:
        return _inside(seen, alpha, Box(0, 0, frame.width, frame.height), segmenter)
    photo, cut_out = framed(alpha), Product(alpha.copy(), None)
    if photo is None or _stands_out(seen, alpha, ground, segmenter):
        return cut_out
    try:
        return _inside(seen, alpha, photo, segmenter)
    except SubjectNotFound:
        return cut_out


def _inside(seen: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], box: Box, segmenter: Segmenter) -> Product:
    """The product in ``box`` of ``seen (H, W, 3)``, nowhere above ``alpha (H, W)``. Raises ``SubjectNotFound``."""
    found = segmenter.find(np.ascontiguousarray(seen[box.slices]))
    matte = np.zeros_like(alpha)
    matte[box.slices] = found.matte
    return Product(np.minimum(matte, alpha), found.ambiguity)


def _stands_out(seen: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], ground: int, segmenter: Segmenter) -> bool:
    """Whether all that is visible of ``seen (H, W, 3)`` is found as one thing, with its ``ground`` all round."""
    height, width = alpha.shape
    pad = round(_MARGIN * max(height, width))
    wider = cv2.copyMakeBorder(seen, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(ground, ground, ground))
    try:
        found = segmenter.matte(np.asarray(wider, np.uint8))
    except SubjectNotFound:
        return False
    shape, inside = visible(alpha) > 0, found[pad : pad + height, pad : pad + width] > 127
    return bool(np.count_nonzero(inside & shape) >= _WHOLE * np.count_nonzero(shape))


def _ambiguity(saliency: npt.NDArray[np.float32]) -> float:
    """Share of what ``saliency (h, w)`` of 0..1 does not rule out that it leaves open, edges of up to ``_EDGE`` pixels aside."""
    left_open = ((saliency > _CERTAIN) & (saliency < 1 - _CERTAIN)).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_EDGE, _EDGE))
    # What is open up to the frame may go on beyond it.
    around = cv2.copyMakeBorder(left_open, _EDGE, _EDGE, _EDGE, _EDGE, cv2.BORDER_REPLICATE)
    wide = cv2.morphologyEx(around, cv2.MORPH_OPEN, disc)[_EDGE:-_EDGE, _EDGE:-_EDGE]
    return float(np.count_nonzero(wide)) / np.count_nonzero(saliency > _CERTAIN)


def _refine(pixels: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The matte at full size: the coarse map pulled to the picture's edges (He et al., "Guided Image Filtering", 2010), these redrawn."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _WORK_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    guide = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.float32) / np.float32(255)
    coarse = np.asarray(cv2.resize(saliency, size, interpolation=cv2.INTER_LINEAR), np.float32)
    # The window must span the blur of one upscaled prediction pixel, on both sides of the edge.
    radius = max(2, round(1.5 * max(size) / _INPUT_SIDE))
    guided = cv2.ximgproc.guidedFilter(guide, coarse, 2 * radius, 1e-4)
    low, high = _LEVELS
    matte = np.rint(np.clip((guided - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    # Noise goes first: afterwards the gaps between hairs would pass for pinholes.
    edge = redraw_edge(guide, _without_noise(matte, coarse).astype(np.float32) / np.float32(255), max(size) / _INPUT_SIDE)
    matte = np.rint(edge * 255).astype(np.uint8)
    return np.asarray(cv2.resize(matte, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _without_noise(matte: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """``matte (H, W)`` without specks beside the subject and pinholes in it: small ones, of which ``saliency (H, W)`` is not certain."""
    parts = _small_parts(matte > 127, None, saliency > 1 - _CERTAIN)
    # Whatever soft fringe a removed speck leaves goes with it.
    fringe = np.ones((5, 5), np.uint8)
    cleaned = np.where(cv2.dilate(parts, fringe) > 0, 0, matte) if parts.any() else matte
    largest = int(np.count_nonzero(cleaned > 127))
    holes = _small_parts(cleaned <= 127, largest, saliency < _CERTAIN)
    return np.asarray(np.where(cv2.dilate(holes, fringe) > 0, 255, cleaned) if holes.any() else cleaned, dtype=np.uint8)


def _small_parts(region: npt.NDArray[np.bool_], reference: int | None, certain: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The connected parts of ``region``, as 0 or 1, that nowhere are ``certain`` and are smaller than a share of ``reference`` pixels.

    The default reference is the largest part.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(region.shape, np.uint8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    limit = _SPECK * (int(areas[1:].max()) if reference is None else reference)
    small = (areas < limit) & (np.bincount(labels[certain], minlength=count) == 0)
    small[0] = False
    return np.asarray(small[labels], dtype=np.uint8)
