"""Second copies of a product are found, and where there is none, none is."""

from __future__ import annotations

from importlib.resources import files

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from worker.images.copies import second_copy

Array = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def scene() -> tuple[Array, Bool, Bool]:
    """A canvas of gravel with a cup on its right, where the product is, and what of it is new: the left 400 columns."""
    ground = np.asarray(Image.open(str(files("skimage.data") / "gravel.png")).convert("RGB"))
    canvas = np.tile(ground, (1, 2, 1))[:400, :900].copy()
    cup = np.asarray(Image.open(str(files("skimage.data") / "coffee.png")).convert("RGB"))[20:380, 180:440]
    product, new = np.zeros((400, 900), np.bool_), np.zeros((400, 900), np.bool_)
    round_cup = cv2.ellipse(np.zeros((360, 260), np.uint8), (130, 180), (125, 170), 0, 0, 360, 255, -1) > 0
    product[20:380, 520:780] = round_cup
    canvas[product] = cup[round_cup]
    new[:, :400] = True
    return canvas, product, new


def planted(canvas: Array, product: Bool, at: int, size: float, flip: int | None) -> Array:
    """``canvas`` with the product at column ``at`` too, cut by the left border where that is less than 0."""
    thing, mask = canvas[20:380, 520:780], product[20:380, 520:780].astype(np.uint8)
    if flip is not None:
        thing, mask = np.flip(thing, flip), np.flip(mask, flip)
    shape = round(260 * size), round(360 * size)
    thing = np.asarray(cv2.resize(thing, shape, interpolation=cv2.INTER_AREA), np.uint8)
    mask = np.asarray(cv2.resize(mask, shape, interpolation=cv2.INTER_NEAREST), np.uint8)
    cut = max(0, -at)
    thing, mask = thing[: 400 - 20, cut:], mask[: 400 - 20, cut:]
    out = canvas.copy()
    view = out[20 : 20 + mask.shape[0], max(0, at) : max(0, at) + mask.shape[1]]
    view[mask[: view.shape[0]] > 0] = thing[: view.shape[0]][mask[: view.shape[0]] > 0]
    return out


def test_ground_is_no_copy(scene: tuple[Array, Bool, Bool]) -> None:
    """New ground like the photo's own is no second copy."""
    assert second_copy(*scene) == 0


@pytest.mark.parametrize(
    ("at", "size", "flip"), [(60, 1.0, None), (60, 1.0, 1), (60, 1.0, 0), (60, 0.88, 1), (60, 1.05, None), (-120, 1.0, 1)]
)
def test_a_planted_copy_is_found(scene: tuple[Array, Bool, Bool], at: int, size: float, flip: int | None) -> None:
    """A second cup is found shifted, mirrored either way, smaller, larger, and with half of it cut off."""
    canvas, product, new = scene
    assert second_copy(planted(canvas, product, at, size, flip), product, new) > 0.7


@pytest.mark.parametrize(("at", "size", "flip"), [(-95, 1.0, None), (-95, 1.0, 1), (-80, 0.91, None), (-100, 1.15, 1)])
def test_a_copy_in_a_narrow_strip_is_found(scene: tuple[Array, Bool, Bool], at: int, size: float, flip: int | None) -> None:
    """A second cup is found though the frame and the photo leave a strip through its middle, less than a third of its width, in sizes between those that are tried."""
    canvas, product, new = scene
    narrow = new.copy()
    narrow[:, 75:] = False
    seen = np.where(narrow[..., None], planted(canvas, product, at, size, flip), canvas)
    assert second_copy(seen, product, narrow) > 0.7


def test_a_plain_product_is_known_by_its_outline() -> None:
    """A product of one colour is found again by its outline on the ground, though its inside is plain."""
    canvas = np.full((200, 400, 3), 215, np.uint8)
    product, new = np.zeros((200, 400), np.bool_), np.zeros((200, 400), np.bool_)
    product[60:150, 250:350], new[:, :180] = True, True
    canvas[product] = (40, 90, 160)
    assert second_copy(canvas, product, new) == 0
    canvas[60:150, 40:140] = (40, 90, 160)
    assert second_copy(canvas, product, new) > 0.9


def test_nothing_to_look_for() -> None:
    """Without a product, and without anything new, there is no second copy."""
    canvas, none, some = np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.bool_), np.ones((40, 40), np.bool_)
    assert second_copy(canvas, none, some) == 0
    assert second_copy(canvas, some, none) == 0
