"""Where a product stands: as large as asked for, at its anchor, and at the border that cuts it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from api_schemas.requests import Anchor, Margins, Placement
from api_schemas.sizes import MOST_ENLARGED
from worker.images.codec import Frame
from worker.images.mask import Box
from worker.images.placement import Sides, Spot, cut_sides, kept_in_place, placed, product_box
from worker.images.resample import Landing, resample

Mask = np.ndarray[Any, np.dtype[np.uint8]]


def matte_of(box: Box, width: int = 300, height: int = 200) -> Mask:
    """A product that is a box."""
    matte = np.zeros((height, width), np.uint8)
    matte[box.slices] = 255
    return matte


def placement(fill: float = 0.85, align: Anchor = Anchor.CENTER, **margins: float) -> Placement:
    """As the service resolves it."""
    each = (1 - fill) / 2
    return Placement(fill=fill, align=align, margins=Margins(**(margins or dict.fromkeys(("left", "right", "top", "bottom"), each))))


def landed(matte: Mask, spot: Spot) -> Box:
    """The box of the product on the canvas."""
    out = resample(Frame(np.zeros((*matte.shape, 3), np.uint8), matte), spot.landing).alpha
    assert out is not None
    box = product_box(out)
    assert box is not None
    return box


@settings(max_examples=80, deadline=None)
@given(
    left=st.integers(1, 200), top=st.integers(1, 150), width=st.integers(5, 90), height=st.integers(5, 45),
    canvas=st.tuples(st.integers(60, 400), st.integers(60, 400)), fill=st.floats(0.3, 1),
)  # fmt: skip
def test_a_product_takes_the_share_that_was_asked_for(
    left: int, top: int, width: int, height: int, canvas: tuple[int, int], fill: float
) -> None:
    """Of the side that it reaches first it takes ``fill``, to a pixel at either end, which it may touch; of the other no more; and it stands in the middle
    of both.
    """
    matte = matte_of(Box(left, top, left + width, top + height))
    spot = placed(matte, canvas, placement(fill), ())
    assume(spot.landing.scale < MOST_ENLARGED)
    box = landed(matte, spot)
    shares = box.width - fill * canvas[0], box.height - fill * canvas[1]
    assert -1 <= max(shares) < 2
    assert abs(box.left + box.right - canvas[0]) <= 2
    assert abs(box.top + box.bottom - canvas[1]) <= 2
    assert spot.doubts == ()


@pytest.mark.parametrize("anchor", Anchor)
def test_it_stands_at_its_anchor_within_the_margins(anchor: Anchor) -> None:
    """Each of nine anchors is a corner, the middle of a side or the middle of what the margins leave."""
    matte = matte_of(Box(100, 80, 140, 100))
    box = landed(matte, placed(matte, (400, 400), placement(0.2, anchor, left=0.1, right=0.05, top=0.2, bottom=0.1), ()))
    assert (box.width, box.height) == (80, 40)
    vertical = "top" if "top" in anchor else "bottom" if "bottom" in anchor else "middle"
    horizontal = "left" if "left" in anchor else "right" if "right" in anchor else "middle"
    assert box.left == {"left": 40, "middle": 170, "right": 300}[horizontal]
    assert box.top == {"top": 80, "middle": 200, "bottom": 320}[vertical]


def test_without_a_fill_it_takes_what_the_margins_leave() -> None:
    """With a fill of 1 the margins alone say how large it is; without margins it may touch the border."""
    matte = matte_of(Box(100, 80, 150, 100))
    assert landed(matte, placed(matte, (100, 100), placement(1, left=0.1, right=0.2), ())) == Box(10, 36, 80, 64)
    assert landed(matte, placed(matte, (100, 100), placement(1), ())).width == 100


def test_more_than_four_times_it_is_not_enlarged() -> None:
    """A product of 10 pixels on a canvas of 1000 has 40, and the report will say that it should have more."""
    matte = matte_of(Box(100, 80, 110, 90))
    spot = placed(matte, (1000, 1000), placement(), ())
    assert landed(matte, spot).width == 40
    assert spot.landing.scale == MOST_ENLARGED
    (doubt,) = spot.doubts
    assert "85.0 times" in doubt


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        (Box(100, 80, 160, 200), ("bottom",)),
        (Box(0, 60, 90, 120), ("left",)),
        (Box(240, 60, 300, 120), ("right",)),
        (Box(60, 0, 120, 70), ("top",)),
        (Box(0, 120, 90, 200), ("left", "bottom")),
    ],
)
def test_a_product_that_is_cut_stays_at_that_border(box: Box, cut: Sides) -> None:
    """Whatever is asked for it touches the border of the output that cut it in the photo, wholly, and a reason says so."""
    matte = matte_of(box)
    assert cut_sides(matte, trimmed=False) == cut
    for anchor in (Anchor.CENTER, Anchor.TOP_RIGHT):
        spot = placed(matte, (150, 150), placement(0.6, anchor), cut)
        out = landed(matte, spot)
        touched = {"left": out.left == 0, "right": out.right == 150, "top": out.top == 0, "bottom": out.bottom == 150}
        assert tuple(side for side, there in touched.items() if there) == cut
        alpha = resample(Frame(np.zeros((*matte.shape, 3), np.uint8), matte), spot.landing).alpha
        assert alpha is not None
        edges = {"left": alpha[:, 0], "right": alpha[:, -1], "top": alpha[0], "bottom": alpha[-1]}
        assert all(edges[side].max() == 255 for side in cut)
        assert max(out.width, out.height) == pytest.approx(90, abs=1)
        (doubt,) = spot.doubts
        assert all(side in doubt for side in cut)
        assert "stands at that of the output" in doubt


def test_what_is_cut_on_two_opposite_sides_reaches_from_border_to_border() -> None:
    """Where that leaves room for its height; where it does not it is placed as asked for, and its straight edges are named."""
    matte = matte_of(Box(0, 80, 300, 120))
    cut = cut_sides(matte, trimmed=False)
    assert cut == ("left", "right")
    spot = placed(matte, (150, 150), placement(), cut)
    assert landed(matte, spot) == Box(0, 65, 150, 85)
    assert "left, right borders" in spot.doubts[0]
    tall = matte_of(Box(0, 20, 300, 200))
    cut = cut_sides(tall, trimmed=False)
    spot = placed(tall, (300, 100), placement(0.8), cut)
    box = landed(tall, spot)
    assert (box.height, box.bottom) == (80, 100)
    assert 0 < box.left < box.right < 300
    assert "bottom border: it stands at that" in spot.doubts[0]
    assert "left, right borders, and its straight edge is seen" in spot.doubts[1]


def test_a_tip_that_reaches_the_border_is_not_cut() -> None:
    """A contact of two hundredths of its side or less is none."""
    matte = matte_of(Box(50, 50, 250, 150))
    matte[150:200, 120:124] = 255
    assert cut_sides(matte, trimmed=False) == ()
    matte[150:200, 120:126] = 255
    assert cut_sides(matte, trimmed=False) == ("bottom",)


def test_a_cut_out_that_is_trimmed_is_whole() -> None:
    """A file with an alpha of its own that its product meets on all sides was trimmed to it; one that it meets on one side was cut there."""
    trimmed = np.full((40, 30), 255, np.uint8)
    assert cut_sides(trimmed, trimmed=True) == ()
    assert cut_sides(trimmed, trimmed=False) == ("left", "right", "top", "bottom")
    assert cut_sides(matte_of(Box(100, 80, 160, 200)), trimmed=True) == ("bottom",)


def test_a_photo_that_is_padded_shows_its_cut() -> None:
    """A photo that lands whole within a taller canvas shows the straight edges of a product that its upper and lower borders cut, and no others."""
    landing = Landing((100, 100), 0, 20, 0.5, 0.5)
    (doubt,) = kept_in_place(landing, (200, 120), ("left", "top", "bottom")).doubts
    assert "top, bottom borders" in doubt
    assert kept_in_place(landing, (200, 120), ("left", "right")).doubts == ()


def test_a_shadow_in_the_file_does_not_make_the_product_smaller() -> None:
    """What is less than half as opaque as the product is not counted as it; a product that is translucent throughout is."""
    matte = matte_of(Box(100, 80, 140, 100))
    matte[100:110, 90:150] = 90
    assert product_box(matte) == Box(100, 80, 140, 100)
    assert product_box((matte_of(Box(10, 20, 30, 40)) * 0.4).astype(np.uint8)) == Box(10, 20, 30, 40)
    assert product_box(np.zeros((5, 5), np.uint8)) is None
