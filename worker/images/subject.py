"""Which part of a picture is the product: its matte, ``uint8 (H, W)``, 255 = product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import SubjectNotFound
from worker.images import looks
from worker.images.codec import Frame
from worker.images.confidence import confidence
from worker.images.mask import Box, bounding_box, coverage
from worker.images.matting import Matting, redraw_edge
from worker.images.network import Network
from worker.images.transparency import CLEAR, framed, ground_for, over_ground, visible

_AREA = (0.001, 0.99)
"""Share of the frame that a subject covers."""
_LEVELS = (0.4, 0.8)
"""Likelihood up to the first is background, from the second on product; between them lies the soft edge."""
_SPECK = 0.02
"""Parts and holes below this share of the largest part are noise, unless the network is certain of them."""
_REACH = 4
"""Pixels of the network around a matte that take part in drawing its edge."""
_MARGIN = 0.06
"""Plain ground around a framed picture, of its longer side, on which it is seen whether it stands out as one thing."""
_WHOLE = 0.98
"""Share of a frame's shape that is then found where it is a product itself: a phone, a plate. Photos were up to 0.97."""


@dataclass(frozen=True, eq=False)
class Product:
    """The product, found."""

    matte: npt.NDArray[np.uint8]
    """``uint8 (H, W)``, 255 = product."""
    confidence: float | None
    """Confidence, 0..1, that it is found whole and alone; ``None`` where no segmenter was asked."""


class Segmenter:
    """Finds the product by a segmentation network: U²-Net small (Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object
    Detection", 2020) unless another is given.

    ``network`` is the path of its file, read once, or one that is loaded; it looks at a picture up to ``most_looks`` times. ``edge`` draws the edge
    of what is found.
    """

    def __init__(self, network: Path | Network, most_looks: int = looks.MOST, edge: Matting = redraw_edge) -> None:
        self._network = Network(network) if isinstance(network, Path) else network
        self._looks = most_looks
        self._edge = edge

    def matte(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The matte of the salient object in ``pixels (H, W, 3)``, with a narrow soft edge that follows the picture's own.

        Raises ``SubjectNotFound`` where nothing stands out, or everything does.
        """
        return self.find(pixels).matte

    def find(self, pixels: npt.NDArray[np.uint8]) -> Product:
        """The salient object in ``pixels (H, W, 3)``, and how far its matte is to be trusted. Raises ``SubjectNotFound``."""
        return self.product(pixels, self.look(pixels))

    def look(self, pixels: npt.NDArray[np.uint8]) -> looks.Finding:
        """The looks at ``pixels (H, W, 3)``, joined, of which no matte is made yet."""
        return looks.find(pixels, self._network, self._looks)

    def product(self, pixels: npt.NDArray[np.uint8], finding: looks.Finding) -> Product:
        """The product that the looks at ``pixels (H, W, 3)`` found. Raises ``SubjectNotFound``."""
        if not finding.looks:
            raise SubjectNotFound("Nothing stands out from the background; give a mask.")
        matte = _refine(pixels, finding, self._edge)
        share = coverage(matte)
        if not _AREA[0] <= share <= _AREA[1]:
            raise SubjectNotFound(f"What stands out covers {share:.1%} of the picture.")
        return Product(matte, confidence(finding, self._network.facts.side))

    def glance(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The network's own map ``float32 (H, W)`` of the whole of ``pixels (H, W, 3)``, squeezed: one look, and nothing made of it."""
        height, width = pixels.shape[:2]
        return np.asarray(cv2.resize(self._network.maps([pixels])[0], (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


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
    return Product(np.minimum(matte, alpha), found.confidence)


def _stands_out(seen: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], ground: int, segmenter: Segmenter) -> bool:
    """Whether all that is visible of ``seen (H, W, 3)`` is found as one thing, with its ``ground`` all round."""
    height, width = alpha.shape
    pad = round(_MARGIN * max(height, width))
    wider = cv2.copyMakeBorder(seen, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(ground, ground, ground))
    found = segmenter.glance(np.asarray(wider, np.uint8))
    shape, inside = visible(alpha) > 0, found[pad : pad + height, pad : pad + width] > 0.5
    return bool(np.count_nonzero(inside & shape) >= _WHOLE * np.count_nonzero(shape))


def _refine(pixels: npt.NDArray[np.uint8], finding: looks.Finding, edge: Matting) -> npt.NDArray[np.uint8]:
    """The matte ``uint8 (H, W)``: the joined map without noise, its ``edge`` redrawn from ``pixels (H, W, 3)``."""
    height, width = pixels.shape[:2]
    grid = finding.likely.shape
    low, high = _LEVELS
    cleaned = _without_noise(np.rint(np.clip((finding.likely - low) / (high - low), 0, 1) * 255).astype(np.uint8), finding.likely)
    matte = np.zeros((height, width), np.uint8)
    box = bounding_box(cleaned)
    if box is None:
        return matte
    # Nothing is changed further from the matte than its accuracy: the rest need not be looked at.
    box = box.padded(math.ceil(_REACH * finding.grain), grid)
    window = looks.at_full_size(box, grid, pixels.shape)
    opacity = edge(
        np.ascontiguousarray(pixels[window]),
        cleaned[box.slices].astype(np.float32) / np.float32(255),
        max(height / grid[0], width / grid[1]) * finding.grain,
    )
    matte[window] = np.rint(opacity * 255).astype(np.uint8)
    return matte


def _without_noise(matte: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """``matte (H, W)`` without specks beside the subject and pinholes in it: small ones, of which ``saliency (H, W)`` is not certain."""
    parts = _small_parts(matte > 127, None, saliency > 1 - looks.CERTAIN)
    # Whatever soft fringe a removed speck leaves goes with it.
    fringe = np.ones((5, 5), np.uint8)
    cleaned = np.where(cv2.dilate(parts, fringe) > 0, 0, matte) if parts.any() else matte
    largest = int(np.count_nonzero(cleaned > 127))
    holes = _small_parts(cleaned <= 127, largest, saliency < looks.CERTAIN)
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
