"""How an extension goes on with its picture: a blur beside a sharp picture is told of, and a picture's own depth of field is not."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.requests import Level
from worker.images.continuity import Continuity

Array = npt.NDArray[np.uint8]


def sharp(width: int = 240) -> Array:
    grain = np.random.default_rng(0).normal(0, 25, (200, width, 1))
    return np.clip(120 + np.repeat(grain, 3, axis=2), 0, 255).astype(np.uint8)


def soft(width: int = 240) -> Array:
    return np.asarray(cv2.GaussianBlur(sharp(width), (0, 0), 6), np.uint8)


def test_a_blur_beside_a_sharp_picture_is_doubted() -> None:
    """An extension without detail is no continuation of a picture that is sharp at the border."""
    assert Continuity.of(sharp(), soft()).level is Level.WARN


def test_a_picture_that_is_out_of_focus_at_its_border_goes_on_so() -> None:
    """A soft extension of a picture that is sharp in its middle and soft at its border is none to be doubted."""
    picture = np.hstack([soft(40), sharp(200)])
    assert Continuity.of(picture, soft()).level is Level.PASS
