"""How much of an extension could stand in its photo."""

from __future__ import annotations

import cv2
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
    assert incoherence(pattern, Box(160, 0, 400, 200))["left"][:2] == pytest.approx((0, 0), abs=0.1)
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


def noise(seed: int, height: int, width: int, contrast: float) -> npt.NDArray[np.float64]:
    """Grain of middle lightness, of which no two places are alike."""
    return np.random.default_rng(seed).normal(120, contrast, (height, width, 3))


def test_a_texture_may_go_on_with_any_of_it() -> None:
    """Strong grain goes on with other grain, of which no part stands in the photo; the same grain amid places of all colours is doubted."""
    known, grain = Box(100, 0, 300, 200), noise(4, 200, 300, 30).clip(0, 255).astype(np.uint8)
    assert incoherence(grain, known)["left"].off > 12
    assert doubts(grain, known) == ()
    places = np.kron(np.random.default_rng(5).uniform(-90, 90, (5, 8, 3)), np.ones((40, 40, 1)))[:, :300]
    varied = (noise(4, 200, 300, 30) + places).clip(0, 255).astype(np.uint8)
    assert doubts(varied, known) == ("the background at the photo's left border is too varied to go on for 100 px",)


def test_what_is_usual_depends_on_the_photo() -> None:
    """Lines that stand nowhere in a photo of smooth shades are doubted at three levels, which would be nothing amid shapes that are all unlike."""
    known = Box(160, 0, 400, 200)
    smooth = np.broadcast_to(np.linspace(60, 200, 200)[:, None, None], (200, 400, 3)).astype(np.uint8).copy()
    assert doubts(smooth, known) == ()
    smooth[20:180:20, :160] += 40
    found = incoherence(smooth, known)["left"]
    assert 2 < found.doubt < 4
    assert doubts(smooth, known) == ("the background at the photo's left border is too varied to go on for 160 px",)
    shapes = np.asarray(cv2.GaussianBlur(jumble(2, 200, 400), (0, 0), 6), np.uint8)
    assert incoherence(shapes, known)["left"].usual > 3 * found.doubt


def test_a_picture_too_small_to_look_at_has_no_figure() -> None:
    """Of a photo of fewer pixels than a patch has nothing is said."""
    assert incoherence(np.zeros((4, 30, 3), np.uint8), Box(10, 0, 30, 4)) == {}
