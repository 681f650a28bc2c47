"""Masks that are upside down, told by a look at the picture with the real network: twenty right ones, and the same inverted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage

from worker.images.codec import Frame, decode
from worker.images.polarity import looks_inverted
from worker.images.subject import Segmenter

Array = npt.NDArray[np.uint8]
PHOTOS = Path(skimage.__file__).parent / "data"
SIDE = 400

OUTLINES: dict[str, Sequence[tuple[int, int]]] = {
    "astronaut.png": [
        *((155, 60), (170, 25), (215, 12), (270, 25), (300, 65), (295, 105), (275, 140), (270, 190), (305, 215), (305, 250), (350, 270)),
        *((365, 345), (400, 345), (460, 365), (498, 450), (500, 511), (20, 511), (35, 400), (20, 340), (75, 240), (115, 220), (115, 170)),
        *((150, 150), (190, 150), (165, 115)),
    ],
    "camera.png": [
        *((170, 75), (205, 62), (260, 85), (270, 105), (320, 140), (325, 175), (330, 190), (300, 215), (295, 260), (270, 305), (210, 295)),
        *((170, 330), (140, 370), (150, 511), (20, 511), (0, 380), (0, 270), (60, 140), (110, 115), (160, 105)),
    ],
    "chelsea.png": [
        *((0, 130), (35, 60), (45, 0), (345, 0), (395, 30), (385, 110), (355, 160), (335, 220), (315, 299), (0, 299)),
    ],
    "rocket.jpg": [(310, 150), (318, 130), (328, 130), (335, 150), (333, 410), (308, 410)],
    "motorcycle_left.png": [
        *((95, 205), (150, 200), (160, 165), (235, 185), (290, 205), (340, 200), (400, 170), (470, 150), (490, 75), (530, 90), (560, 130)),
        *((575, 170), (560, 210), (590, 270), (640, 300), (635, 320), (670, 350), (685, 420), (650, 450), (590, 425), (530, 350)),
        *((460, 370), (345, 430), (270, 380), (240, 390), (190, 400), (140, 370), (125, 320), (150, 250), (110, 235)),
    ],
}
"""(x, y) around the thing that each photo is of, by hand and roughly, as customers draw."""


def photo(name: str) -> Frame:
    return decode((PHOTOS / name).read_bytes(), max_pixels=10**6)


def outlined(name: str) -> tuple[Frame, Array]:
    frame = photo(name)
    mask = np.zeros((frame.height, frame.width), np.uint8)
    cv2.fillPoly(mask, [np.array(OUTLINES[name], np.int32)], 255)
    return frame, mask


def coffee() -> tuple[Frame, Array]:
    frame, mask = photo("coffee.png"), np.zeros((400, 600), np.uint8)
    cv2.ellipse(mask, (278, 230), (190, 145), 0, 0, 360, 255, -1)
    cv2.ellipse(mask, (290, 113), (115, 95), 0, 0, 360, 255, -1)
    return frame, mask


# Drawn products, as shapes on a canvas of SIDE, and what they stand on


def mug(mask: Array) -> None:
    cv2.rectangle(mask, (120, 140), (240, 300), 255, -1)
    cv2.ellipse(mask, (240, 220), (60, 50), 0, -90, 90, 255, 18)


def bottle(mask: Array) -> None:
    cv2.rectangle(mask, (160, 160), (240, 360), 255, -1)
    cv2.ellipse(mask, (200, 160), (40, 40), 0, 180, 360, 255, -1)
    cv2.rectangle(mask, (185, 60), (215, 140), 255, -1)


def ball(mask: Array) -> None:
    cv2.circle(mask, (210, 230), 80, 255, -1)


def box(mask: Array) -> None:
    cv2.fillPoly(mask, [np.array([(90, 180), (230, 130), (320, 180), (320, 300), (180, 350), (90, 300)], np.int32)], 255)


def lamp(mask: Array) -> None:
    cv2.fillPoly(mask, [np.array([(150, 80), (250, 80), (290, 180), (110, 180)], np.int32)], 255)
    cv2.rectangle(mask, (193, 180), (207, 330), 255, -1)
    cv2.ellipse(mask, (200, 335), (70, 18), 0, 0, 360, 255, -1)


def wreath(mask: Array) -> None:
    cv2.circle(mask, (200, 210), 80, 255, 80)


def shoe(mask: Array) -> None:
    outline = [(70, 290), (75, 200), (130, 190), (190, 235), (300, 250), (335, 285), (335, 310), (70, 310)]
    cv2.fillPoly(mask, [np.array(outline, np.int32)], 255)


def large(mask: Array) -> None:
    cv2.ellipse(mask, (200, 200), (180, 170), 0, 0, 360, 255, -1)


def small(mask: Array) -> None:
    cv2.ellipse(mask, (250, 150), (38, 26), 20, 0, 360, 255, -1)


def cut(mask: Array) -> None:
    """A vase that the lower border cuts."""
    cv2.ellipse(mask, (200, 330), (110, 130), 0, 0, 360, 255, -1)
    cv2.rectangle(mask, (165, 130), (235, 230), 255, -1)


def pair(mask: Array) -> None:
    cv2.ellipse(mask, (135, 230), (55, 90), 8, 0, 360, 255, -1)
    cv2.ellipse(mask, (265, 230), (55, 90), -8, 0, 360, 255, -1)


def chair(mask: Array) -> None:
    cv2.rectangle(mask, (120, 60), (270, 200), 255, -1)
    cv2.rectangle(mask, (110, 200), (280, 240), 255, -1)
    for x in (115, 260):
        cv2.rectangle(mask, (x, 240), (x + 15, 350), 255, -1)


def plain(level: int) -> Array:
    return np.full((SIDE, SIDE, 3), level, np.uint8)


def studio() -> Array:
    """A wall, a table and their shades."""
    rows = np.where(np.arange(SIDE) < 250, np.linspace(190, 225, SIDE), np.linspace(230, 150, SIDE))
    return np.repeat(rows[:, None, None], SIDE, 1).repeat(3, 2).astype(np.uint8)


def texture(name: str) -> Array:
    return np.ascontiguousarray(cv2.resize(photo(name).pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def drawn(shape: Callable[[Array], None], colour: tuple[int, int, int], ground: Array) -> tuple[Frame, Array]:
    """The shape with a light from the left and a shadow below it, on ``ground``; its mask has soft edges."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    shape(mask)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 1.2), np.uint8)
    weight = mask[..., None] / 255.0
    shadow = cv2.GaussianBlur(np.roll(weight[..., 0], 12, 0), (0, 0), 10)[..., None] * 0.3
    shade = np.linspace(1.2, 0.7, SIDE)[None, :, None] * np.array(colour, float)
    grain = np.random.default_rng(3).normal(0, 3, (SIDE, SIDE, 3))
    picture = ground * (1 - shadow) * (1 - weight) + shade * weight + grain
    return Frame(np.clip(picture, 0, 255).astype(np.uint8)), mask


