"""Distances from the border of an edit, and the places along it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.images.border import Distances


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 24), st.integers(2, 24))
def test_distances_and_places_are_those_of_the_nearest_pixel(seed: int, height: int, width: int) -> None:
    """A pixel's distance is that of the nearest one of the other side, less half a pixel, and its place is a pixel of the edit at the border that is as near."""
    random = np.random.default_rng(seed)
    edit = random.random((height, width)) < random.uniform(0.1, 0.9)
    edit.flat[0], edit.flat[-1] = True, False
    border = Distances.of(edit)
    rows, columns = border.places(np.arange(edit.size))
    for pixel, (row, column) in enumerate(np.ndindex(edit.shape)):
        others = np.argwhere(edit != edit[row, column])
        nearest = float(np.hypot(*(others - (row, column)).T).min())
        assert abs(abs(border.signed[row, column]) + 0.5 - nearest) <= 0.02 * nearest + 1e-3  # OpenCV's 5 × 5 mask is off by up to 2 %
        assert (border.signed[row, column] > 0) == edit[row, column]
        place = rows[pixel], columns[pixel]
        assert edit[place]
        assert 0 < border.signed[place] < 1
        if not edit[row, column]:
            assert np.hypot(place[0] - row, place[1] - column) <= 1.05 * nearest


def test_pixels_that_face_each_other_have_one_place() -> None:
    """On a straight border both sides of it have the same places."""
    edit = np.zeros((9, 20), np.bool_)
    edit[:, 10:] = True
    rows, columns = Distances.of(edit).places(np.arange(edit.size))
    assert np.array_equal(rows.reshape(edit.shape), np.indices(edit.shape)[0])
    assert (columns == 10).all()
