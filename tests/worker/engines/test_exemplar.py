"""The exemplar engine, with the real solver."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painting import begun
from PIL import Image

from api_schemas.errors import EngineFailed
from worker.engines.base import Engine, PaintRequest, Slot
from worker.engines.exemplar import ExemplarEngine
from worker.images.blend import composite
from worker.images.canvas import extend
from worker.images.codec import Frame
from worker.images.mask import edit_alpha
from worker.intake import OUTPAINT_FEATHER_PX

Array = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def engine() -> ExemplarEngine:
    return ExemplarEngine()


def fill(engine: Engine, image: Array, mask: Array, seed: int = 0) -> Array:
    slot = begun(engine, PaintRequest(image, mask, seed))
    engine.step([slot])
    if slot.error:
        raise slot.error
    assert slot.done
    return engine.finish([slot])[0]


def stripes(height: int = 96, width: int = 128) -> Array:
    """Vertical stripes, four pixels wide: a patch sees a whole period."""
    row = np.where(np.arange(width) // 4 % 2, 200, 40).astype(np.uint8)
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)


def photo(name: str) -> Array:
    """A real photo, at most 320 pixels wide."""
    with Image.open(BytesIO((files("skimage.data") / name).read_bytes())) as opened:
        picture = opened.convert("RGB")
    if name in TEXTURES:
        # Shrinking would average what makes it a texture.
        return np.asarray(picture)[:240, :320]
    picture.thumbnail((320, 320))
    return np.asarray(picture)


def outpainted(engine: Engine, picture: Array, px: int) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """``picture`` extended by ``px`` on all sides, pasted as a job does; each side turned so that its new pixels are the first columns."""
    frame, mask = extend(Frame(picture), px, px, px, px)
    out = composite(frame.pixels, fill(engine, frame.pixels, mask), edit_alpha(mask, 0, OUTPAINT_FEATHER_PX)).astype(np.float32)
    rows, columns = out[px:-px], out[:, px:-px].transpose(1, 0, 2)
    yield from {"left": rows, "right": rows[:, ::-1], "top": columns, "bottom": columns[:, ::-1]}.items()


def seam(side: npt.NDArray[np.float32], px: int) -> float:
    """The mean step across the old border, over that across the lines 3 to 10 pixels on both sides of it; 1 is invisible."""
    steps = np.abs(np.diff(side, axis=1)).mean(axis=(0, 2))
    border = px - 1
    return float(steps[border] / np.concatenate([steps[border - 10 : border - 2], steps[border + 3 : border + 11]]).mean())


def texture(side: npt.NDArray[np.float32], px: int) -> float:
    """The mean local deviation in the 40 new pixels beside the border, over that in the 40 old ones."""
    grey = side.mean(axis=2)
    mean = cv2.blur(grey, (7, 7))
    deviation = np.sqrt(np.maximum(cv2.blur(grey * grey, (7, 7)) - mean * mean, 0))
    return float(deviation[:, px - 40 : px - 4].mean() / deviation[:, px + 4 : px + 40].mean())


TEXTURES = ("hubble_deep_field.jpg", "gravel.png", "grass.png")
PHOTOS = ("coffee.png", "motorcycle_left.png", *TEXTURES)  # `make bench-outpaint` has more


@cache
def extended(name: str, px: int) -> dict[str, npt.NDArray[np.float32]]:
    """A photo extended by so many pixels on all sides, as ``outpainted`` has it."""
    return dict(outpainted(ExemplarEngine(), photo(name), px))


@pytest.mark.parametrize("name", PHOTOS)
def test_no_line_at_the_old_border(name: str) -> None:
    """In photos extended on all sides the step across the old border is like those beside it: at most 1.6 times as large."""
    px = 60 if name in TEXTURES else 32
    seams = {which: seam(side, px) for which, side in extended(name, px).items()}
    assert {which: value for which, value in seams.items() if value > 1.6} == {}


@pytest.mark.parametrize("name", TEXTURES)
def test_new_sides_have_the_texture_of_the_old(name: str) -> None:
    """Star fields, gravel and grass are continued as lively as they are, to within a fifth, or a third where a galaxy is rightly not repeated."""
    textures = {which: texture(side, 60) for which, side in extended(name, 60).items()}
    assert {which: value for which, value in textures.items() if not (0.65 if "hubble" in name else 0.8) < value < 1.2} == {}


@pytest.mark.parametrize("scale", [1, 6])
def test_a_thing_is_not_seen_twice(engine: ExemplarEngine, scale: int) -> None:
    """A thing near the border of a quiet picture does not appear again beyond it, and what is kept stays, whatever the size."""
    picture = np.random.default_rng(4).integers(100, 120, (160 * scale, 200 * scale, 3), np.uint8)
    picture[60 * scale : 100 * scale, 24 * scale : 64 * scale] = (220, 40, 40)
    new = 80 * scale
    frame, mask = extend(Frame(picture), new, 0, 0, 0)
    out = fill(engine, frame.pixels, mask)
    assert (np.abs(out[:, :new].astype(int) - (220, 40, 40)).max(axis=2) < 60).sum() == 0
    assert np.array_equal(out[:, new:], picture)


def test_one_step(engine: ExemplarEngine) -> None:
    """A slot is done after one step."""
    slot = begun(engine, PaintRequest(stripes(), np.zeros((96, 128), np.uint8), 0))
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
    bad = begun(engine, PaintRequest(stripes(), np.full((96, 128), 255, np.uint8), 0))
    good = begun(engine, PaintRequest(stripes(), np.zeros((96, 128), np.uint8), 0))
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
