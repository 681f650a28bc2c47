"""The part of a picture that goes on beyond its border."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from worker.images.codec import Frame
from worker.images.ground import PRODUCT, _shaded, doubts, standing_out, things_in
from worker.images.subject import Segmenter

Array = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Path(sys.prefix) / "share/outfill/models/u2netp.onnx")


def paper(height: int, width: int) -> Array:
    """Plain grey paper with a little grain."""
    grain = np.random.default_rng(2).normal(0, 1.5, (height, width, 1))
    return np.asarray(np.clip(200 + grain, 0, 255).repeat(3, axis=2), np.uint8)


def test_the_product_is_found_and_what_stands_out_beside_it(segmenter: Segmenter) -> None:
    """Of a large and a small thing on paper the one is the product, the other a thing, and the paper is neither."""
    picture = paper(300, 480)
    cv2.circle(picture, (130, 150), 90, (200, 40, 30), -1)
    cv2.rectangle(picture, (360, 110), (410, 220), (20, 60, 150), -1)
    things = things_in(Frame(picture), segmenter)
    assert things is not None
    assert (things[100:200, 80:180] == PRODUCT).all()
    assert (things[130:200, 370:400] > 0).all()
    assert not things[:40].any()
    assert not things[:, 250:320].any()


def test_nothing_stands_out(segmenter: Segmenter) -> None:
    """In a picture of one colour there are no things."""
    assert things_in(Frame(np.full((120, 160, 3), 128, np.uint8)), segmenter) is None


def test_a_shadow_stands_out_with_its_product() -> None:
    """A shadow that reaches from the product to the border is no ground, and the paper beside it is."""
    picture, product = paper(240, 320), np.zeros((240, 320), np.bool_)
    picture[100:140, :160] = (picture[100:140, :160] * 0.6).astype(np.uint8)
    picture[80:180, 160:260], product[80:180, 160:260] = (40, 90, 60), True
    out = standing_out(picture, product, 200)
    assert out[105:135].all(axis=1).sum() == 0
    assert out[105:135, :160].all()
    assert not out[:60].any()
    assert not out[200:].any()


def test_a_shadow_is_told_from_the_ground_beside_it() -> None:
    """On a lit floor before things of all colours a product's shadow stands out by the floor's lightness: the whole border is no darker than that."""
    picture = np.kron(np.random.default_rng(1).integers(0, 200, (16, 16, 3), np.uint8), np.ones((25, 25, 1), np.uint8))
    picture[250:] = 200
    product = np.zeros((400, 400), np.bool_)
    product[270:350, 180:260] = True
    picture[product] = (200, 40, 40)
    picture[320:350, 100:180] = 130
    found = standing_out(picture, product, 160)
    assert found[324:346, 110:250].all()
    assert not found[380:].any()
    assert not found[:230].any()


def test_a_ground_that_is_darker_than_its_border_hides_no_shadow() -> None:
    """Where half of the ground is darker than the border beside it, that is no shadow, and one amid the other half still is."""
    cells = np.zeros((40, 40, 3), np.float32)
    cells[..., 0] = 50
    cells[22:, :2, 0], cells[22:, 2:, 0] = 90, 60
    held = np.zeros((40, 40), np.bool_)
    held[12:26, 20:28] = True
    cells[14:20, 12:20, 0] = 25
    found = _shaded(cells, held)
    assert found[14:20, 12:20].all()
    assert np.count_nonzero(found) == 6 * 8


@pytest.mark.parametrize(
    ("side", "sides"), [("left", (90, 0, 0, 0)), ("right", (0, 90, 0, 0)), ("top", (0, 0, 90, 0)), ("bottom", (0, 0, 0, 90))]
)
def test_a_cut_product_is_doubted(side: str, sides: tuple[int, int, int, int]) -> None:
    """An extension beyond the border that cuts the product is doubted, with the border's name; beyond the others none is."""
    things = np.zeros((200, 200), np.uint8)
    near = slice(0, 120), slice(50, 150)
    turns = {
        "left": lambda mask: mask.T,
        "right": lambda mask: mask[:, ::-1].T,
        "top": lambda mask: mask,
        "bottom": lambda mask: mask[::-1],
    }
    turned = turns[side](things)
    turned[near] = PRODUCT
    assert [side in doubt and "cut" in doubt for doubt in doubts(things, *sides)] == [True]
    others = tuple(90 - count for count in sides)
    assert not any(side in doubt for doubt in doubts(things, *others))


def test_narrow_parts_that_the_border_cuts_are_doubted_in_a_short_extension_too() -> None:
    """Two legs that end at the border are doubted if they are narrower than what is added, however little that is; a broad body is drawn out."""
    legs, body = np.zeros((200, 200), np.uint8), np.zeros((200, 200), np.uint8)
    legs[100:, 60:75], legs[100:, 120:135], body[100:, 60:135] = PRODUCT, PRODUCT, PRODUCT
    assert ["bottom" in doubt for doubt in doubts(legs, 0, 0, 0, 25)] == [True]
    assert doubts(body, 0, 0, 0, 25) == ()
