"""Pieces meet the picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from worker.engines.layout import Layout
from worker.engines.pieces import _joined

Floats = npt.NDArray[np.float32]
HEIGHT, WIDTH, COUNT = 60, 30, 40


def joined(texture: Floats, own: float) -> Floats:
    """``(h, n)``: how light a piece of one grey becomes left of ``texture (h, w)``."""
    shown = np.full((1, HEIGHT, COUNT, 3), own, np.float32)
    # One label shows a piece; the labels of what is reflected and drawn out are not used.
    layout = Layout([(0, 1)], np.zeros((HEIGHT, COUNT), np.int64), np.concatenate([shown] * 3))
    found = _joined(layout, np.repeat(texture[..., None], 3, axis=2), np.ones(HEIGHT, np.bool_))
    return np.asarray(found[..., 0], np.float32)


def edged(values: Floats) -> Floats:
    """``values (h,)`` in every column of a picture with a sharp edge in it."""
    texture = np.repeat(values[:, None], WIDTH, axis=1)
    texture[:, 6:9] = 255
    return texture


@pytest.mark.parametrize("off", [-12, 12])
def test_a_piece_takes_the_light_beside_it(off: int) -> None:
    """A little lighter or darker than the border, a piece is led to it over all its width."""
    found = joined(edged(np.full(HEIGHT, 100 + off, np.float32)), 100)
    assert found[:, -1] == pytest.approx(100 + off, abs=1)
    assert np.abs(found[:, -15] - 100).min() > 0.6 * abs(off)


@pytest.mark.parametrize("other", [10, 220])
def test_a_piece_keeps_its_colours_beside_another_thing(other: int) -> None:
    """Where the border is another thing, a piece a few cells from it is as it was: no light leaks from a sky into a hedge."""
    values = np.full(HEIGHT, 100, np.float32)
    values[20:40] = other
    found = joined(edged(values), 100)
    assert np.abs(found[:, :-10] - 100).max() < 8


def test_a_blurred_picture_has_no_sharp_change_at_the_border() -> None:
    """Beside a picture without edges another thing's colours are reached no more steeply than its own slopes are, on the whole."""
    texture = np.repeat((100 + 60 * np.sin(np.arange(HEIGHT) / 8))[:, None], WIDTH, axis=1).astype(np.float32)
    found = joined(texture, 220)
    slope = np.abs(np.diff(texture, axis=0)).max()
    assert np.abs(np.diff(found, axis=1)).max() < 3 * slope
    assert np.abs(found[:, -1] - texture[:, 0]).max() < 20
