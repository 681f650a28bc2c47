"""Masks, windows and larger canvases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from api_schemas.errors import Invalid, MaskEmpty
from api_schemas.requests import Anchor, Canvas
from worker.images.canvas import extend, place
from worker.images.codec import Frame
from worker.images.crop import fit_mask, plan_crop, restore, take
from worker.images.mask import Box, bounding_box, coverage, edit_alpha, grow

MaskArray = npt.NDArray[np.uint8]
some = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
values = st.sampled_from([0, 0, 0, 0, 17, 128, 255])
masks = hnp.arrays(np.uint8, shapes, elements=values, fill=st.just(0))


def grown_by_definition(mask: MaskArray, px: int) -> MaskArray:
    out = mask.copy()
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    for row, column in zip(*np.nonzero(mask), strict=True):
        near = (y - row) ** 2 + (x - column) ** 2 <= px * px
        out[near] = np.maximum(out[near], mask[row, column])
    return out


@some
@given(mask=masks, px=st.sampled_from([0, 1, 2, 5, 16, 17, 23, 60]))
def test_grow_is_a_disc_dilation(mask: MaskArray, px: int) -> None:
    """Growing gives each pixel the largest strength within the radius, by kernel or by distance transform."""
    assert np.array_equal(grow(mask, px), grown_by_definition(mask, px))


def test_grow_of_many_levels() -> None:
    """A large dilation of a smooth mask covers exactly the right region and never weakens a pixel."""
    mask = np.zeros((60, 80), np.uint8)
    mask[20:30, 30:60] = np.linspace(10, 250, 30).astype(np.uint8)
    grown = grow(mask, 20)
    exact = grown_by_definition(mask, 20)
    assert np.array_equal(grown > 0, exact > 0)
    assert (grown >= mask).all()
    assert (grown <= exact).all()


def faded_by_definition(mask: MaskArray, px: int, fade: int) -> npt.NDArray[np.float64]:
    """Each pixel takes the strongest of what is within ``px``, less by its distance over the outermost ``fade``."""
    out = np.zeros(mask.shape)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    for row, column in zip(*np.nonzero(mask), strict=True):
        squares = (y - row) ** 2 + (x - column) ** 2
        share = np.clip((px + 1 - np.sqrt(squares)) / (fade + 1), 0, 1) * (squares <= px * px)
        out = np.maximum(out, mask[row, column] * share)
    return out


@some
@given(mask=masks, px=st.sampled_from([1, 2, 4, 8]), share=st.sampled_from([0.3, 0.75, 1]))
def test_a_feather_of_at_most_the_growth_lies_in_what_was_grown(mask: MaskArray, px: int, share: float) -> None:
    """The edit fades by the distance from what is marked, and reaches as far as it grew: nothing that is marked is weaker than its mask."""
    feather = max(1, round(px * share))
    alpha = edit_alpha(mask, px, feather)
    assert np.abs(alpha - faded_by_definition(mask, px, feather)).max() <= 0.51
    assert (alpha >= mask).all()
    assert (alpha <= grow(mask, px)).all()


@some
@given(mask=masks.map(lambda mask: (mask > 0).astype(np.uint8) * 255), px=st.integers(1, 60), share=st.floats(0, 1))
def test_where_the_mask_is_white_the_fill_is(mask: MaskArray, px: int, share: float) -> None:
    """For every growth and every feather of at most that, white is all fill, and the edit region is the grown mask to the pixel."""
    alpha = edit_alpha(mask, px, int(px * share))
    assert (alpha[mask == 255] == 255).all()
    assert np.array_equal(alpha > 0, grown_by_definition(mask, px) > 0)


@pytest.mark.parametrize(("px", "feather"), [(4, 4), (12, 12), (0, 0)])
def test_a_gentle_soft_mask_keeps_its_strengths(px: int, feather: int) -> None:
    """A gradient that falls more gently than the fade comes through as it is, but for its last faint pixels."""
    mask = np.tile(np.linspace(255, 0, 200).round().astype(np.uint8), (9, 1))
    alpha = edit_alpha(mask, px, feather)
    assert np.array_equal(alpha[mask > 20], mask[mask > 20])
    brush = np.zeros((40, 40), np.uint8)
    brush[12:28, 12:28] = 128
    assert (edit_alpha(brush, px, feather)[12:28, 12:28] == 128).all()
    assert edit_alpha(brush, px, feather).max() == 128


@some
@given(mask=masks, px=st.integers(0, 20), feather=st.integers(0, 20))
def test_alpha_stays_inside(mask: MaskArray, px: int, feather: int) -> None:
    """For every mask the paste alpha is 0 outside the grown mask and never above its strength."""
    grown = grow(mask, px)
    alpha = edit_alpha(mask, px, feather)
    assert (alpha <= grown).all()
    assert np.array_equal(edit_alpha(mask, px, 0), grown)


@pytest.mark.parametrize(
    ("px", "feather", "expected"),
    [
        (0, 0, [0, 0, 0, 255, 255, 255]),
        (2, 0, [0, 255, 255, 255, 255, 255]),
        (2, 2, [0, 85, 170, 255, 255, 255]),
        (2, 1, [0, 128, 255, 255, 255, 255]),
        (0, 2, [0, 0, 0, 85, 170, 255]),
        (1, 3, [0, 0, 64, 128, 191, 255]),
    ],
    ids=["none", "grown", "outwards", "outermost", "inwards", "both ways"],
)
def test_a_feather_goes_outwards_first(px: int, feather: int, expected: list[int]) -> None:
    """Across a straight edge the strength falls over the feather to what was grown; what does not fit there is taken from inside."""
    mask = np.zeros((30, 60), np.uint8)
    mask[:, 30:] = 255
    assert edit_alpha(mask, px, feather)[15, 27:33].tolist() == expected


def test_feather_ramp() -> None:
    """The alpha rises over the feather from the edge, is 255 deep inside, and the frame's border is no edge."""
    mask = np.zeros((50, 50), np.uint8)
    mask[:, 20:] = 255
    row = edit_alpha(mask, 0, 4)[25]
    assert row[:20].tolist() == [0] * 20
    assert row[20:25].tolist() == [51, 102, 153, 204, 255]
    assert (row[25:] == 255).all()
    assert (edit_alpha(np.full((9, 9), 255, np.uint8), 0, 4) == 255).all()


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_thin_stroke_is_replaced(width: int) -> None:
    """A stroke thinner than its feather is still wholly replaced along its middle."""
    mask = np.zeros((40, 60), np.uint8)
    mask[10 : 10 + width, 5:55] = 255
    alpha = edit_alpha(mask, 0, 12)
    assert (alpha[10 + width // 2, 10:50] == 255).all()


@some
@given(mask=masks)
def test_bounding_box(mask: MaskArray) -> None:
    """The box holds every marked pixel and each of its sides touches one."""
    box = bounding_box(mask)
    if box is None:
        assert coverage(mask) == 0
        return
    inside = mask[box.slices]
    assert np.count_nonzero(inside) == np.count_nonzero(mask)
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()
    assert coverage(mask) == np.count_nonzero(mask) / mask.size


@st.composite
def marked(draw: st.DrawFn) -> MaskArray:
    height, width = draw(st.tuples(st.integers(1, 1500), st.integers(1, 1500)))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    mask = np.zeros((height, width), np.uint8)
    mask[top : draw(st.integers(top + 1, height)), left : draw(st.integers(left + 1, width))] = 255
    return mask


@settings(max_examples=120, deadline=None)
@given(mask=marked(), native=st.sampled_from([None, 64, 512, 1000]), multiple=st.sampled_from([1, 8, 64]))
def test_crop_geometry(mask: MaskArray, native: int | None, multiple: int) -> None:
    """The window lies in the frame and holds the edit; the model's size keeps every limit."""
    crop = plan_crop(mask, native_size=native, multiple=multiple)
    box, (width, height) = crop.box, crop.size
    assert 0 <= box.left < box.right <= mask.shape[1]
    assert 0 <= box.top < box.bottom <= mask.shape[0]
    assert np.count_nonzero(mask[box.slices]) == np.count_nonzero(mask)
    assert width % multiple == height % multiple == 0
    if native is None:
        assert box == Box(0, 0, mask.shape[1], mask.shape[0])
        return
    assert max(width, height) <= 2 * native
    assert width < 2 * box.width + multiple + 1
    assert height < 2 * box.height + multiple + 1
    # Rounding each side up adds at most one multiple to it.
    assert width * height <= (native**2) + multiple * (width + height) + 4


@some
@given(mask=marked())
def test_crop_keeps_the_aspect(mask: MaskArray) -> None:
    """Both sides are scaled alike, to within a pixel's rounding."""
    crop = plan_crop(mask, native_size=512)
    scale_x, scale_y = crop.size[0] / crop.box.width, crop.size[1] / crop.box.height
    assert abs(scale_x - scale_y) <= 1.5 / min(crop.box.width, crop.box.height) * max(1, scale_x, scale_y)


def test_edits_of_all_kinds_share_a_few_shapes() -> None:
    """Of two hundred edits of any size and aspect in a large photo, a model of 512 pixels sees at most twenty shapes, so that it can batch them."""
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(200):
        mask = np.zeros((3000, 4000), np.uint8)
        height, width = rng.integers(20, 900, 2)
        top, left = rng.integers(0, 3000 - height), rng.integers(0, 4000 - width)
        mask[top : top + height, left : left + width] = 255
        crop = plan_crop(mask, native_size=512, multiple=8)
        shapes.add(crop.size)
        assert 0.75 < crop.pixels / 512**2 < 1.3
        stretch = crop.size[0] / crop.box.width / (crop.size[1] / crop.box.height)
        assert 0.98 < stretch < 1.02
        assert crop.box.left <= left
        assert crop.box.right >= left + width
    assert len(shapes) <= 20


def test_crop_has_context() -> None:
    """Around an edit in the middle of a large frame there is at least half its size on each side."""
    mask = np.zeros((3000, 4000), np.uint8)
    mask[1000:1400, 2000:2200] = 255
    box = plan_crop(mask, native_size=512, multiple=64).box
    assert box.left <= 1800
    assert box.right >= 2400
    assert box.top <= 800
    assert box.bottom >= 1600
    assert box.width < 1000


def test_crop_of_nothing() -> None:
    """A mask that marks nothing has no window."""
    with pytest.raises(MaskEmpty):
        plan_crop(np.zeros((5, 5), np.uint8), native_size=512)


@some
@given(mask=marked(), seed=st.integers(0, 99), native=st.sampled_from([None, 64, 512]))
def test_take_and_restore(mask: MaskArray, seed: int, native: int | None) -> None:
    """What is taken has the model's size, and what is restored has the window's; at scale 1 it is the window exactly."""
    crop = plan_crop(mask, native_size=native)
    image = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 3), np.uint8)
    seen = take(image, crop)
    assert seen.shape == (crop.size[1], crop.size[0], 3)
    back = restore(seen, crop)
    assert back.shape == (crop.box.height, crop.box.width, 3)
    if crop.size == (crop.box.width, crop.box.height):
        assert np.array_equal(back, image[crop.box.slices])


