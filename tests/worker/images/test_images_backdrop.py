"""Backgrounds and the shadow on them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from api_schemas.requests import ColorBackground, GradientBackground, GradientStops, PictureBackground, Shadow, ShadowKind
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


def askew() -> npt.NDArray[np.uint8]:
    """A body on three wheels seen askew: the further to the right, the further off and the higher in the picture."""
    matte = np.zeros((300, 500), np.uint8)
    cv2.fillPoly(matte, [np.array([(60, 90), (440, 60), (440, 150), (60, 210)])], 255)
    for x, bottom in ((110, 240), (260, 210), (390, 184)):
        cv2.circle(matte, (x, bottom - 30), 30, 255, -1)
    return matte


def test_each_wheel_stands_on_the_ground() -> None:
    """Every wheel of a car seen askew has a shadow as dark as the nearest one's, though it is higher in the picture."""
    darkness = contact_shadow(askew(), Shadow()).astype(int)
    nearest, middle, farthest = (int(darkness[bottom + 2, x]) for x, bottom in ((110, 240), (260, 210), (390, 184)))
    assert nearest > 60
    assert min(middle, farthest) > 0.75 * nearest


def test_each_product_has_its_own_shadow() -> None:
    """Things that stand apart have a shadow each, though one stands behind the other; a lid that hovers above its box has none."""
    matte = np.zeros((400, 500), np.uint8)
    matte[100:200, 60:160] = matte[200:340, 250:380] = 255
    matte[180:195, 250:380] = 255
    darkness = contact_shadow(matte, Shadow()).astype(int)
    assert darkness[202, 110] > 60
    assert darkness[342, 315] > 60
    assert (darkness[196:199, 300:330] == 0).all()


def lit(angle: float, length: float = 1.0) -> npt.NDArray[np.int64]:
    """The shadow that a light casts of a bottle at columns 70 to 130, which stands on row 260."""
    shadow = Shadow(type=ShadowKind.CAST, angle_deg=angle, length=length, softness=0.2)
    return np.asarray(contact_shadow(bottle(500, 500), shadow), np.int64)


def test_a_cast_shadow_falls_away_from_the_light() -> None:
    """Light from behind on the left casts to the front right, from the right to the left, from the camera backwards."""
    right, left, back = lit(315), lit(90), lit(180)
    assert right[265:320, 150:].sum() > 10 * max(1, right[265:320, :50].sum())
    assert left[255:320, :50].sum() > 10 * max(1, left[255:320, 150:].sum())
    assert back[200:255].sum() > 10 * max(1, back[290:].sum())


def test_a_cast_shadow_fades_and_blurs() -> None:
    """Along its way a cast shadow becomes lighter and its edge softer."""
    darkness = lit(0, length=2.0)
    near, far = darkness[300], darkness[380]
    assert near[100] > far[100] > 20
    # From nine tenths of the darkness to one tenth of it.
    width = [np.count_nonzero((row[100:] > 0.1 * row[100]) & (row[100:] < 0.9 * row[100])) for row in (near, far)]
    assert width[1] > 1.5 * width[0]


def test_a_cast_shadow_is_as_long_as_asked_for() -> None:
    """Twice the length reaches twice as far over the ground."""
    reach = [np.nonzero(lit(0, length=length)[:, 100] > 10)[0].max() - 260 for length in (0.8, 1.6)]
    assert 1.7 < reach[1] / reach[0] < 2.3


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
@given(
    matte=hnp.arrays(np.uint8, st.tuples(sides, sides)),
    softness=st.floats(0, 1),
    opacity=st.floats(0.01, 1),
    kind=st.sampled_from(ShadowKind),
)
def test_shadow_of_anything(matte: npt.NDArray[np.uint8], softness: float, opacity: float, kind: ShadowKind) -> None:
    """For any matte and size the shadow, of either kind, has its size and is never darker than its opacity."""
    darkness = contact_shadow(matte, Shadow(type=kind, opacity=opacity, softness=softness))
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
