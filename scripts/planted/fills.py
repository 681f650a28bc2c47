"""The pictures that planted painters mean to paint, each the size of the whole output.

- *truth*: the photo's own content everywhere. No edit can be better, and nothing may be changed in it.
- *dark*: one colour, 40 levels darker than the surroundings (lighter, where these are too dark for that): "a darker wall". What a correction by
  the difference across the border takes back first.
- *pink*: one colour, [250, 163, 193], whatever the surroundings.
- *texture*: coloured noise of all scales whose mean is not the surroundings': nothing in it is the same on both sides of the border.
- *disc*: the true photo, and in the middle of the edit a shaded disc that touches no border. Nothing of it shows at the border, so that all
  that is done to it is done in ignorance.
- *cup*: the true photo, and a cup with a handle whose body runs across a part of the border: a thing may end where the edit ends.

The disc and the cup have a colour that the photo has not, so that a change of it is measured and not lost in the photo's own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from scripts.planted.scenes import Scene
from worker.images.mask import bounding_box

Array = npt.NDArray[np.uint8]
PINK = (250, 163, 193)
_DARKER = 40
_RING_PX = 24
_TEAL, _OCHRE, _GREY = (20, 150, 150), (200, 140, 40), (150, 150, 150)


def truth(scene: Scene) -> Array:
    """The photo."""
    return scene.truth


def dark(scene: Scene) -> Array:
    """One colour, ``_DARKER`` levels off the mean of the surroundings in every channel."""
    around = _surroundings(scene)
    off = -_DARKER if around.min() >= _DARKER else _DARKER
    return _plain(scene, np.clip(around + off, 0, 255))


def pink(scene: Scene) -> Array:
    """One colour that was asked for by name."""
    return _plain(scene, np.array(PINK))


def texture(scene: Scene) -> Array:
    """Coloured noise, a third each of three scales, around a colour 40 levels off the surroundings in two channels."""
    rng = np.random.default_rng(zlib.crc32(scene.photo.encode()))
    height, width = scene.truth.shape[:2]
    field = np.zeros((height, width, 3), np.float32)
    for sigma in (0.8, 3.0, 12.0):
        noise = cv2.GaussianBlur(rng.standard_normal((height, width, 3)).astype(np.float32), (0, 0), sigma)
        field += 12 * noise / noise.std()
    around = _surroundings(scene)
    middle = np.where(around > 128, around - _DARKER * np.array([1, 0.2, 1]), around + _DARKER * np.array([1, 1, 0.2]))
    return np.asarray(np.clip(middle + field, 0, 255), np.uint8)


def disc(scene: Scene) -> Array:
    """The photo and a ball, half as wide as there is room around the deepest place of the edit."""
    (x, y), room = _deepest(scene)
    rows, columns = np.indices(scene.truth.shape[:2])
    away = np.hypot(rows - y, columns - x) / max(2.0, room / 2)
    light = np.clip(1.1 - 0.5 * np.hypot(away, 0.3 * (rows - y) / max(2.0, room / 2)), 0, 1.2)
    ball = np.clip(_colour(scene) * light[..., None], 0, 255)
    return np.where((away <= 1)[..., None], ball, scene.truth).astype(np.uint8)


def cup(scene: Scene) -> Array:
    """The photo and a cup: a body that runs out of the edit on its lower side, a rim and a handle."""
    (x, y), room = _deepest(scene)
    box = bounding_box(scene.plan.edit.alpha)
    bottom = box.bottom if box else scene.truth.shape[0]
    half, top = max(3, int(room * 0.45)), int(y - room * 0.3)
    canvas, colour = scene.truth.copy(), _colour(scene)
    shades = (tuple(float(min(255, each * light)) for each in colour) for light in (0.75, 1.0, 0.6))
    handle, body, inside = shades
    cv2.ellipse(canvas, (int(x) + half, int(y)), (half // 2, half // 2), 0, 0, 360, handle, max(2, half // 6))
    cv2.rectangle(canvas, (int(x) - half, top), (int(x) + half, bottom), body, -1)
    cv2.ellipse(canvas, (int(x), top), (half, max(2, half // 4)), 0, 0, 360, inside, -1)
    return canvas


WANTED: dict[str, Callable[[Scene], Array]] = {"dark": dark, "pink": pink, "texture": texture, "disc": disc, "cup": cup}
"""What a prompt may ask for."""
GROUPS = {"dark": "plain", "pink": "plain", "texture": "textured", "disc": "object", "cup": "object"}


def _plain(scene: Scene, colour: npt.ArrayLike) -> Array:
    return np.broadcast_to(np.asarray(colour, np.uint8), scene.truth.shape).copy()


def _surroundings(scene: Scene) -> npt.NDArray[np.float64]:
    """The mean colour of what is kept within ``_RING_PX`` of the edit."""
    alpha = scene.plan.edit.alpha
    side = 2 * _RING_PX + 1
    ring = (cv2.dilate(alpha, np.ones((side, side), np.uint8)) > 0) & (alpha == 0)
    return np.asarray(scene.truth[ring].mean(axis=0), np.float64)


def _colour(scene: Scene) -> npt.NDArray[np.float64]:
    """The one of two colours that the photo has less of; a grey in an extension of a photo without colours, which gets none."""
    if scene.is_grey:
        return np.array(_GREY, np.float64)
    mean = scene.truth.reshape(-1, 3).mean(axis=0)
    return np.array(max((_TEAL, _OCHRE), key=lambda colour: float(np.abs(mean - colour).sum())), np.float64)


def _deepest(scene: Scene) -> tuple[tuple[float, float], float]:
    """The place of the edit that is farthest from its border and the frame's, (x, y), and how far that is."""
    edited = np.pad((scene.plan.edit.alpha == 255).astype(np.uint8), 1)
    depth = cv2.distanceTransform(edited, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return (float(x), float(y)), float(depth.max())