@settings(max_examples=120, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    value=st.sampled_from([17, 128, 255]),
)
def test_no_stroke_is_lost(shape: tuple[int, int], size: tuple[int, int], at: tuple[float, float], value: int) -> None:
    """Even a single marked pixel survives the shrink, at its own strength, wherever it lies."""
    mask = np.zeros(shape, np.uint8)
    mask[int(at[0] * shape[0]), int(at[1] * shape[1])] = value
    size = min(size[0], shape[1]), min(size[1], shape[0])
    seen = fit_mask(mask, size)
    assert seen.shape == size[::-1]
    assert int(seen.max()) == value


@some
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    margins=st.tuples(*[st.integers(0, 40)] * 4),
    transparent=st.booleans(),
)
def test_extend_keeps_the_input(shape: tuple[int, int], margins: tuple[int, int, int, int], transparent: bool) -> None:  # noqa: FBT001
    """An outpaint canvas holds the input exactly in place, its mask is 255 on exactly the new area, and that is as opaque as the border beside it."""
    left, right, top, bottom = margins
    rng = np.random.default_rng(0)
    alpha = rng.integers(0, 256, shape, np.uint8) if transparent else None
    frame = Frame(rng.integers(0, 256, (*shape, 3), np.uint8), alpha, b"icc")
    larger, mask = extend(frame, left, right, top, bottom)
    inside = slice(top, top + shape[0]), slice(left, left + shape[1])
    assert (larger.width, larger.height) == (shape[1] + left + right, shape[0] + top + bottom)
    assert np.array_equal(larger.pixels[inside], frame.pixels)
    assert larger.icc == b"icc"
    expected = np.full(mask.shape, 255, np.uint8)
    expected[inside] = 0
    assert np.array_equal(mask, expected)
    if alpha is None:
        assert larger.alpha is None
    else:
        assert larger.alpha is not None
        assert np.array_equal(larger.alpha[inside], alpha)
        rows = np.clip(np.arange(larger.height) - top, 0, shape[0] - 1)
        columns = np.clip(np.arange(larger.width) - left, 0, shape[1] - 1)
        assert np.array_equal(larger.alpha, alpha[np.ix_(rows, columns)])


