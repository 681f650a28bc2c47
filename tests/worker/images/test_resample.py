"""One resampling: true in light, in place and at its edges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.images.codec import Frame
from worker.images.resample import Landing, resample

few = settings(max_examples=60, deadline=None)
sides = st.integers(1, 40)
scales = st.floats(0.05, 6)


def linear(levels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Light of sRGB levels, 0..1 (IEC 61966-2-1)."""
    values = levels / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


@few
@given(
    color=st.tuples(*[st.integers(0, 255)] * 3),
    size=st.tuples(sides, sides),
    canvas=st.tuples(sides, sides),
    scale=scales,
    left=st.floats(-20, 20),
)
def test_one_colour_stays_that_colour(
    color: tuple[int, int, int], size: tuple[int, int], canvas: tuple[int, int], scale: float, left: float
) -> None:
    """At every scale and place a plain picture has its own colour wherever it is seen, on all of its edges too."""
    frame = Frame(np.full((size[1], size[0], 3), color, np.uint8))
    out = resample(frame, Landing(canvas, left, 3.3, scale, scale))
    assert out.pixels.shape == (canvas[1], canvas[0], 3)
    seen = np.ones(out.pixels.shape[:2], np.bool_) if out.alpha is None else out.alpha > 0
    assert (out.pixels[seen] == color).all()
    assert (out.pixels[~seen] == 0).all()


def test_shrinking_keeps_the_light() -> None:
    """Stripes of black and white, too fine for the output, become the grey of half the light, 188: by the file's numbers it would be 128, a fifth of it."""
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[::2] = 255
    out = resample(Frame(stripes), Landing((20, 20), 0, 0, 0.5, 0.5))
    assert (out.pixels == 188).all()


def test_shrinking_weighs_by_areas() -> None:
    """Three pixels to two: each takes a whole one and half of its neighbour, in light."""
    picture = np.random.default_rng(0).integers(0, 256, (33, 45, 3), dtype=np.uint8)
    out = resample(Frame(picture), Landing((30, 22), 0, 0, 2 / 3, 2 / 3))
    fine = linear(picture).repeat(2, 0).repeat(2, 1)
    expected = fine.reshape(22, 3, 30, 3, 3).mean(axis=(1, 3))
    assert np.abs(linear(out.pixels) - expected).max() < 0.006  # half a level near white


def test_enlarging_goes_through_a_slope() -> None:
    """A slope stays one, without steps, where the kernel does not reach beyond the border."""
    slope = np.repeat((np.arange(40) * 6)[None, :, None], 8, 0).repeat(3, 2).astype(np.uint8)
    out = resample(Frame(slope), Landing((160, 32), 0, 0, 4, 4)).pixels[16, 8:-8, 0]
    assert np.abs(out - ((np.arange(8, 152) + 0.5) / 4 - 0.5) * 6).max() <= 0.51


@pytest.mark.parametrize("scale", [0.31, 0.8, 1.7, 3.3])
def test_a_product_has_no_fringe_on_white(scale: float) -> None:
    """On white nothing is seen beyond a pixel of a product's edge, no lighter line is inside, and colours that are hidden beside it do not show."""
    side = 120
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    alpha = np.where(np.hypot(x, y) < 40, 255, 0).astype(np.uint8)
    frame = Frame(np.where(alpha[..., None] > 0, np.uint8(40), np.array([255, 0, 255], np.uint8)), alpha)
    width = round(side * scale)
    out = resample(frame, Landing((width, width), 0, 0, scale, scale))
    assert out.alpha is not None
    distance = np.hypot(*(np.mgrid[:width, :width] - (width - 1) / 2)) - 40 * scale
    one = max(1.0, scale) * 1.5
    assert (out.alpha[distance > one] == 0).all()
    assert (out.alpha[distance < -one] == 255).all()
    assert (out.pixels[out.alpha > 0] == 40).all()


@pytest.mark.parametrize("scale", [0.5, 0.77, 1.31, 3.0])
def test_things_land_where_they_should(scale: float) -> None:
    """The middle of a thing comes to its place to a twentieth of a pixel, whatever part of a pixel it is moved by."""
    alpha = np.zeros((80, 100), np.uint8)
    alpha[20:50, 30:70] = 255
    for shift in (0.0, 0.25, 7.6):
        out = resample(Frame(np.zeros((80, 100, 3), np.uint8), alpha), Landing((330, 300), shift, 2 * shift, scale, scale)).alpha
        assert out is not None
        moments = cv2.moments(out)
        middle = moments["m10"] / moments["m00"] + 0.5, moments["m01"] / moments["m00"] + 0.5
        assert middle == pytest.approx((50 * scale + shift, 35 * scale + 2 * shift), abs=0.05)


def test_a_picture_that_is_cut_ends_sharply() -> None:
    """Where the photo ends amid the canvas its border is as opaque as the share of a pixel that it covers, and no more is clear."""
    out = resample(Frame(np.full((10, 10, 3), 90, np.uint8)), Landing((40, 40), 5.25, 4, 2.5, 2.5)).alpha
    assert out is not None
    assert list(out[20, 4:7]) == [0, 191, 255]
    assert list(out[20, 29:32]) == [255, 64, 0]
    assert list(out[3:5, 20]) == [0, 255]


@pytest.mark.parametrize(("left", "top"), [(0, 0), (3, 5), (-4, 2), (20, -3), (-50, 0)])
def test_whole_pixels_are_moved_and_not_mixed(left: int, top: int) -> None:
    """At its own size, by whole pixels, a picture is copied bit for bit, hidden colours and all."""
    source = np.random.default_rng(1)
    frame = Frame(source.integers(0, 256, (12, 16, 3), dtype=np.uint8), source.integers(0, 256, (12, 16), dtype=np.uint8))
    landing = Landing((24, 18), left, top, 1, 1)
    assert landing.is_exact
    out = resample(frame, landing)
    assert frame.alpha is not None
    assert out.alpha is not None
    for y in range(18):
        for x in range(24):
            inside = 0 <= y - top < 12 and 0 <= x - left < 16
            assert (out.pixels[y, x] == (frame.pixels[y - top, x - left] if inside else 0)).all()
            assert out.alpha[y, x] == (frame.alpha[y - top, x - left] if inside else 0)


def test_an_opaque_picture_that_covers_its_canvas_stays_opaque() -> None:
    """It gets no alpha at any scale; one that leaves a part of the canvas free does."""
    frame = Frame(np.full((30, 20, 3), 7, np.uint8))
    for width in (1, 7, 20, 55):
        assert resample(frame, Landing((width, 30), 0, 0, width / 20, 1)).alpha is None
    assert resample(frame, Landing((21, 30), 0, 0, 1, 1)).alpha is not None
    assert resample(frame, Landing((41, 60), 0, 0, 2, 2)).alpha is not None
