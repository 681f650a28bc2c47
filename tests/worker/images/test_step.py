"""Steps along a border: found where the fill is off, and not where a photo varies by itself."""

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
from worker.images.mask import Box, edit_alpha
from worker.images.step import step

Array = npt.NDArray[np.uint8]
PHOTOS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "gravel.png", "ihc.png", "rocket.jpg")
LIMIT = Quality().step_warn
FADE = 4
"""Pixels on each side of the border of ``ellipse``."""


def photo(name: str) -> Array:
    with Image.open(str(files("skimage.data") / name)) as image:
        return np.array(image.convert("RGB"), np.uint8)


def ellipse(picture: Array, grow: int = 8, feather: int = 6, *, beside: tuple[float, float] = (0, 0)) -> Array:
    """A seventh of ``picture``, in its middle or ``beside`` it by shares of its width and height."""
    height, width = picture.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    centre = round((0.5 + beside[0]) * width), round((0.5 + beside[1]) * height)
    cv2.ellipse(mask, centre, (width // 5, height // 5), 20, 0, 360, 255, -1)
    return edit_alpha(mask, grow, feather)


def off(picture: Array, levels: npt.ArrayLike, alpha: Array) -> Array:
    """``picture``, pasted onto itself with other levels."""
    return composite(picture, np.clip(picture + np.asarray(levels), 0, 255).astype(np.uint8), alpha)


def found(pixels: Array, alpha: Array, fade: int = FADE, around: Box | None = None) -> float:
    value = step(pixels, alpha, fade, around=around)
    assert value is not None
    return value


def beyond(picture: Array, inner: Box) -> Array:
    """The alpha of an extension: all but ``inner``."""
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[inner.slices] = 0
    return alpha


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_have_no_step(name: str) -> None:
    """Along ellipses in a photo that nobody edited none is found, wherever they are."""
    picture = photo(name)
    values = [found(picture, ellipse(picture, beside=(x, y))) for x in (-0.1, 0, 0.1) for y in (-0.1, 0.1)]
    assert max(values) < LIMIT


@pytest.mark.parametrize("least", [9, -9])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_soft_step_is_found(name: str, least: int) -> None:
    """The photo's own content, off by 9 levels within a soft edge, is told of, also in bricks; in gravel, where nobody sees 9, by 18."""
    levels = 2 * least if name == "gravel.png" else least
    picture = np.clip(photo(name), 20, 235)
    alpha = ellipse(picture)
    assert found(off(picture, levels, alpha), alpha) >= LIMIT


@pytest.mark.parametrize("levels", [9, -9, 20])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_hard_step_is_found(name: str, levels: int) -> None:
    """So is the same pasted hard, in gravel too."""
    picture = np.clip(photo(name), 20, 235)
    alpha = ellipse(picture, 0, 0)
    assert found(off(picture, levels, alpha), alpha, 0) >= LIMIT


@pytest.mark.parametrize("levels", [(-9, 9, 0), (0, 0, 18), (14, 0, -14)])
def test_a_step_of_colour_is_not_hidden_by_light(levels: tuple[int, int, int]) -> None:
    """In a grey photo of gravel another colour is told of by all that it is, as nothing else there has any."""
    picture = np.clip(photo("gravel.png"), 20, 235)
    alpha = ellipse(picture)
    assert found(off(picture, levels, alpha), alpha) > 8


def test_calm_places_tell_of_a_step_beside_busy_ones() -> None:
    """Where half of the surroundings are coarse noise, nine levels are found by the other half, and within two of what they are."""
    picture = np.full((480, 480, 3), 120, np.uint8)
    rng = np.random.default_rng(zlib.crc32(b"half"))
    picture[:, :240] = np.clip(120 + rng.normal(0, 50, (480, 240, 1)), 0, 255)
    alpha = ellipse(picture)
    assert found(picture, alpha) < 1
    assert found(off(picture, 9, alpha), alpha) == pytest.approx(9, abs=2)


def test_a_slope_is_no_step() -> None:
    """Light that falls off across a border is the photo's own."""
    picture = np.broadcast_to(np.linspace(40, 220, 480)[:, None, None], (480, 480, 3)).astype(np.uint8)
    across = np.zeros((480, 480), np.uint8)
    across[240:] = 255
    assert found(picture, across, 0) < 1


@pytest.mark.parametrize("row", [239, 240, 241])
def test_a_straight_border_is_read_wherever_it_lies(row: int) -> None:
    """The places along a border show both of its sides, also where it lies between two tiles of the picture."""
    picture = np.clip(photo("brick.png"), 20, 235)
    alpha = np.zeros(picture.shape[:2], np.uint8)
    alpha[row:] = 255
    assert found(off(picture, 12, alpha), alpha, 0) == pytest.approx(12, abs=3)


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png", "ihc.png"])
def test_an_extension_of_which_one_side_is_off_has_a_step(name: str, side: str) -> None:
    """Of four sides three are joined and one is 20 levels off, which the mean of all does not tell: it is told of."""
    picture = np.clip(photo(name), 25, 230)
    height, width = picture.shape[:2]
    inner = Box(40, 40, width - 40, height - 40)
    alpha = beyond(picture, inner)
    there = {"left": np.s_[40:-40, :40], "right": np.s_[40:-40, -40:], "top": np.s_[:40, 40:-40], "bottom": np.s_[-40:, 40:-40]}[side]
    output = picture.copy()
    output[there] += 20
    assert found(output, alpha, 0, inner) >= LIMIT
    assert found(output, alpha, 0, inner) > found(output, alpha, 0)


@pytest.mark.parametrize("name", PHOTOS)
def test_no_side_of_an_extension_as_the_photo_itself_goes_on_has_a_step(name: str) -> None:
    """Around windows of a photo that nobody edited none is found, side by side either."""
    picture = photo(name)
    height, width = picture.shape[:2]
    windows = [Box(edge, edge, width - edge, height - edge) for edge in (30, 47, 60, 75, 90)]
    assert max(found(picture, beyond(picture, inner), 0, inner) for inner in windows) < LIMIT


def test_a_short_side_is_not_read_by_itself() -> None:
    """A side of a few places, as photos have edges of that length, tells nothing without the others."""
    picture = np.clip(photo("chelsea.png"), 25, 230)
    inner = Box(100, 100, 400, 220)
    alpha, output = beyond(picture, inner), picture.copy()
    output[100:220, :100] += 20
    assert found(output, alpha, 0, inner) == found(output, alpha, 0)


def test_what_is_black_or_white_throughout_does_not_outvote_the_rest() -> None:
    """Where most of a border is cut off at white, and can show no step, the rest tells of it; a border that is all white shows none."""
    picture = np.full((480, 480, 3), 255, np.uint8)
    picture[:, 300:] = 130
    alpha = ellipse(picture)
    assert found(off(picture, 12, alpha), alpha) >= LIMIT
    white = np.full((480, 480, 3), 255, np.uint8)
    assert step(off(white, 12, alpha), alpha, FADE) is None


def test_a_white_ground_with_a_grey_fill_has_a_step() -> None:
    """A fill that is not quite white on white is told of: one side is enough to show it."""
    white = np.full((480, 480, 3), 255, np.uint8)
    alpha = ellipse(white)
    assert found(off(white, -9, alpha), alpha) >= LIMIT


def test_a_border_in_many_pieces_is_measured_as_one() -> None:
    """A picture four times beside itself has the step of one of it, to two levels."""
    picture = np.clip(photo("chelsea.png"), 20, 235)
    height, width = (side // 24 * 24 for side in picture.shape[:2])
    picture = np.ascontiguousarray(picture[:height, :width])
    alpha = ellipse(picture)
    output = off(picture, 14, alpha)
    assert found(np.tile(output, (2, 2, 1)), np.tile(alpha, (2, 2))) == pytest.approx(found(output, alpha), abs=2)


def test_where_too_little_is_known_nothing_is_said() -> None:
    """No edit, one of a pixel and one whose surroundings are all clear have no step."""
    picture = photo("coffee.png")
    empty, dot = (np.zeros(picture.shape[:2], np.uint8) for _ in range(2))
    dot[50, 50] = 255
    assert step(picture, empty, 0) is None
    assert step(picture, np.full_like(empty, 255), 0) is None
    assert step(picture, dot, 0) is None
    alpha = ellipse(picture)
    assert step(picture, alpha, FADE, alpha == 0) is None
