"""Composition: exact where nothing is edited."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker.images.blend import composite, estimate_foreground, paste
from worker.images.codec import Frame
from worker.images.crop import plan_crop, restore, take
from worker.images.mask import Box, edit_alpha, grow

Array = npt.NDArray[np.uint8]
some = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(1, 30), st.integers(1, 30))
alphas = st.sampled_from([0, 0, 0, 1, 100, 254, 255])


@st.composite
def layers(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    shape = draw(shapes)
    base, fill = (draw(hnp.arrays(np.uint8, (*shape, 3))) for _ in range(2))
    return base, fill, draw(hnp.arrays(np.uint8, shape, elements=alphas))


@some
@given(layers=layers())
def test_composite_is_the_formula(layers: tuple[Array, Array, Array]) -> None:
    """The result is the integer formula at every pixel, so it is the base at alpha 0 and the fill at alpha 255, exactly."""
    base, fill, alpha = layers
    out = composite(base, fill, alpha)
    a = alpha[..., None].astype(np.int64)
    assert np.array_equal(out, (fill * a + base * (255 - a) + 127) // 255)
    assert np.array_equal(out[alpha == 0], base[alpha == 0])
    assert np.array_equal(out[alpha == 255], fill[alpha == 255])


def test_composite_by_strips() -> None:
    """A frame larger than one strip is composited without a gap."""
    rng = np.random.default_rng(0)
    base, fill = (rng.integers(0, 256, (3, 700_000, 3), np.uint8) for _ in range(2))
    out = composite(base, fill, np.full((3, 700_000), 255, np.uint8))
    assert np.array_equal(out, fill)


@some
@given(layers=layers(), seed=st.integers(0, 99), transparent=st.booleans())
def test_paste_and_layer_agree(layers: tuple[Array, Array, Array], seed: int, transparent: bool) -> None:  # noqa: FBT001
    """Pasting changes nothing outside the alpha, and the fill layer composited over the input gives the same output."""
    fill, _, alpha = layers
    rng = np.random.default_rng(seed)
    height, width = alpha.shape
    left, top = int(rng.integers(0, 5)), int(rng.integers(0, 5))
    shape = height + top + int(rng.integers(0, 5)), width + left + int(rng.integers(0, 5))
    own = rng.integers(0, 256, shape, np.uint8) if transparent else None
    frame = Frame(rng.integers(0, 256, (*shape, 3), np.uint8), own, b"icc")
    box = Box(left, top, left + width, top + height)
    out = paste(frame, fill, alpha, box)
    whole = np.zeros(shape, np.uint8)
    whole[box.slices] = alpha
    assert out.icc == frame.icc
    assert np.array_equal(out.pixels[whole == 0], frame.pixels[whole == 0])
    if own is None:
        assert out.alpha is None
    else:
        assert out.alpha is not None
        assert np.array_equal(out.alpha[whole == 0], own[whole == 0])
        assert (out.alpha[whole == 255] == 255).all()
        assert (out.alpha >= own).all()


@some
@given(
    mask=hnp.arrays(np.uint8, shapes, elements=st.sampled_from([0, 0, 0, 128, 255])),
    px=st.integers(0, 9),
    feather=st.integers(0, 9),
    native=st.sampled_from([None, 16, 64]),
)
def test_kept_pixels_are_exact(mask: Array, px: int, feather: int, native: int | None) -> None:
    """For every mask and size, pixels outside the edit region equal the input's after crop, paint and paste."""
    if not mask.any():
        return
    frame = Frame(np.random.default_rng(0).integers(0, 256, (*mask.shape, 3), np.uint8))
    alpha = edit_alpha(mask, px, feather)
    crop = plan_crop(grow(mask, px), native_size=native, multiple=8)
    painted = 255 - take(frame.pixels, crop)
    out = paste(frame, restore(painted, crop), alpha[crop.box.slices], crop.box)
    kept = grow(mask, px) == 0
    assert np.array_equal(out.pixels[kept], frame.pixels[kept])


def test_foreground_has_no_halo() -> None:
    """A soft-edged red disc cut from a dark wall is red all along its edge, and exact inside."""
    y, x = np.mgrid[:200, :200]
    alpha = np.clip((60 - np.hypot(x - 100, y - 100)) * 40 + 128, 0, 255).astype(np.uint8)
    red, dark = np.full((200, 200, 3), (220, 30, 20), np.uint8), np.full((200, 200, 3), 10, np.uint8)
    photo = composite(dark, red, alpha)
    cut = estimate_foreground(photo, alpha)
    edge = (alpha > 20) & (alpha < 255)
    assert int(np.abs(cut[edge].astype(int) - (220, 30, 20)).max()) < 16
    assert int(np.abs(photo[edge].astype(int) - (220, 30, 20)).max()) > 100
    assert np.array_equal(cut[alpha == 255], photo[alpha == 255])
    assert (cut[0, 0] == 0).all()


def test_foreground_has_no_tile_seams() -> None:
    """A frame of several tiles gives the same colours as a window around the edge."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1100, 1200, 3), np.uint8)
    alpha = np.tile(np.linspace(0, 255, 1200).astype(np.uint8), (1100, 1))
    whole = estimate_foreground(pixels, alpha)
    part = estimate_foreground(np.ascontiguousarray(pixels[900:, 900:]), np.ascontiguousarray(alpha[900:, 900:]))
    difference = np.abs(whole[1000:, 1000:].astype(int) - part[100:, 100:])
    assert int(difference.max()) <= 1


@some
@given(layers=layers())
def test_foreground_of_any_size(layers: tuple[Array, Array, Array]) -> None:
    """Opaque pixels are returned exactly, at any size down to one pixel."""
    pixels, _, alpha = layers
    cut = estimate_foreground(pixels, alpha)
    assert cut.shape == pixels.shape
    assert np.array_equal(cut[alpha == 255], pixels[alpha == 255])