CASES: dict[str, Callable[[], tuple[Frame, Array]]] = {
    "coffee": coffee,
    **{name.partition(".")[0]: (lambda name=name: outlined(name)) for name in OUTLINES},  # type: ignore[misc]
    "mug on white": lambda: drawn(mug, (60, 110, 190), plain(245)),
    "bottle on grey": lambda: drawn(bottle, (30, 90, 40), plain(170)),
    "ball on a table": lambda: drawn(ball, (210, 70, 40), studio()),
    "box on gravel": lambda: drawn(box, (200, 170, 60), texture("gravel.png")),
    "lamp on white": lambda: drawn(lamp, (200, 160, 60), plain(250)),
    "wreath on white": lambda: drawn(wreath, (60, 120, 50), plain(240)),
    "shoe on a table": lambda: drawn(shoe, (40, 40, 60), studio()),
    "shoe on grass": lambda: drawn(shoe, (200, 60, 80), texture("grass.png")),
    "large on white": lambda: drawn(large, (150, 60, 110), plain(245)),
    "small on grey": lambda: drawn(small, (190, 50, 40), plain(200)),
    "cut by the border": lambda: drawn(cut, (50, 120, 130), studio()),
    "pair on white": lambda: drawn(pair, (70, 50, 40), plain(240)),
    "chair on a table": lambda: drawn(chair, (120, 70, 40), studio()),
    "light on dark": lambda: drawn(mug, (235, 230, 220), plain(40)),
}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Path(sys.prefix) / "share/outfill/models/u2netp.onnx")


def test_there_are_twenty() -> None:
    """Twenty pictures are looked at, six of them photos."""
    assert len(CASES) == 20


@pytest.mark.parametrize("name", CASES)
def test_an_inverted_mask_is_told_and_a_right_one_is_not(segmenter: Segmenter, name: str) -> None:
    """A mask that is white on the background is said to look inverted; the same the right way up is not."""
    frame, mask = CASES[name]()
    assert looks_inverted(255 - mask, frame, segmenter)
    assert not looks_inverted(mask, frame, segmenter)


@pytest.mark.parametrize("name", ["gravel.png", "grass.png"])
def test_where_nothing_is_found_nothing_is_said(segmenter: Segmenter, name: str) -> None:
    """In a picture of nothing but texture any mask is taken as it is, and its inverse too."""
    frame = photo(name)
    mask = np.zeros((frame.height, frame.width), np.uint8)
    mask[100:300, 150:350] = 255
    assert not looks_inverted(mask, frame, segmenter)
    assert not looks_inverted(255 - mask, frame, segmenter)


def test_a_mask_of_another_thing_is_not_said_to_be_inverted(segmenter: Segmenter) -> None:
    """Who wants another thing than the one that stands out, or all around it, is not told that the mask is upside down unless it is."""
    frame, cup = coffee()
    beside: Any = np.zeros_like(cup)
    beside[20:120, 470:590] = 255  # the table's corner
    assert not looks_inverted(beside, frame, segmenter)
    assert not looks_inverted(255 - beside, frame, segmenter)
    assert not looks_inverted(np.maximum(cup, beside), frame, segmenter)


def test_a_faint_mask_is_read_by_its_shape(segmenter: Segmenter) -> None:
    """A mask of glass, nowhere wholly white, is compared as one that is."""
    frame, mask = CASES["bottle on grey"]()
    assert looks_inverted(((255 - mask) * 0.4).astype(np.uint8), frame, segmenter)
    assert not looks_inverted((mask * 0.4).astype(np.uint8), frame, segmenter)


def test_the_network_is_asked_only_of_masks_that_surround_something() -> None:
    """A mask that leaves most of the picture's border free costs no look at the picture."""

    class Unasked(Segmenter):
        def __init__(self) -> None: ...

        def find(self, pixels: Array) -> Any:  # noqa: ARG002
            raise AssertionError("the network was asked")

    frame, mask = coffee()
    assert not looks_inverted(mask, frame, Unasked())
    with pytest.raises(AssertionError, match="asked"):
        looks_inverted(255 - mask, frame, Unasked())
