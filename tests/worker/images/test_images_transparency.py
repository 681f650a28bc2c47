"""The rules for an input's own transparency, without a network."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from worker.images.blend import paste
from worker.images.codec import Frame
from worker.images.mask import Box
from worker.images.transparency import continued, framed, off_ground, over_ground

Array = npt.NDArray[np.uint8]
planes = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def drawn(kind: str) -> Array:
    """An alpha of one of the shapes below, 240 rows of 320."""
    alpha = np.zeros((240, 320), np.uint8)
    turns = np.arange(10) * np.pi / 5
    reach = np.where(np.arange(10) % 2, 50, 110)
    polygons = {
        "padded": [(40, 0), (279, 0), (279, 239), (40, 239)],
        "turned": cv2.boxPoints(((160, 120), (240, 150), 7)),
        "star": np.stack([160 + reach * np.sin(turns), 120 - reach * np.cos(turns)], axis=1),
        "bottle": [(140, 0), (180, 0), (180, 80), (210, 80), (210, 239), (110, 239), (110, 80), (140, 80)],
        "handled": [(60, 40), (200, 40), (200, 220), (60, 220)],
        "rounded": [(30, 30), (289, 30), (289, 209), (30, 209)],
    }
    if kind in polygons:
        cv2.fillPoly(alpha, [np.asarray(polygons[kind]).astype(np.int32)], 255)
    if kind == "rounded":
        alpha = np.asarray(cv2.dilate(alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (61, 61))), np.uint8)
    elif kind in ("handled", "ring"):
        cv2.circle(alpha, (205, 120), 60, 255, 20)
    elif kind == "ellipse":
        cv2.ellipse(alpha, (160, 120), (160, 120), 0, 0, 360, 255, -1)
    elif kind == "two":
        alpha[60:200, 20:130] = alpha[60:200, 180:300] = 255
    return alpha


@pytest.mark.parametrize("kind", ["padded", "turned", "rounded", "ellipse"])
@pytest.mark.parametrize("opacity", [1.0, 0.88, 0.3])
def test_shapes_of_frames(kind: str, opacity: float) -> None:
    """A rectangle, upright or turned, one with rounded corners and an ellipse may frame a photo, at any opacity."""
    alpha = (drawn(kind) * opacity).astype(np.uint8)
    rows, columns = np.nonzero(alpha)
    assert framed(alpha) == Box(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


@pytest.mark.parametrize("kind", ["star", "bottle", "handled", "two", "ring"])
def test_shapes_of_cut_outs(kind: str) -> None:
    """Every other shape is a cut-out, also where it fills its file."""
    alpha = drawn(kind)
    rows, columns = np.nonzero(alpha)
    assert framed(alpha) is None
    assert framed(np.ascontiguousarray(alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])) is None


@given(alpha=planes, edit=planes.map(lambda plane: (plane > 100).astype(np.uint8) * 255))
def test_alpha_goes_on_as_what_is_kept_nearby(alpha: Array, edit: Array) -> None:
    """For any alpha what is kept stays, and what is edited becomes as opaque as some kept pixel."""
    edit = np.resize(edit, alpha.shape)
    out = continued(alpha, edit)
    kept = edit == 0
    assert np.array_equal(out[kept], alpha[kept])
    if kept.any():
        assert np.isin(out, alpha[kept]).all()
    else:
        assert np.array_equal(out, alpha)


def test_alpha_goes_on_straight() -> None:
    """Across an edit the border between clear and opaque goes on, and a hole in what is opaque is closed."""
    alpha = np.zeros((40, 60), np.uint8)
    alpha[20:] = 255
    edit = np.zeros_like(alpha)
    edit[10:30, 20:30] = 255
    assert np.array_equal(continued(alpha, edit), alpha)
    holed = np.full((40, 60), 255, np.uint8)
    holed[10:20, 10:20] = 0
    assert (continued(holed, 255 - holed) == 255).all()


@given(grey=st.integers(0, 255), alpha=st.integers(40, 255), ground=st.sampled_from([128, 255]))
def test_off_the_ground_is_the_way_back(grey: int, alpha: int, ground: int) -> None:
    """What was seen on a ground has its own colours again, to the rounding, and clear pixels show nothing but the ground."""
    frame = Frame(np.full((2, 2, 3), grey, np.uint8), np.array([[alpha, 0], [255, alpha]], np.uint8))
    assert frame.alpha is not None
    seen = over_ground(frame, ground)
    assert (seen[0, 1] == ground).all()
    back = off_ground(seen, frame.alpha, ground)
    assert abs(int(back[0, 0, 0]) - grey) <= 255 / alpha / 2 + 1
    assert (back[1, 0] == grey).all()


@given(base=planes, fill=planes, strength=planes, cover=planes, hidden=st.integers(0, 255))
def test_a_translucent_fill_takes_the_place_of_what_was_there(base: Array, fill: Array, strength: Array, cover: Array, hidden: int) -> None:
    """For any fill the alpha lies between the frame's and its own, is each at the ends, and no hidden colour shows.

    A fill that is opaque is laid exactly as Pillow's ``alpha_composite`` does.
    """
    fill, strength, cover = (np.resize(plane, base.shape) for plane in (fill, strength, cover))
    shape = (*base.shape, 3)
    frame = Frame(np.where(base[..., None] > 0, np.uint8(120), np.uint8(hidden)) * np.ones(shape, np.uint8), base)
    box, colours = Box(0, 0, base.shape[1], base.shape[0]), fill[..., None] * np.ones(shape, np.uint8)
    out = paste(frame, colours, strength, box, cover)
    assert out.alpha is not None
    assert (out.alpha >= np.minimum(base, cover)).all()
    assert (out.alpha <= np.maximum(base, cover)).all()
    kept = strength == 0
    assert np.array_equal(out.pixels[kept], frame.pixels[kept])
    assert np.array_equal(out.alpha[kept], base[kept])
    full = strength == 255
    assert np.array_equal(out.pixels[full], colours[full])
    assert np.array_equal(out.alpha[full], cover[full])
    was_clear = (base == 0) & ~kept
    assert np.array_equal(out.pixels[was_clear], colours[was_clear])
    opaque = paste(frame, colours, strength, box, np.full_like(cover, 255))
    laid = Image.alpha_composite(*(Image.fromarray(np.dstack(each)) for each in ((frame.pixels, base), (colours, strength))))
    assert opaque.alpha is not None
    assert np.array_equal(np.dstack([opaque.pixels, opaque.alpha]), np.asarray(laid))
