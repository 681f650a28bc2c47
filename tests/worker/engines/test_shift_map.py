"""Large holes in drawn textures: sharp, whole, and another answer for another seed."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from painting import begun

from api_schemas.models import EXEMPLAR
from worker.engines.base import PaintRequest
from worker.engines.exemplar import ExemplarEngine
from worker.engines.peel import peel
from worker.engines.pyramid import patch_centres
from worker.engines.shift_map import quilt
from worker.images.crop import plan_crop

Array = npt.NDArray[np.uint8]
SIDE, HOLE = 560, slice(170, 390)
"""Large enough that matches are found at half the size."""


def gravel(side: int = SIDE) -> Array:
    """Grey stones of some ten pixels, each of one brightness, with dark joints and grain."""
    rng = np.random.default_rng(3)
    seeds = rng.permutation(side * side)[: side * side // 110]
    ground = np.ones((side, side), np.uint8)
    ground.reshape(-1)[seeds] = 0
    distance, labels = cv2.distanceTransformWithLabels(ground, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    grey = rng.uniform(90, 200, int(labels.max()) + 1)[labels] - 5.0 * distance + rng.normal(0, 6, (side, side))
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def bricks(height: int = 240, width: int = 320) -> Array:
    """Brown bricks of 32 × 16 pixels in half bond, with light joints of four."""
    y, x = np.mgrid[:height, :width]
    joint = (y % 16 < 4) | ((x + 16 * (y // 16 % 2)) % 32 < 4)
    return np.where(joint[..., None], (210, 205, 200), (120, 60, 40)).astype(np.uint8)


def erased(engine: ExemplarEngine, image: Array, hole: npt.NDArray[np.bool_], seed: int = 1) -> Array:
    """The fill; what was under the hole is magenta and never seen."""
    image = np.where(hole[..., None], (255, 0, 255), image).astype(np.uint8)
    slot = begun(engine, PaintRequest(image, hole.astype(np.uint8) * 255, seed))
    engine.step([slot])
    assert slot.error is None
    return engine.finish([slot])[0]


def gradients(pixels: Array) -> float:
    grey = pixels.mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


@pytest.fixture(scope="module")
def engine() -> ExemplarEngine:
    return ExemplarEngine()


@pytest.fixture(scope="module")
def answers(engine: ExemplarEngine) -> list[Array]:
    """Three seeds for one hole in gravel."""
    hole = np.zeros((SIDE, SIDE), np.bool_)
    hole[HOLE, HOLE] = True
    return [erased(engine, gravel(), hole, seed) for seed in (1, 2, 3)]


def test_large_fills_are_as_sharp_as_the_photo(answers: list[Array]) -> None:
    """Deep inside a large hole in gravel the gradients are those of the gravel, to within a tenth."""
    inner = slice(HOLE.start + 40, HOLE.stop - 40)
    wanted = gradients(gravel()[inner, inner])
    assert [round(gradients(answer[inner, inner]) / wanted, 2) for answer in answers] == pytest.approx([1.0] * 3, abs=0.1)


def test_three_seeds_give_three_answers(answers: list[Array]) -> None:
    """In a texture the fills of two seeds differ by more than half of the texture's own deviation, in the mean of all pixels."""
    deviation = float(gravel().std())
    for one, other in combinations(answers, 2):
        difference = np.abs(one[HOLE, HOLE].astype(int) - other[HOLE, HOLE])
        assert difference.mean() > 0.5 * deviation


def test_one_seed_gives_one_answer(engine: ExemplarEngine, answers: list[Array]) -> None:
    """The same seed gives the same fill bit for bit, at a size where matches are carried out from a smaller picture."""
    hole = np.zeros((SIDE, SIDE), np.bool_)
    hole[HOLE, HOLE] = True
    assert np.array_equal(erased(engine, gravel(), hole, 2), answers[1])


def test_bricks_go_on(engine: ExemplarEngine) -> None:
    """A hole in a brick wall is filled with bricks in bond: nearly all of its pixels are those of the wall."""
    wall = bricks()
    hole = np.zeros(wall.shape[:2], np.bool_)
    hole[70:170, 100:220] = True
    off = np.abs(erased(engine, wall, hole).astype(int) - wall).max(axis=2)
    assert (off[hole] < 30).mean() > 0.9


def test_a_thing_that_stands_elsewhere_is_not_copied(engine: ExemplarEngine) -> None:
    """A hole in plain ground is filled with that ground, though a thing of other colours stands near it."""
    ground = np.random.default_rng(5).integers(100, 120, (240, 320, 3), np.uint8)
    ground[70:170, 200:280] = (220, 40, 40)
    hole = np.zeros(ground.shape[:2], np.bool_)
    hole[60:180, 60:180] = True
    assert np.abs(erased(engine, ground, hole)[hole].astype(int) - 110).max() < 20


def test_a_fill_is_made_of_the_photo_itself() -> None:
    """Where all cells copy with one offset the quilt holds exactly the pixels there, at twice the size at which that offset was found."""
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (120, 200, 3), np.uint8)
    image[:, 100:] = image[:, :100]
    painted = np.zeros(image.shape[:2], np.bool_)
    painted[40:80, 130:170] = True
    damaged = np.where(painted[..., None], (255, 0, 255), image).astype(np.uint8)
    y, x = np.mgrid[:60, :100]
    matches = np.stack([np.where(x >= 50, x - 50, x), y], axis=-1).astype(np.int32)
    found = quilt(damaged, painted, matches, 1, seed=0)
    assert found is not None
    assert np.array_equal(found, image)


def test_a_fill_begins_with_what_meets_the_hole() -> None:
    """The first fill carries a bar across the hole, and copies known pixels only."""
    picture = np.full((40, 60, 3), 90, np.float32)
    picture[18:22] = 200
    unknown = np.zeros((40, 60), np.bool_)
    unknown[10:30, 20:40] = True
    source = peel(picture, unknown, patch_centres(unknown, 4), 4, seed=1)
    assert not unknown[source[..., 1], source[..., 0]].any()
    assert np.array_equal(picture[source[..., 1], source[..., 0]], picture)


@pytest.mark.parametrize("side", [300, 1000, 1800])
def test_the_window_of_an_erasure_is_not_shrunk(side: int) -> None:
    """Up to 25 megapixels of window the engine is shown the photo's own pixels; beyond, no more than that."""
    mask = np.zeros((6000, 6000), np.uint8)
    mask[2000 : 2000 + side, 2000 : 2000 + side] = 255
    crop = plan_crop(mask, native_size=EXEMPLAR.native_size, min_size=EXEMPLAR.min_size, max_upscale=EXEMPLAR.max_upscale)
    assert crop.size == (crop.box.width, crop.box.height)
    mask[500:5500, 500:5500] = 255
    assert (
        plan_crop(mask, native_size=EXEMPLAR.native_size, min_size=EXEMPLAR.min_size, max_upscale=EXEMPLAR.max_upscale).pixels
        <= 5100 * 5100
    )


def test_a_larger_erasure_costs_more(engine: ExemplarEngine) -> None:
    """The scheduler is told of a large hole that it takes more of a step, and of a small one that it takes a whole one."""
    image = np.zeros((2000, 2000, 3), np.uint8)
    small, large = np.zeros((2000, 2000), np.uint8), np.full((2000, 2000), 255, np.uint8)
    small[:50, :50], large[:1000] = 255, 0
    assert [begun(engine, PaintRequest(image, mask, 0)).cost for mask in (small, large)] == pytest.approx([1.0, 2_000_000 / 512**2])
