"""Backgrounds and the shadow on them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from api_schemas.requests import ColorBackground, GradientBackground, GradientStops, PictureBackground, Shadow
from worker.images.backdrop import apply_shadow, base_is_cut, contact_shadow, render

sides = st.integers(1, 40)


def gradient(start: str, end: str, angle: float) -> GradientBackground:
    return GradientBackground(gradient=GradientStops(start=start, end=end, angle_deg=angle))


def bottle(height: int = 300, width: int = 200, bottom: int = 260) -> npt.NDArray[np.uint8]:
    matte = np.zeros((height, width), np.uint8)
    matte[60:bottom, 70:130] = 255
    return matte


def test_colour() -> None:
    """A colour is that colour at every pixel."""
    assert (render((7, 3), ColorBackground(color="#0180fF")) == (1, 128, 255)).all()


@pytest.mark.parametrize(
    ("angle", "first", "last"), [(180, (0, 5), (-1, 5)), (0, (-1, 5), (0, 5)), (90, (5, 0), (5, -1)), (270, (5, -1), (5, 0))]
)
def test_gradient_direction(angle: float, first: tuple[int, int], last: tuple[int, int]) -> None:
    """Angles are those of CSS: 180 runs from top to bottom, 90 from left to right."""
    pixels = render((60, 40), gradient("#000000", "#ffffff", angle)).astype(int)
    assert int(pixels[first].max()) < 8
    assert int(pixels[last].min()) > 247


def test_gradient_corners() -> None:
    """On a diagonal the corners have the end colours, whatever the aspect."""
    pixels = render((90, 40), gradient("#204060", "#a0c0e0", 135))
    assert np.abs(pixels[0, 0].astype(int) - (0x20, 0x40, 0x60)).max() <= 2
    assert np.abs(pixels[-1, -1].astype(int) - (0xA0, 0xC0, 0xE0)).max() <= 2


def test_gradient_is_dithered() -> None:
    """A slow gradient has no bands: levels mix where they meet, the same way each time, and the channels stay together."""
    background = gradient("#808080", "#888888", 180)
    pixels = render((64, 640), background)
    assert np.array_equal(pixels, render((64, 640), background))
    assert (pixels == pixels[..., :1]).all()
    mixed = [len(np.unique(row)) > 1 for row in pixels[..., 0]]
    assert np.mean(mixed) > 0.9
    assert (render((64, 64), gradient("#818283", "#818283", 33)) == (0x81, 0x82, 0x83)).all()


@settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, have_w=st.integers(1, 40).map(lambda half: 2 * half), have_h=sides)
def test_picture_covers(width: int, height: int, have_w: int, have_h: int) -> None:
    """A picture of any size covers a frame of any size, centred: its left and right halves stay left and right."""
    picture = np.zeros((have_h, have_w, 3), np.uint8)
    picture[:, : have_w // 2] = 255
    out = render((width, height), PictureBackground(image="file:x"), picture)
    assert out.shape == (height, width, 3)
    # The frame is made of whole pixels, so the middle may lie a pixel beside its centre.
    off_centre = abs(float(out.mean()) / 255 - 0.5) * width
    assert off_centre <= 1.5


def test_picture_of_the_same_size_is_exact() -> None:
    """A picture as large as the frame is used as it is, and one is needed."""
    picture = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    assert np.array_equal(render((17, 12), PictureBackground(image="file:x"), picture), picture)
    with pytest.raises(ValueError, match="not given"):
        render((17, 12), PictureBackground(image="file:x"))


def test_shadow_lies_at_the_foot() -> None:
    """The shadow of a standing product is darkest just under its foot and gone at half its height and well below."""
    darkness = contact_shadow(bottle(), Shadow(opacity=0.5, softness=0.5)).astype(int)
    below = darkness[260:, 100]
    assert below[1] > 60
    assert below[1] == darkness[:, 100][260:].max() or below[0] == below.max()
    assert (np.diff(below[2:]) <= 0).all()
    assert below[30] == 0
    assert (darkness[:200] == 0).all()
    assert abs(int(darkness[262, :100].sum()) - int(darkness[262, 100:].sum())) <= 20
    assert darkness.max() <= 128


def test_softness_spreads() -> None:
    """A softer shadow reaches further from the product."""
    wide = [int(np.count_nonzero(contact_shadow(bottle(), Shadow(softness=softness)))) for softness in (0.0, 0.5, 1.0)]
    assert wide[0] < wide[1] < wide[2]


def test_shadow_follows_a_round_foot() -> None:
    """Under a saucer the shadow follows the rim near the ground and leaves the raised sides free."""
    matte = np.zeros((400, 600), np.uint8)
    cv2.ellipse(matte, (300, 200), (200, 140), 0, 0, 360, 255, -1)
    darkness = contact_shadow(matte, Shadow())
    assert darkness[343, 300] > 60
    assert darkness[326, 216] > 5
    assert darkness[205, 97] == 0


def test_overhang_casts_nothing() -> None:
    """A handle high above the ground has no shadow in the air under it."""
    matte = bottle()
    matte[100:130, 130:170] = 255
    assert (contact_shadow(matte, Shadow())[125:200, 135:] == 0).all()


def test_product_cut_by_the_border() -> None:
    """A product that the lower border cuts off has its shadow beside it, at the border and not higher."""
    darkness = contact_shadow(bottle(260), Shadow())
    for beside in (darkness[-4:, 68:70], darkness[-4:, 130:132]):
        assert beside.mean() > 15
    assert (darkness[:200] == 0).all()
    assert (darkness[:, :40] == 0).all()


def test_a_base_in_the_picture_is_not_cut() -> None:
    """A base counts as cut where a quarter of the product or more lies on the lower border; one that only touches it does not."""
    assert base_is_cut(bottle(260))
    assert not base_is_cut(bottle())
    grazing = np.zeros((200, 300), np.uint8)
    cv2.ellipse(grazing, (150, 130), (100, 70), 0, 0, 360, 255, -1)
    grazing[-1, :145] = 0
    grazing[-1, 155:] = 0
    assert not base_is_cut(grazing)
    assert not base_is_cut(np.zeros((20, 30), np.uint8))


@settings(max_examples=60, deadline=None)
@given(matte=hnp.arrays(np.uint8, st.tuples(sides, sides)), softness=st.floats(0, 1), opacity=st.floats(0.01, 1))
def test_shadow_of_anything(matte: npt.NDArray[np.uint8], softness: float, opacity: float) -> None:
    """For any matte and size the shadow has its size and is never darker than its opacity."""
    darkness = contact_shadow(matte, Shadow(opacity=opacity, softness=softness))
    assert darkness.shape == matte.shape
    assert int(darkness.max()) <= round(255 * opacity)


def test_shadow_of_a_large_picture() -> None:
    """The shadow of an enlarged product is the enlarged shadow."""
    large = np.repeat(np.repeat(bottle(), 10, axis=0), 10, axis=1)
    back = cv2.resize(contact_shadow(large, Shadow()), (200, 300), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(back - contact_shadow(bottle(), Shadow())).mean() < 1.5


def test_apply_shadow() -> None:
    """Darkness 255 is black, 0 changes nothing, and half takes half."""
    pixels = np.full((1, 3, 3), 200, np.uint8)
    out = apply_shadow(pixels, np.array([[0, 128, 255]], np.uint8))
    assert out[0, :, 0].tolist() == [200, 100, 0]
