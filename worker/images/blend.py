"""Putting a fill into a picture: exact where nothing is edited, soft where the edit fades."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.images.codec import Frame
from worker.images.mask import Box

_STRIP = 1 << 20
"""Pixels composited at a time: bounds the 16-bit intermediates on large frames."""
_TILE = 1024
_RADII = (90, 6)
_HALO = 64
"""At least the reach of the two blurs together (45 + 3), so that tiles meet without a seam."""
_EPSILON = 1e-5
_Floats = npt.NDArray[np.float32]


def composite(base: npt.NDArray[np.uint8], fill: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``(fill × a + base × (255 - a) + 127) // 255`` in integers: exactly ``base`` where a = 0 and ``fill`` where a = 255.

    ``base`` and ``fill`` are ``uint8 (H, W, 3)`` or ``(H, W)``; ``alpha`` is ``uint8 (H, W)``.
    """
    out = np.empty_like(base)
    rows = max(1, _STRIP // max(1, base.shape[1]))
    for start in range(0, base.shape[0], rows):
        strip = slice(start, start + rows)
        # 255 × 255 + 127 fits in 16 bits.
        weight = alpha[strip].astype(np.uint16)
        weight = weight[..., None] if base.ndim == 3 else weight
        total = fill[strip] * weight
        total += base[strip] * (255 - weight)
        total += 127
        total //= 255
        out[strip] = total
    return out


def paste(
    frame: Frame,
    window_pixels: npt.NDArray[np.uint8],
    window_alpha: npt.NDArray[np.uint8],
    box: Box,
    cover: npt.NDArray[np.uint8] | None = None,
) -> Frame:
    """``frame`` with ``window_pixels (h, w, 3)`` composited into ``box`` by ``window_alpha (h, w)``.

    Size, ICC profile, and every pixel outside the box or where the alpha is 0 are the frame's own. Over a frame with an alpha the fill is laid by
    Porter and Duff's "over", as Pillow's ``alpha_composite`` has it to the bit: hidden colours of clear pixels do not show in it. A fill that is
    itself ``cover (h, w)`` opaque, 255 = wholly, takes the place of what was there by as much as ``window_alpha`` says.
    """
    pixels, window = frame.pixels.copy(), box.slices
    if frame.alpha is None:
        pixels[window] = composite(frame.pixels[window], window_pixels, window_alpha)
        return Frame(pixels, None, frame.icc)
    alpha = frame.alpha.copy()
    if cover is None or int(cover.min()) == 255:
        base, over = (Image.fromarray(np.dstack(planes)) for planes in ((pixels[window], alpha[window]), (window_pixels, window_alpha)))
        laid = np.asarray(Image.alpha_composite(base, over))
        pixels[window], alpha[window] = laid[..., :3], laid[..., 3]
    else:
        pixels[window], alpha[window] = _dissolved(pixels[window], alpha[window], window_pixels, window_alpha, cover)
    return Frame(pixels, alpha, frame.icc)


def _dissolved(
    pixels: npt.NDArray[np.uint8],
    alpha: npt.NDArray[np.uint8],
    fill: npt.NDArray[np.uint8],
    strength: npt.NDArray[np.uint8],
    cover: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The mean of two translucent pictures, weighed by ``strength``: alphas as they are, colours by the alpha that each has (premultiplied)."""
    share = np.empty_like(strength)
    rows = max(1, _STRIP // max(1, strength.shape[1]))
    for start in range(0, strength.shape[0], rows):
        strip = slice(start, start + rows)
        weight = strength[strip].astype(np.uint32)
        of_fill, of_frame = weight * cover[strip], (255 - weight) * alpha[strip]
        seen = of_fill + of_frame
        # Where nothing is seen there are no colours to weigh; what the file hides there stays only where it is kept.
        share[strip] = np.where(seen > 0, (255 * of_fill + seen // 2) // np.maximum(seen, 1), (weight > 0) * np.uint32(255))
    return composite(pixels, fill, share), composite(alpha, cover, strength)


def estimate_foreground(pixels: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The colours of the subject without the old background that shines through its soft edge: ``uint8 (H, W, 3)``.

    Implements blur fusion in two passes from Forte, "Approximate Fast Foreground Colour Estimation" (ICIP 2021). Pixels with
    ``alpha`` 255 are returned exactly; those far outside the subject become black, so that no trace of the background is handed out.
    """
    height, width = alpha.shape
    out = np.zeros_like(pixels)
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            tile = Box(left, top, min(width, left + _TILE), min(height, top + _TILE))
            halo = tile.padded(_HALO, alpha.shape)
            matte = alpha[halo.slices]
            if not matte.any():
                continue
            if int(matte.min()) == 255:
                out[tile.slices] = pixels[tile.slices]
                continue
            estimate = _blur_fusion(pixels[halo.slices], matte)
            y, x = tile.top - halo.top, tile.left - halo.left
            out[tile.slices] = estimate[y : y + tile.height, x : x + tile.width]
    return out


def _blur_fusion(pixels: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The estimate of one tile. All of it is blurred, and solved where a result is used: at soft pixels, and at those that the second blur takes in."""
    wide, narrow = _RADII
    reach = np.ones((narrow + 1, narrow + 1), np.uint8)
    soft = cv2.dilate((alpha > 0).view(np.uint8), reach) & (alpha < 255).view(np.uint8)
    out = cv2.bitwise_and(pixels, cv2.merge([(alpha == 255).view(np.uint8) * np.uint8(255)] * 3))
    edge, around = np.flatnonzero(soft), np.flatnonzero(cv2.dilate(soft, reach))
    if not edge.size:
        return np.asarray(out, np.uint8)
    weight, image = alpha.astype(np.float32) / np.float32(255), pixels.astype(np.float32)
    of_subject = np.asarray(cv2.multiply(image, cv2.merge([weight] * 3)), np.float32)
    foreground, background = _solved(image, weight, of_subject, image - of_subject, wide, around)
    share = weight.reshape(-1, 1)[around]
    of_subject, of_rest = np.zeros_like(image), np.zeros_like(image)
    of_subject.reshape(-1, 3)[around], of_rest.reshape(-1, 3)[around] = foreground * share, background * (1 - share)
    foreground, _ = _solved(image, weight, of_subject, of_rest, narrow, edge)
    out.reshape(-1, 3)[edge] = np.rint(foreground).astype(np.uint8)
    return np.asarray(out, np.uint8)


def _solved(
    image: _Floats, weight: _Floats, of_subject: _Floats, of_rest: _Floats, radius: int, at: npt.NDArray[np.intp]
) -> tuple[_Floats, _Floats]:
    """Colours ``(n, 3)`` of the subject and of the rest at the pixels ``at (n,)`` of the flat picture: those nearby, and what is left of the pixel's own."""
    kernel = (radius, radius)
    covered = np.asarray(cv2.blur(weight, kernel), np.float32).reshape(-1, 1)[at]
    subject, rest = (np.asarray(cv2.blur(each, kernel), np.float32).reshape(-1, 3)[at] for each in (of_subject, of_rest))
    near, background = subject / (covered + _EPSILON), rest / (1 - covered + _EPSILON)
    share = weight.reshape(-1, 1)[at]
    own = image.reshape(-1, 3)[at] - share * near - (1 - share) * background
    return np.clip(near + share * own, 0, 255).astype(np.float32), background
