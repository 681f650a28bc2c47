"""How much of an extension could stand in its photo."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from worker.images.coherence import doubts, incoherence
from worker.images.mask import Box

Pixels = npt.NDArray[np.uint8]


def jumble(seed: int, height: int, width: int) -> Pixels:
    """Squares of 20 pixels in colours of their own."""
    squares = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return np.kron(squares, np.ones((20, 20, 1), np.uint8))


def test_a_photo_that_repeats_itself_is_coherent() -> None:
    """Beside a pattern that goes on in step nothing is off, and nothing is doubted."""
    pattern = np.tile(jumble(1, 40, 40), (5, 10, 1))
    assert incoherence(pattern, Box(160, 0, 400, 200))["left"] == pytest.approx((0, 0), abs=0.1)
    assert doubts(pattern, Box(160, 0, 400, 200)) == ()


@pytest.mark.parametrize(("side", "turns"), [("left", 0), ("bottom", 1), ("right", 2), ("top", 3)])
def test_what_stands_nowhere_in_the_photo_is_doubted(side: str, turns: int) -> None:
    """Squares of other colours beyond a border are doubted, with the border's name and how much was added."""
    picture = np.rot90(jumble(2, 200, 400), turns)
    known = np.rot90(np.pad(np.ones((200, 240), np.bool_), ((0, 0), (160, 0))), turns)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    assert doubts(np.ascontiguousarray(picture), box) == (f"the background at the photo's {side} border is too varied to go on for 160 px",)


def test_light_counts_less_than_shape() -> None:
    """A ground that goes on in another light is less off than one of another texture of the same contrast."""
    random = np.random.default_rng(3)
    fine = np.repeat(random.normal(120, 12, (200, 400, 1)), 3, axis=2)
    lighter, coarse = fine.copy(), fine.copy()
    lighter[:, :160] += 12
    coarse[:, :160] = np.kron(random.normal(120, 12, (50, 40, 1)), np.ones((4, 4, 1)))
    off = [incoherence(np.clip(each, 0, 255).astype(np.uint8), Box(160, 0, 400, 200))["left"].off for each in (fine, lighter, coarse)]
    assert off[0] < off[1] < off[2]


def test_a_photo_whose_places_are_all_unlike_may_go_on_with_such_ones() -> None:
    """The same fifth of noise beside a noisy photo, no two of whose places are alike, is not doubted; beside one that repeats itself, it is."""
    random = np.random.default_rng(4)
    noise = random.normal(120, 10, (200, 240, 3)).clip(0, 255).astype(np.uint8)
    pattern = np.tile(random.normal(120, 10, (40, 40, 3)).clip(0, 255).astype(np.uint8), (5, 5, 1))
    known = Box(40, 0, 240, 200)
    assert doubts(noise, known) == ()
    picture = np.concatenate([noise[:, :40], pattern], axis=1)
    assert doubts(picture, known) == ("the background at the photo's left border is too varied to go on for 40 px",)


def test_a_picture_too_small_to_look_at_has_no_figure() -> None:
    """Of a photo of fewer pixels than a patch has nothing is said."""
    assert incoherence(np.zeros((4, 30, 3), np.uint8), Box(10, 0, 30, 4)) == {}
