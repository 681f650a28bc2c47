"""Harmonising by known error: what a painter did to kept pixels is taken back, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from worker.images.known_error import correct

Array = npt.NDArray[np.uint8]
Flaw = Callable[[Array], Array]
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "gravel.png")
SIDE = 384
PINK, TEAL, SLATE = (250, 163, 193), (36, 163, 165), (96, 120, 140)


def photo(name: str) -> Array:
    with Image.open(str(files("skimage.data") / name)) as image:
        return np.array(image.convert("RGB").resize((SIDE, SIDE)), np.uint8)


def hole() -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(mask, (SIDE // 2, SIDE // 2), (SIDE // 5, SIDE // 4), 20, 0, 360, 1, -1)
    return mask > 0


def perfect(picture: Array, inside: npt.ArrayLike) -> Array:
    """Kept pixels exactly as shown, and ``inside`` in the hole."""
    return np.where(hole()[..., None], inside, picture).astype(np.uint8)


def in_lab(*offset: float) -> Flaw:
    def flaw(pixels: Array) -> Array:
        lab = cv2.cvtColor((pixels / np.float32(255)).astype(np.float32), cv2.COLOR_RGB2LAB) + np.array(offset, np.float32)
        return np.asarray(np.rint(np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255), np.uint8)

    return flaw


def gain(factor: float) -> Flaw:
    return lambda pixels: np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)


def gamma(exponent: float) -> Flaw:
    return lambda pixels: np.rint(255 * (pixels / 255.0) ** exponent).astype(np.uint8)


def off(first: Array, second: Array) -> npt.NDArray[np.int16]:
    """Levels apart inside the hole."""
    return np.asarray(np.abs(first.astype(np.int16) - second)[hole()], np.int16)


@pytest.mark.parametrize("inside", [PINK, TEAL, (20, 20, 20)], ids=["pink", "teal", "black"])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_painter_that_kept_all_pixels_comes_out_as_it_painted(name: str, inside: tuple[int, int, int]) -> None:
    """Where kept pixels are exact nothing is known to be wrong, and the fill is returned itself, whatever lies across the border."""
    picture = photo(name)
    fill = perfect(picture, inside)
    found = correct(fill, picture, ~hole())
    assert found.fill is fill
    assert found.painted is None


@pytest.mark.parametrize(
    "flaw",
    [in_lab(10, 0, 0), in_lab(-10, 0, 0), in_lab(0, -10, 0), in_lab(0, 0, 10), gain(0.9), gain(1.1), gamma(0.9), gamma(1.1)],
    ids=["lighter", "darker", "greener", "yellower", "gain 0.9", "gain 1.1", "gamma 0.9", "gamma 1.1"],
)
def test_a_shift_of_all_colours_is_taken_back_from_what_was_asked_for_too(flaw: Flaw) -> None:
    """Of one change of colour over all that was painted at most a quarter is left, in the photo's own content and in a slate wall.

    Colours that the kept pixels do not have are known less: a teal at the edge of sRGB keeps half of a shift along it.
    """
    shares = []
    for picture in map(photo, PHOTOS[1::2]):
        for meant in (picture, perfect(picture, SLATE)):
            painted = flaw(meant)
            shares.append(off(correct(painted, picture, ~hole()).fill, meant).mean() / off(painted, meant).mean())
    assert float(np.median(shares)) <= 0.25


def test_the_error_is_told_before_and_after() -> None:
    """A painter that is 8 lighter in CIELAB all over is said to have been off by some ΔE2000, and hardly any after it was corrected."""
    picture = photo("coffee.png")
    found = correct(in_lab(8, 0, 0)(picture), picture, ~hole())
    assert found.painted is not None
    assert found.left is not None
    assert 4 < found.painted < 10
    assert found.left < 1


@pytest.mark.parametrize("name", PHOTOS)
def test_grain_is_no_shift(name: str) -> None:
    """Noise and softness of a decoder on all that it painted change a plain fill by at most 2 levels at the 99th percentile."""
    picture = photo(name)
    soft = cv2.GaussianBlur(perfect(picture, PINK), (0, 0), 0.6)
    painted = np.clip(np.rint(soft + np.random.default_rng(1).normal(0, 2.5, soft.shape)), 0, 255).astype(np.uint8)
    assert np.percentile(off(correct(painted, picture, ~hole()).fill, painted), 99) <= 2


def test_another_thing_on_kept_pixels_is_no_shift() -> None:
    """Where a quarter of the kept pixels show something else, a thing that the model moved, the fill keeps its colours to 1.5 levels."""
    picture = photo("chelsea.png")
    painted = perfect(picture, TEAL)
    painted[:, : SIDE // 5] = (240, 230, 40)
    assert off(correct(painted, picture, ~hole()).fill, painted).mean() < 1.5


def test_an_error_that_turns_every_few_pixels_is_told_and_not_carried_inwards() -> None:
    """Stripes of 16 pixels, 12 levels up and down, on kept pixels alone: the fill stays within 2 levels, and the error is said to be left."""
    picture = np.clip(photo("coffee.png"), 20, 235)
    wave = np.where(np.sin(2 * np.pi * np.arange(SIDE) / 32) >= 0, 12, -12)[:, None, None]
    painted = np.where(hole()[..., None], np.array(PINK), picture + wave).astype(np.uint8)
    found = correct(painted, picture, ~hole())
    assert np.percentile(off(found.fill, painted), 90) <= 2
    assert found.left is not None
    assert found.left >= 2


@pytest.mark.parametrize("turned", [0, 13, 45, 70, 90])
def test_stripes_as_wide_as_the_squares_are_told_whatever_way_they_run(turned: float) -> None:
    """Stripes of 8 pixels, 12 levels up and down, that average out in squares which lie across them, are told as those that fill them are."""
    picture = np.clip(photo("coffee.png"), 20, 235)
    angle, (rows, columns) = np.radians(turned), np.indices((SIDE, SIDE)) + 4
    wave = np.where(np.sin(2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / 16) >= 0, 12, -12)
    found = correct(np.where(hole()[..., None], np.array(PINK), picture + wave[..., None]).astype(np.uint8), picture, ~hole())
    assert found.left is not None
    assert found.left >= 2


def test_texture_that_is_painted_anew_is_told_by_what_is_left_of_it_in_squares() -> None:
    """Cells of 4 pixels, each some 10 levels off for itself, have nothing in common: less is told than of stripes of these levels."""
    picture = np.clip(photo("coffee.png"), 20, 235)
    cells = np.kron(np.random.default_rng(2).normal(0, 10, (SIDE // 4, SIDE // 4)), np.ones((4, 4)))
    found = correct(np.where(hole()[..., None], np.array(PINK), picture + cells[..., None]).astype(np.uint8), picture, ~hole())
    assert found.left is not None
    assert found.left < 2


def test_a_slow_error_along_the_border_is_carried_inwards() -> None:
    """Of a painter that is up to 20 levels too light on one side, less than half is left within 12 pixels of that side of the border."""
    picture = np.clip(photo("gravel.png"), 0, 230)
    leak = 20 * np.exp(-np.arange(SIDE) / 90)[None, :, None]
    painted = np.clip(np.rint(picture + leak), 0, 255).astype(np.uint8)
    beside = cv2.distanceTransform(hole().astype(np.uint8), cv2.DIST_L2, 5)
    there = hole() & (beside <= 12) & (np.arange(SIDE) < SIDE // 2)
    fill = correct(painted, picture, ~hole()).fill.astype(float)
    assert np.abs((fill - picture)[there].mean()) < 0.5 * np.abs((painted.astype(float) - picture)[there].mean())


def test_too_little_that_is_kept_tells_nothing() -> None:
    """With a few kept pixels only, the fill is returned as it was painted."""
    picture, kept = photo("coffee.png"), np.zeros((SIDE, SIDE), np.bool_)
    kept[:12, :12] = True
    painted = gain(0.9)(picture)
    found = correct(painted, picture, kept)
    assert found.fill is painted
    assert found.painted is None


@pytest.mark.parametrize("spill", [40, 70, SIDE], ids=lambda px: f"{px} px beyond")
@pytest.mark.parametrize("name", ["coffee.png", "astronaut.png", "camera.png"])
def test_what_was_painted_over_its_surroundings_is_no_shift(name: str, spill: int) -> None:
    """Pink that a model painted far beyond the mask, or all over, stays pink inside to 2 levels: it tells nothing of how kept pixels are rendered."""
    picture = photo(name)
    away = cv2.distanceTransform((~hole()).astype(np.uint8), cv2.DIST_L2, 5)
    painted = np.where((away <= spill)[..., None], np.array(PINK), picture).astype(np.uint8)
    assert off(correct(painted, picture, ~hole()).fill, painted).max() <= 2
