"""Seams and colour shifts: planted faults are found, and photos have none."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from worker.images.mask import edit_alpha
from worker.images.measures import Border, delta_e_2000

Array = npt.NDArray[np.uint8]
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "gravel.png")


def seam(pixels: Array, alpha: Array) -> float | None:
    border = Border.of(alpha)
    return border.seam(pixels) if border else None


def colour_shift(pixels: Array, alpha: Array) -> float | None:
    border = Border.of(alpha)
    return border.colour_shift(pixels) if border else None


def photo(name: str) -> Array:
    with Image.open(str(files("skimage.data") / name)) as image:
        pixels: Array = np.array(image.convert("RGB"), np.uint8)
        return pixels


def ellipse(shape: tuple[int, ...], feather: int = 4) -> Array:
    mask = np.zeros(shape[:2], np.uint8)
    cv2.ellipse(mask, (shape[1] // 2, shape[0] // 2), (shape[1] // 6, shape[0] // 5), 20, 0, 360, 255, -1)
    return edit_alpha(mask, 0, feather)


def pasted(base: Array, fill: npt.NDArray[Any], alpha: Array) -> Array:
    mixed: Array = np.rint(base + (np.clip(fill, 0, 255) - base) * (alpha[..., None] / 255)).astype(np.uint8)
    return mixed


# Of the table of Sharma, Wu and Dalal (2005): pairs in which hue, rotation and small chroma each matter.
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (56, -27, -3), 31.9030),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_delta_e_is_the_published_one(first: tuple[float, ...], second: tuple[float, ...], expected: float) -> None:
    """CIEDE2000 is that of its authors' test data, to all four digits, in both directions."""
    assert delta_e_2000(first, second) == pytest.approx(expected, abs=5e-5)
    assert delta_e_2000(second, first) == pytest.approx(expected, abs=5e-5)


def test_a_photo_that_nobody_edited_has_no_seam() -> None:
    """Around any ellipse in real photos the seam is about 1, and the colour shift is small."""
    found = [(seam(picture, alpha), colour_shift(picture, alpha)) for picture in map(photo, PHOTOS) for alpha in [ellipse(picture.shape)]]
    seams, shifts = ([value for value in values if value is not None] for values in zip(*found, strict=True))
    assert len(seams) == len(shifts) == len(PHOTOS)
    assert 0.8 < float(np.median(seams)) < 1.2
    assert float(np.median(shifts)) < 3


@pytest.mark.parametrize("name", PHOTOS)
def test_a_hard_paste_shows_as_a_seam(name: str) -> None:
    """A fill that is lighter by 40 levels, pasted without a feather, has a larger seam than the photo, and is seen as one."""
    picture = photo(name)
    alpha = ellipse(picture.shape, feather=0)
    spoilt = pasted(picture, picture.astype(int) // 2 + 100, alpha)
    before, after = seam(picture, alpha), seam(spoilt, alpha)
    assert before is not None
    assert after is not None
    assert after > 1.15 * before


@pytest.mark.parametrize("feather", [0, 8, 16])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_tinted_fill_shows_as_a_colour_shift(name: str, feather: int) -> None:
    """A fill with a cast of 40 levels is off its surroundings by more than 6, however softly it is pasted."""
    picture = photo(name)
    alpha = ellipse(picture.shape, feather=feather)
    shift = colour_shift(pasted(picture, picture + np.array([40, 0, -40]), alpha), alpha)
    assert shift is not None
    assert shift > 6


def test_a_fill_of_less_than_full_strength_is_measured() -> None:
    """A mask of strength 200 has a border like any other."""
    picture = photo("coffee.png")
    alpha = edit_alpha(np.where(ellipse(picture.shape, 0) > 0, np.uint8(200), np.uint8(0)), 0, 4)
    shift = colour_shift(pasted(picture, picture + np.array([40, 0, -40]), alpha), alpha)
    assert shift is not None
    assert shift > 5
    assert seam(picture, alpha) is not None


def test_across_a_wide_fade_colours_are_not_compared() -> None:
    """With a feather of 32 px the two sides lie so far apart that a photo's own colours differ: the seam is told, the colour shift is not."""
    picture = photo("coffee.png")
    alpha = ellipse(picture.shape, feather=32)
    assert colour_shift(picture, alpha) is None
    assert seam(picture, alpha) is not None


def test_a_large_edit_is_measured_as_a_small_one_is() -> None:
    """A border that is found in many pieces has the figures of one that is found at once: a picture beside itself has those of one of it."""
    picture = photo("chelsea.png")
    alpha = ellipse(picture.shape)
    many = np.tile(picture, (4, 4, 1)), np.tile(alpha, (4, 4))
    one, all_of_them = seam(picture, alpha), seam(*many)
    assert one is not None
    assert all_of_them == pytest.approx(one, rel=1e-4)


def test_where_there_is_no_border_nothing_is_said() -> None:
    """An empty edit, one of everything, and one of a single pixel have no figures."""
    picture = photo("coffee.png")
    for alpha in (np.zeros(picture.shape[:2], np.uint8), np.full(picture.shape[:2], 255, np.uint8)):
        assert seam(picture, alpha) is None
        assert colour_shift(picture, alpha) is None
    dot = np.zeros(picture.shape[:2], np.uint8)
    dot[50, 50] = 255
    assert seam(picture, dot) is None
