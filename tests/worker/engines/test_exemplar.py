"""The exemplar engine, with the real solver."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.errors import EngineFailed
from worker.engines.base import Engine, PaintRequest, Slot
from worker.engines.exemplar import ExemplarEngine

Array = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def engine() -> ExemplarEngine:
    return ExemplarEngine()


def fill(engine: Engine, image: Array, mask: Array, seed: int = 0) -> Array:
    slot = engine.prepare(PaintRequest(image, mask, seed))
    engine.step([slot])
    if slot.error:
        raise slot.error
    assert slot.done
    return engine.finish([slot])[0]


def stripes(height: int = 96, width: int = 128) -> Array:
    """Vertical stripes, four pixels wide: a patch sees a whole period."""
    row = np.where(np.arange(width) // 4 % 2, 200, 40).astype(np.uint8)
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)


def test_one_step(engine: ExemplarEngine) -> None:
    """A slot is done after one step."""
    slot = engine.prepare(PaintRequest(stripes(), np.zeros((96, 128), np.uint8), 0))
    assert (slot.steps, slot.done) == (1, False)
    engine.step([slot])
    assert slot.done
    assert slot.error is None


def test_texture_is_continued(engine: ExemplarEngine) -> None:
    """A hole in a regular texture is filled with that texture, in step with its surroundings."""
    image = stripes()
    mask = np.zeros((96, 128), np.uint8)
    mask[30:62, 48:80] = 255
    damaged = image.copy()
    damaged[mask > 0] = (255, 0, 0)
    out = fill(engine, damaged, mask)
    assert (np.abs(out.astype(int) - image).max(axis=2) < 40)[mask > 0].mean() > 0.95


@pytest.mark.parametrize("soft", [1, 128, 255])
def test_hole_content_is_never_seen(engine: ExemplarEngine, soft: int) -> None:
    """What lies under the mask, soft or not, has no influence on the fill, and what lies outside is returned exactly."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (70, 90, 3), np.uint8)
    mask = np.zeros((70, 90), np.uint8)
    mask[20:40, 30:60] = soft
    other = image.copy()
    other[mask > 0] = 255
    first, second = fill(engine, image, mask), fill(engine, other, mask)
    assert np.array_equal(first, second)
    assert np.array_equal(first[mask == 0], image[mask == 0])


def test_seed(engine: ExemplarEngine) -> None:
    """The same seed gives the same pixels, and another seed gives others."""
    image = np.random.default_rng(1).integers(0, 256, (80, 80, 3), np.uint8)
    mask = np.zeros((80, 80), np.uint8)
    mask[20:60, 20:60] = 255
    first = fill(engine, image, mask, 2**32 - 1)
    assert np.array_equal(first, fill(engine, image, mask, 2**32 - 1))
    assert not np.array_equal(first, fill(engine, image, mask, 5))


def test_no_dark_band_at_the_border(engine: ExemplarEngine) -> None:
    """A bright picture extended to the side stays bright up to its new border."""
    image = np.random.default_rng(2).integers(200, 240, (100, 140, 3), np.uint8)
    mask = np.zeros((100, 140), np.uint8)
    mask[:, 100:] = 255
    image[mask > 0] = 0
    assert int(fill(engine, image, mask).min()) > 190


@settings(max_examples=25, deadline=None)
@given(shape=st.tuples(st.integers(1, 50), st.integers(1, 50)), seed=st.integers(0, 2**32 - 1))
def test_any_size(shape: tuple[int, int], seed: int) -> None:
    """Pictures down to one row are filled or refused, and kept pixels stay."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    mask = np.where(rng.random(shape) < rng.random(), 255, 0).astype(np.uint8)
    try:
        out = fill(ExemplarEngine(), image, mask, seed)
    except EngineFailed:
        assert mask.all()
        return
    assert out.shape == image.shape
    assert np.array_equal(out[mask == 0], image[mask == 0])


def test_a_failing_row_fails_alone(engine: ExemplarEngine) -> None:
    """A mask that covers everything is that row's error, and its neighbour is painted."""
    bad = engine.prepare(PaintRequest(stripes(), np.full((96, 128), 255, np.uint8), 0))
    good = engine.prepare(PaintRequest(stripes(), np.zeros((96, 128), np.uint8), 0))
    engine.step([bad, good])
    assert isinstance(bad.error, EngineFailed)
    assert np.array_equal(engine.finish([good])[0], stripes())


def test_foreign_slot(engine: ExemplarEngine) -> None:
    """A slot of another engine gets an error, not a crash, and cannot be finished."""
    slot = Slot(PaintRequest(stripes(), np.zeros((96, 128), np.uint8), 0), steps=1)
    engine.step([slot])
    assert isinstance(slot.error, TypeError)
    with pytest.raises(ValueError, match="not done"):
        engine.finish([slot])
