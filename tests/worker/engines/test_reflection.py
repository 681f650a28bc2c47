"""Extending a picture by its reflection."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engines.base import Pixels
from worker.engines.reflection import extend_by_reflection, without_blots


def noise(height: int, width: int, low: int, high: int) -> Pixels:
    """Grey noise."""
    return np.repeat(np.random.default_rng(3).integers(low, high, (height, width, 1), np.uint8), 3, axis=2)


def lines(slope: float, columns: npt.NDArray[np.int_]) -> Pixels:
    """Straight lines that move down by ``slope`` rows for each column."""
    phase = np.arange(160)[:, None] - slope * columns[None, :]
    return np.repeat((128 + 100 * np.sin(phase * 2 * np.pi / 16)).astype(np.uint8)[..., None], 3, axis=2)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 60), st.integers(1, 60)), margins=st.tuples(*[st.integers(0, 70)] * 4))
def test_the_picture_stands_unchanged(shape: tuple[int, int], margins: tuple[int, int, int, int]) -> None:
    """For every size and extension the picture is exactly where it was put, and nothing of it is marked to be erased."""
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    left, right, top, bottom = margins
    out, foreign = extend_by_reflection(picture, left, right, top, bottom)
    inside = slice(top, top + shape[0]), slice(left, left + shape[1])
    assert out.shape == (shape[0] + top + bottom, shape[1] + left + right, 3)
    assert foreign.shape == out.shape[:2]
    assert np.array_equal(out[inside], picture)
    assert not foreign[inside].any()


@pytest.mark.parametrize("slope", [-0.8, -0.3, 0.0, 0.5, 1.0])
def test_lines_go_on_in_their_direction(slope: float) -> None:
    """Lines that cross the border at an angle go on straight; a plain reflection would break them there."""
    picture, beyond = lines(slope, np.arange(120)), lines(slope, np.arange(-16, 0)).astype(int)
    out, _ = extend_by_reflection(picture, 40, 0, 0, 0)
    plain = picture[:, 16:0:-1]
    # Rows near the corners come from outside the picture.
    error, plain_error = (np.abs(made - beyond)[40:120].mean() for made in (out[:, 24:40], plain))
    assert error < (0.5 * plain_error if slope else 1)


def test_a_thing_that_stands_alone_is_marked() -> None:
    """The second copy of something inside is marked, with all of its edge; the ground that the border shows is not."""
    picture = noise(160, 200, 90, 110)
    picture[60:100, 24:64] = (220, 40, 40)
    out, foreign = extend_by_reflection(picture, 80, 0, 0, 0)
    copy = np.abs(out.astype(int) - (220, 40, 40)).max(axis=2) < 60
    copy[:, 80:] = False
    assert copy.sum() > 1000
    assert foreign[copy].all()
    assert foreign.sum() < 4 * copy.sum()


def test_a_jumble_is_left_alone() -> None:
    """Where everything differs from everything, nothing is marked."""
    blocks = np.random.default_rng(5).integers(0, 256, (8, 10, 3), np.uint8)
    _, foreign = extend_by_reflection(np.kron(blocks, np.ones((20, 20, 1), np.uint8)), 80, 80, 60, 60)
    assert not foreign.any()


def test_a_flat_fill_in_a_texture_is_taken_back() -> None:
    """A fill without the texture of its surroundings is not used; one as lively as they are is."""
    fill, hole = noise(120, 160, 0, 200), np.zeros((120, 160), np.bool_)
    hole[20:60, 20:60] = hole[70:110, 90:130] = True
    fill[20:60, 20:60] = 100
    used = without_blots(fill, hole)
    assert not used[20:60, 20:60].any()
    assert np.array_equal(used[60:], hole[60:])


def test_a_flat_fill_in_a_flat_place_stays() -> None:
    """Where the surroundings are flat too, a flat fill is what belongs there."""
    hole = np.zeros((120, 160), np.bool_)
    hole[20:60, 20:60] = True
    assert np.array_equal(without_blots(np.full((120, 160, 3), 90, np.uint8), hole), hole)