def test_extend_continues_the_picture_at_its_edge() -> None:
    """Right beside the input the new area is its reflection, so that a paste that fades there blends with what continues it."""
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    larger, _ = extend(Frame(picture), 50, 2, 9, 0)
    assert np.array_equal(larger.pixels[9:, 46:50], picture[:, 4:0:-1])
    assert np.array_equal(larger.pixels[9:, 90:92], picture[:, 38:36:-1])
    assert np.array_equal(larger.pixels[5:9, 50:90], picture[4:0:-1])


@pytest.mark.parametrize("anchor", list(Anchor))
def test_place(anchor: Anchor) -> None:
    """Each anchor puts the input where its name says, and the sides add up to the canvas."""
    left, right, top, bottom = place((10, 20), Canvas(width=15, height=27, anchor=anchor))
    assert (left + right, top + bottom) == (5, 7)
    name = anchor.value
    assert left == (0 if "left" in name else 5 if "right" in name else 2)
    assert top == (0 if "top" in name else 7 if "bottom" in name else 3)


@pytest.mark.parametrize("size", [(10, 20), (9, 30), (30, 19)])
def test_place_refuses(size: tuple[int, int]) -> None:
    """A canvas that is smaller than the input, or just as large, is refused by field."""
    with pytest.raises(Invalid) as caught:
        place((10, 20), Canvas(width=size[0], height=size[1]))
    assert caught.value.field == "canvas"
