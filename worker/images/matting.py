"""The edge of a matte, drawn anew by the colours on its two sides.

On each pixel of a band around the edge, Fisher's linear discriminant (1936) of the sure subject and the sure background nearby, scaled to be
1 at the mean colour of the one and 0 at that of the other. Mixed colours lie between the two, so it is an opacity and not only a class.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float32]

_SIDE = 800
"""Longest side, pixels, at which colours are learnt: what is learnt varies slowly, and is applied at full size."""
_BAND = 1.5
"""Half the width of the band, in grains: wider, and what the background shares with the subject shines through."""
_REACH = 8
"""How far, in grains, colours are learnt from."""
_SEEN = 0.02
"""Share of that window that either side must have to be known at all."""
_NOISE = 1e-4
"""Variance, of colours 0..1, that is added to what is measured: two flat sides would otherwise be told apart by rounding."""
_APART = 8
"""Squared Mahalanobis distance of the two sides at which their colours and the given matte have equal say."""
_SURE = 0.1
"""Estimates nearer than this to 0 or 1 are texture, not opacity."""


def redraw_edge(colours: _Float, matte: _Float, grain: float) -> _Float:
    """``matte (H, W)`` of 0..1 with its edge redrawn from ``colours (H, W, 3)`` of 0..1.

    ``grain`` is the accuracy of the matte in pixels. Further than 1.5 grains from where it is soft, nothing is changed but that it is made 0 or 1;
    where the two sides look alike, it is only made a little harder.
    """
    height, width = matte.shape
    subject, background = (_sure(side, grain) for side in (matte, 1 - matte))
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small, ones, zeros = (_resized(plane, size, cv2.INTER_AREA) for plane in (colours, subject, background))
    learnt = _discriminant(small, ones, zeros, max(2, round(_REACH * grain * scale)))
    slope, offset, trust = (_resized(plane, (width, height), cv2.INTER_LINEAR) for plane in learnt)
    opacity = np.clip(np.einsum("ijk,ijk->ij", colours, slope) + offset, 0, 1)
    edge = np.clip((trust * opacity + (1 - trust) * matte - _SURE) / (1 - 2 * _SURE), 0, 1)
    return np.where(subject > 0, 1, np.where(background > 0, 0, edge)).astype(np.float32)


def _sure(side: _Float, grain: float) -> _Float:
    """1 where ``side (H, W)`` is nearly 1 and so is all around; beyond the frame nothing is held against it."""
    radius = max(1, round(_BAND * grain))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.erode((side > 0.95).astype(np.uint8), disc), dtype=np.float32)


def _discriminant(colours: _Float, subject: _Float, background: _Float, radius: int) -> tuple[_Float, _Float, _Float]:
    """Of each pixel the ``slope (H, W, 3)`` and ``offset (H, W)`` that make opacity of its colour, and how far to trust it, 0..1."""
    shape = subject.shape
    slope, offset, trust = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    shares = [_around(side, radius) for side in (subject, background)]
    # Of no use elsewhere: this is what keeps the matrices few.
    here = (shares[0] > _SEEN) & (shares[1] > _SEEN)
    (ones, spread), (zeros, other) = (
        _moments(colours, side, share, radius, here) for side, share in zip((subject, background), shares, strict=True)
    )
    across = ones - zeros
    within = (spread + other) / 2 + _NOISE * np.eye(3, dtype=np.float32)
    direction = np.linalg.solve(within, across[..., None])[..., 0]
    distance = np.maximum((direction * across).sum(axis=1), 1e-6)
    slope[here] = direction / distance[:, None]
    offset[here] = -(slope[here] * zeros).sum(axis=1)
    trust[here] = distance / (distance + _APART)
    return slope, offset, trust


def _moments(colours: _Float, side: _Float, share: _Float, radius: int, here: npt.NDArray[np.bool_]) -> tuple[_Float, _Float]:
    """Mean ``(N, 3)`` and covariance ``(N, 3, 3)`` of the colours of ``side (H, W)`` around each of the N pixels ``here``."""
    count = share[here]
    mean = _around(colours * side[..., None], radius)[here] / count[:, None]
    covariance = np.empty((len(count), 3, 3), np.float32)
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        product = _around(colours[..., i] * colours[..., j] * side, radius)[here] / count - mean[:, i] * mean[:, j]
        covariance[:, i, j] = covariance[:, j, i] = product
    return mean, covariance


def _around(plane: _Float, radius: int) -> _Float:
    return np.asarray(cv2.blur(plane, (2 * radius + 1, 2 * radius + 1)), dtype=np.float32)


def _resized(plane: _Float, size: tuple[int, int], interpolation: int) -> _Float:
    return np.asarray(cv2.resize(plane, size, interpolation=interpolation), dtype=np.float32)
