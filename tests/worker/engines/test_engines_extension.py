"""Extending a picture over its border."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engines.base import Mask, Pixels
from worker.engines.extension import extend_picture
from worker.images.ground import PRODUCT

RED = (220, 40, 40)


def noise(height: int, width: int, low: int, high: int) -> Pixels:
    """Grey noise."""
    return np.repeat(np.random.default_rng(3).integers(low, high, (height, width, 1), np.uint8), 3, axis=2)


def nothing(picture: Pixels) -> Mask:
    """No things."""
    return np.zeros(picture.shape[:2], np.uint8)


def red(picture: Pixels) -> npt.NDArray[np.bool_]:
    """Where it is about ``RED``."""
    return np.asarray(np.abs(picture.astype(int) - RED).max(axis=2) < 60)


def lines(slope: float, columns: npt.NDArray[np.int_]) -> Pixels:
    """Straight lines that move down by ``slope`` rows for each column."""
    phase = np.arange(160)[:, None] - slope * columns[None, :]
    return np.repeat((128 + 100 * np.sin(phase * 2 * np.pi / 16)).astype(np.uint8)[..., None], 3, axis=2)


def gradients(picture: Pixels) -> float:
    """The mean gradient."""
    y, x = np.gradient(picture.mean(axis=2))
    return float(np.hypot(x, y).mean())


@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(st.integers(1, 60), st.integers(1, 60)), margins=st.tuples(*[st.integers(0, 70)] * 4))
def test_the_picture_stands_unchanged(shape: tuple[int, int], margins: tuple[int, int, int, int]) -> None:
    """For every size and extension the picture is exactly where it was put."""
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    left, right, top, bottom = margins
    out = extend_picture(picture, nothing(picture), left, right, top, bottom, 1)
    assert out.shape == (shape[0] + top + bottom, shape[1] + left + right, 3)
    assert np.array_equal(out[top : top + shape[0], left : left + shape[1]], picture)


@pytest.mark.parametrize("slope", [-0.8, -0.3, 0.0, 0.5, 1.0])
def test_lines_go_on_in_their_direction(slope: float) -> None:
    """Lines that cross the border at an angle go on straight; a plain reflection would break them there."""
    picture, beyond = lines(slope, np.arange(120)), lines(slope, np.arange(-16, 0)).astype(int)
    out = extend_picture(picture, nothing(picture), 40, 0, 0, 0, 1)
    plain = picture[:, 16:0:-1]
    # Rows near the corners come from outside the picture.
    error, plain_error = (np.abs(made - beyond)[40:120].mean() for made in (out[:, 24:40], plain))
    assert error < (0.5 * plain_error if slope else 3)


def test_bars_go_on_as_they_are() -> None:
    """A letterbox is as thick beyond the picture's sides, exactly as black, and shown nowhere between; above it there is more of it."""
    picture = np.pad(noise(100, 160, 90, 160), ((30, 20), (0, 0), (0, 0)))
    out = extend_picture(picture, nothing(picture), 50, 30, 40, 0, 1)
    assert not out[:70].any()
    assert not out[-20:].any()
    assert out[70:-20].min() > 40


@pytest.mark.parametrize("width", [40, 150])
def test_a_thing_that_was_found_is_not_shown_again(width: int) -> None:
    """However much of the picture the product covers, what is added has the ground's colour and texture, and nothing of the product."""
    picture = noise(200, 200, 90, 110)
    picture[40:160, 20 : 20 + width] = RED
    things = nothing(picture)
    things[40:160, 20 : 20 + width] = PRODUCT
    out = extend_picture(picture, things, 150, 0, 0, 0, 1)[:, :150]
    assert not red(out).any()
    assert abs(float(out.mean()) - 99.5) < 2
    assert gradients(out) > 0.6 * gradients(picture[:, 180:] if width < 150 else picture[:, :20])


def test_a_thing_that_was_not_found_is_left_out_by_its_colours() -> None:
    """Where nothing is known of things, what differs from all that is seen beside the border is not shown beyond it, even if it is most of the side."""
    picture = noise(200, 260, 90, 96)
    picture[20:180, 30:230] = RED
    out = extend_picture(picture, nothing(picture), 120, 0, 0, 0, 1)
    assert not red(out[:, :120]).any()


