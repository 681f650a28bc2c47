"""Profiles of a border: rims are found, and what was asked for is none."""

from __future__ import annotations

import zlib
from importlib.resources import files

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from core.settings import Quality
from worker.images.blend import composite
from worker.images.mask import edit_alpha
from worker.images.profile import Profile

Array = npt.NDArray[np.uint8]
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "gravel.png")
LIMITS = Quality()
PINK = (250, 163, 193)


def photo(name: str) -> Array:
    with Image.open(str(files("skimage.data") / name)) as image:
        return np.array(image.convert("RGB"), np.uint8)


def ellipse(picture: Array, grow: int = 4, feather: int = 4) -> Array:
    height, width = picture.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (width // 6, height // 5), 20, 0, 360, 255, -1)
    return edit_alpha(mask, grow, feather)


def measured(pixels: Array, alpha: Array) -> float:
    """The rim."""
    profile = Profile.of(pixels, alpha)
    assert profile is not None
    rim = profile.rim()
    assert rim is not None
    return rim


def texture(shape: tuple[int, ...]) -> Array:
    noise = np.random.default_rng(zlib.crc32(b"texture")).normal(0, 18, shape)
    return np.clip(110 + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_have_no_rim(name: str) -> None:
    """Along an ellipse in a photo that nobody edited it is below the limit of a warning."""
    picture = photo(name)
    assert measured(picture, ellipse(picture)) < LIMITS.rim_warn


@pytest.mark.parametrize("fill", ["pink", "texture", "darker"])
@pytest.mark.parametrize("name", PHOTOS)
def test_new_content_has_no_rim(name: str, fill: str) -> None:
    """A plain colour, a texture and a darker tone of the photo are another thing than what surrounds them, and no rim."""
    picture = photo(name)
    darker = np.clip(picture.astype(int) - 40, 0, 255).astype(np.uint8)
    inside = {"pink": np.full_like(picture, PINK), "texture": texture(picture.shape), "darker": darker}[fill]
    alpha = ellipse(picture)
    assert measured(composite(picture, inside, alpha), alpha) < LIMITS.rim_warn


@pytest.mark.parametrize("width", [2, 4, 6])
@pytest.mark.parametrize("fill", ["pink", "truth"])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_line_that_is_off_both_sides_is_a_rim(name: str, fill: str, width: int) -> None:
    """A line of 2 to 6 pixels along the border, 20 levels darker than the darker side, or lighter where that is black, is found."""
    picture = photo(name)
    alpha = ellipse(picture)
    output = composite(picture, np.full_like(picture, PINK) if fill == "pink" else picture, alpha)
    depth = cv2.distanceTransform((alpha == 255).astype(np.uint8), cv2.DIST_L2, 5)
    line = (depth > 0) & (depth <= width)
    soft = cv2.blur(picture, (15, 15)).astype(int)
    darker = soft - 20 if fill == "truth" else np.minimum(soft, PINK) - 20
    lighter = soft + 20 if fill == "truth" else np.maximum(soft, PINK) + 20
    colour = darker if soft[line].mean() > 60 else lighter
    output = np.where(line[..., None], np.clip(colour, 0, 255), output).astype(np.uint8)
    assert measured(output, alpha) >= LIMITS.rim_warn


def test_remains_outside_of_a_tight_mask_are_a_rim() -> None:
    """A red ring that a mask of exactly the disc leaves beside its border is found; where the border is a contour, it is not looked for there."""
    picture = np.full((300, 300, 3), 180, np.uint8)
    cv2.circle(picture, (150, 150), 83, (200, 30, 30), -1)
    mask = np.zeros((300, 300), np.uint8)
    cv2.circle(mask, (150, 150), 80, 255, -1)
    profile = Profile.of(composite(picture, np.full_like(picture, 170), mask), mask)
    assert profile is not None
    rim, inside = profile.rim(), profile.rim(outside=False)
    assert rim is not None
    assert rim > LIMITS.rim_fail
    assert inside is not None
    assert inside < LIMITS.rim_warn


@pytest.mark.parametrize("row", [239, 240, 241])
def test_a_rim_along_a_straight_border_is_found_wherever_it_lies(row: int) -> None:
    """A line beside a border that lies between two tiles of the picture is found as any other."""
    picture = np.full((480, 480, 3), 130, np.uint8)
    alpha = np.zeros((480, 480), np.uint8)
    alpha[row:] = 255
    picture[row - 1 : row + 2] = 90
    assert measured(picture, alpha) == pytest.approx(40, abs=1)


def test_a_border_in_many_pieces_is_measured_as_one() -> None:
    """A picture four times beside itself has the rim of one of it, to a tenth."""
    picture = photo("chelsea.png")
    height, width = (side // 24 * 24 for side in picture.shape[:2])
    picture = np.ascontiguousarray(picture[:height, :width])
    alpha = ellipse(picture)
    depth = cv2.distanceTransform((alpha == 255).astype(np.uint8), cv2.DIST_L2, 5)
    picture = np.where(((depth > 0) & (depth <= 3))[..., None], 0, picture).astype(np.uint8)
    one = measured(picture, alpha)
    assert measured(np.tile(picture, (2, 2, 1)), np.tile(alpha, (2, 2))) == pytest.approx(one, rel=0.1)


def test_without_a_border_nothing_is_said() -> None:
    """An empty edit, one of everything, one of a pixel and one that fades over half of the picture have no figures."""
    picture = photo("coffee.png")
    empty, whole, dot = (
        np.zeros(picture.shape[:2], np.uint8),
        np.full(picture.shape[:2], 255, np.uint8),
        np.zeros(picture.shape[:2], np.uint8),
    )
    dot[50, 50] = 255
    assert Profile.of(picture, empty) is None
    assert Profile.of(picture, whole) is None
    profile = Profile.of(picture, dot)
    assert profile is not None
    assert profile.rim() is None
    assert Profile.of(picture, ellipse(picture, 0, 60)) is None


def test_clear_surroundings_are_not_compared() -> None:
    """Where all that surrounds an edit is clear there is no other side that it could be off."""
    picture = photo("coffee.png")
    alpha = ellipse(picture)
    profile = Profile.of(picture, alpha, alpha == 0)
    assert profile is not None
    assert not profile.rim()
