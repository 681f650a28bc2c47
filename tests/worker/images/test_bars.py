"""Bars along a picture's sides."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from worker.images.bars import Bars, bars

Pixels = npt.NDArray[np.uint8]


def photo(height: int, width: int) -> Pixels:
    """Noise of middle lightness."""
    return np.random.default_rng(1).integers(90, 200, (height, width, 3), np.uint8)


def framed(picture: Pixels, found: Bars, colour: int) -> Pixels:
    """``picture`` with bars of that grey around it."""
    margins = ((found.top, found.bottom), (found.left, found.right), (0, 0))
    return np.pad(picture, margins, constant_values=colour)


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("found", [Bars(0, 0, 30, 25), Bars(40, 12, 0, 0), Bars(5, 5, 5, 5), Bars(0, 0, 1, 0), Bars(0, 0, 0, 0)])
def test_bars_are_found_to_the_pixel(found: Bars, colour: int) -> None:
    """Letterboxes, pillar boxes and frames of black and of white end where the picture begins, and a picture without any has none."""
    assert bars(framed(photo(90, 120), found, colour)) == found


def test_a_compressed_letterbox_is_found() -> None:
    """In a JPEG file, whose blocks carry some of the picture into a bar, bars are found to within half a block."""
    stream = io.BytesIO()
    Image.fromarray(framed(photo(96, 160), Bars(0, 0, 36, 20), 0)).save(stream, "JPEG", quality=80)
    found = bars(np.asarray(Image.open(stream), np.uint8))
    assert (found.left, found.right) == (0, 0)
    assert abs(found.top - 36) <= 8
    assert abs(found.bottom - 20) <= 8


def test_a_plain_ground_is_no_bar() -> None:
    """What ends in no edge is ground: a sky above haze, and a picture of one colour."""
    sky = np.full((120, 160, 3), 200, np.float32)
    sky[40:] -= np.linspace(0, 100, 80, dtype=np.float32)[:, None, None]
    assert bars(sky.astype(np.uint8)) == Bars(0, 0, 0, 0)
    assert bars(np.full((50, 50, 3), 128, np.uint8)) == Bars(0, 0, 0, 0)


def test_a_ground_with_a_small_thing_is_no_bar() -> None:
    """White above a product that fills a fourth of the width is the product's ground."""
    studio = np.full((120, 160, 3), 255, np.uint8)
    studio[50:110, 60:100] = 40
    assert bars(studio) == Bars(0, 0, 0, 0)


def test_bars_that_leave_no_picture_are_none() -> None:
    """A line between two bars is no picture that could be continued by itself."""
    lines = np.zeros((60, 80, 3), np.uint8)
    lines[30:31] = 255
    found = bars(lines)
    assert found.top + found.bottom < 60
    halves = np.zeros((60, 80, 3), np.uint8)
    halves[30:] = 255
    assert bars(halves) == Bars(0, 0, 0, 0)