def test_smooth_shades_show_no_fold() -> None:
    """Beyond several of the picture's widths a smooth backdrop has no line: no column is more than a level off its neighbours."""
    shade = np.linspace(220, 190, 100)[:, None] + np.linspace(0, 10, 120)[None, :]
    picture = np.repeat(np.rint(shade).astype(np.uint8)[..., None], 3, axis=2)
    out = extend_picture(picture, nothing(picture), 300, 300, 0, 0, 1).mean(axis=(0, 2))
    beside = np.stack([np.roll(out, by) for by in (-6, -5, -4, -3, 3, 4, 5, 6)])
    assert np.abs(out - np.median(beside, axis=0))[8:-8].max() < 1


def test_a_shade_has_no_ridge_at_the_border() -> None:
    """A shade that runs slantwise over the border goes on to change there: it bends by less than two fifths of what a fold would."""
    row, column = np.mgrid[:300, :300]
    picture = np.rint(120 + 60 * np.sin((row + column) / 60))[..., None].repeat(3, axis=2).astype(np.uint8)
    out = extend_picture(picture, nothing(picture), 120, 0, 0, 0, 1)[50:-50, :, 0].astype(float)
    bend, slope = np.abs(out[:, 110] - 2 * out[:, 120] + out[:, 130]).mean(), np.abs(out[:, 130] - out[:, 120]).mean()
    assert bend < 0.4 * 2 * slope


def test_a_shadow_that_ends_before_the_border_is_none_beyond_it() -> None:
    """Beside a shadow that ends a few pixels before the border the ground goes on as light as elsewhere."""
    picture = noise(240, 240, 150, 170)
    things = nothing(picture)
    picture[60:180, 60:160], things[60:180, 60:160] = RED, PRODUCT
    picture[80:160, 6:60] //= 3
    out = extend_picture(picture, things, 60, 0, 0, 0, 1)[:, :60].mean(axis=2)
    assert np.abs(out[100:140].mean(axis=0) - out[:40].mean(axis=0)).max() < 8


def test_a_blurred_ground_goes_on_without_streaks() -> None:
    """A faint, blurred ground changes beyond the border as much across it as along it: nothing is drawn out."""
    rough = np.random.default_rng(5).normal(size=(300, 300)).astype(np.float32)
    blurred = cv2.GaussianBlur(rough, (0, 0), 14, borderType=cv2.BORDER_REFLECT)
    picture = np.rint(128 + 9 * blurred / blurred.std())[..., None].repeat(3, axis=2).astype(np.uint8)
    out = cv2.GaussianBlur(extend_picture(picture, nothing(picture), 180, 0, 0, 0, 1), (0, 0), 3)[:, :120].mean(axis=2)
    along, across = (float(np.abs(np.diff(out, axis=axis)).mean()) for axis in (0, 1))
    assert across > 0.7 * along


def test_it_never_drifts_to_black() -> None:
    """A backdrop that grows darker towards the border levels out beyond it: nothing is darker than the picture by more than its texture."""
    picture = np.repeat(np.linspace(60, 200, 160).astype(np.uint8)[None, :, None], 120, axis=0).repeat(3, axis=2)
    out = extend_picture(picture, nothing(picture), 400, 0, 0, 0, 1)
    assert int(out[:, :400].min()) >= 50


def test_a_thing_that_the_border_cuts_goes_on_once() -> None:
    """A broad product that the border cuts is drawn out over it: its own colours are seen there, and no second edge of it."""
    picture = noise(200, 200, 90, 110)
    picture[60:180, :90] = RED
    things = nothing(picture)
    things[60:180, :90] = PRODUCT
    seen = red(extend_picture(picture, things, 60, 0, 0, 0, 1)[:, :60])
    assert seen[65:175].all()
    assert not seen[:50].any()


def test_a_seed_is_a_result() -> None:
    """The same seed gives the same pixels, and another seed gives others."""
    picture = noise(120, 120, 0, 200)
    first, again, other = (extend_picture(picture, nothing(picture), 90, 0, 0, 0, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (7, 9), (8, 8), (16, 8)], ids=str)
@pytest.mark.parametrize("sides", [(0, 0, 1, 0), (20, 20, 20, 20), (300, 0, 0, 0)], ids=str)
def test_a_picture_of_a_few_pixels_is_continued(shape: tuple[int, int], sides: tuple[int, int, int, int]) -> None:
    """However small a picture of one colour is, what continues it has that colour."""
    left, right, top, bottom = sides
    picture = np.full((*shape, 3), 31, np.uint8)
    extended = extend_picture(picture, np.zeros(shape, np.uint8), left, right, top, bottom, 1)
    assert extended.shape == (shape[0] + top + bottom, shape[1] + left + right, 3)
    assert np.abs(extended.astype(int) - 31).max() <= 1
