"""From a mask with default options to the output: where the mask is white, the new content is."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import pixels_of, png
from odd_files import saved
from PIL import Image
from planning import plan_of, rounds_of

from api_schemas.models import BACKDROP, EXEMPLAR, STUDIO, ModelCard, ModelInfo
from api_schemas.requests import JobRequest, job_request
from service.intake import check
from service.resolve import default_growth, resolve, ungrown

Array = np.ndarray[Any, Any]
MODELS = [ModelInfo(card=card, workers=("w",)) for card in (EXEMPLAR, BACKDROP, STUDIO)]
SIDE, RADIUS = 160, 40
GREY, RED, BLACK = (128, 128, 128), (200, 30, 30), (0, 0, 0)
REQUESTS: dict[str, dict[str, Any]] = {
    "inpaint": {"operation": "inpaint", "prompt": "grey wall", "model": "studio", "seed": 1},
    "erase": {"operation": "erase", "seed": 1},
    "replace_background": {"operation": "replace_background", "background": {"color": "#000000"}},
}


def disc(radius: float, soft: float = 0.0) -> Array:
    """How much of each pixel a disc covers, 0 to 1: a hard edge, or one that falls over ``soft`` pixels."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    distance = radius - np.hypot(rows, columns)
    cover: Array = np.clip(distance / soft + 0.5, 0, 1) if soft else (distance >= 0).astype(float)
    return cover


def scene(cover: Array) -> Array:
    """A red disc on a grey wall with a little grain."""
    grain = np.random.default_rng(0).integers(-3, 4, (SIDE, SIDE, 1))
    return np.rint(cover[..., None] * RED + (1 - cover[..., None]) * GREY + grain).clip(0, 255).astype(np.uint8)


def accepted(request: dict[str, Any], image: bytes, mask: bytes) -> tuple[JobRequest, ModelCard]:
    """The request as the service hands it to a worker."""
    asked = job_request.validate_python({"image": "image", "mask": "mask", **request})
    resolved, card = resolve(asked, MODELS)
    options = getattr(resolved, "mask_options", None)
    checked = check({"image": image, "mask": mask}, options, 10**6, default_growth(asked, resolved))
    return (resolved if checked.has_room else ungrown(asked, resolved)), card


def painted(request: dict[str, Any], image: bytes, mask: bytes, colour: tuple[int, int, int]) -> tuple[bytes, Array]:
    """The output of a painter that makes all that it is asked for plain, and the region that was edited."""
    resolved, card = accepted({**request, "output": {"layers": True}}, image, mask)
    spec, plan = plan_of(resolved.model_dump(mode="json"), card, {"image": image, "mask": mask})
    rounds = rounds_of(spec, plan)
    while rounds.requests:
        rounds.take([np.where(each.mask[..., None] > 0, colour, each.image).astype(np.uint8) for each in rounds.requests])
    (rendered,) = rounds.rendered
    return rendered.data, pixels_of(rendered.layers["mask"])


@pytest.mark.parametrize(("operation", "kept_beyond"), [("inpaint", 4), ("erase", 8)])
def test_nothing_of_what_lies_under_white_is_left(operation: str, kept_beyond: int) -> None:
    """A red disc under a mask of exactly its shape is gone, its soft rim too, and what lies further out than the growth is the photo's own."""
    image = scene(disc(RADIUS, soft=2))
    mask = np.uint8(255) * (disc(RADIUS) > 0)
    data, edited = painted(REQUESTS[operation], png(image), png(mask.astype(np.uint8)), GREY)
    output = pixels_of(data).astype(int)
    assert (edited[mask == 255] == 255).all()
    assert np.abs(output[mask == 255] - GREY).max() <= 6
    assert (output[..., 0] - output[..., 1]).max() <= 20
    far = cv2.distanceTransform(255 - mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > kept_beyond
    assert np.array_equal(edited == 0, far)
    assert np.array_equal(output[far], image[far])


def test_a_mask_of_ones_own_leaves_no_rim_of_the_old_background() -> None:
    """Behind a product with a hard mask, every white pixel of the mask has the new background to the level, and every black one the product."""
    cover = disc(RADIUS)
    image = np.where(cover[..., None] > 0, RED, (255, 255, 255)).astype(np.uint8)
    mask = np.where(cover > 0, 0, 255).astype(np.uint8)
    data, _ = painted(REQUESTS["replace_background"], png(image), png(mask), BLACK)
    output = pixels_of(data)
    assert (output[mask == 255] == BLACK).all()
    assert (output[mask == 0] == RED).all()


def test_a_matte_keeps_its_soft_edge() -> None:
    """Behind a product with a soft matte, the edge is the matte's own: the product's colour by its strength over the new background."""
    cover = disc(RADIUS, soft=12)
    image = np.rint(cover[..., None] * RED + (1 - cover[..., None]) * 255).astype(np.uint8)
    mask = np.rint((1 - cover) * 255).astype(np.uint8)
    data, edited = painted(REQUESTS["replace_background"], png(image), png(mask), BLACK)
    output, middle = pixels_of(data).astype(float), (mask > 16) & (mask < 239)
    assert np.array_equal(edited[middle], mask[middle])
    assert np.abs(output[middle] - cover[middle][:, None] * RED).mean() < 6
    assert (output[mask >= 239] == BLACK).all()


@pytest.mark.parametrize("operation", ["inpaint", "erase"])
def test_a_default_never_takes_the_last_that_is_kept(operation: str) -> None:
    """A mask that keeps less than the default growth would leave is taken as it is drawn; the recipe says so."""
    image, mask = scene(disc(RADIUS)), np.full((SIDE, SIDE), 255, np.uint8)
    mask[70:77, 60:] = 0
    resolved, _ = accepted(REQUESTS[operation], png(image), png(mask))
    options = getattr(resolved, "mask_options")  # noqa: B009 -- not all requests have them
    assert (options.grow_px, options.feather_px) == (0, 0)
    data, edited = painted(REQUESTS[operation], png(image), png(mask), GREY)
    assert np.array_equal(edited, mask)
    assert np.array_equal(pixels_of(data)[mask == 0], image[mask == 0])


@pytest.mark.parametrize("operation", ["inpaint", "erase", "replace_background"])
@pytest.mark.parametrize("wanted", ["png", "jpeg"])
def test_every_operation_keeps_the_resolution(operation: str, wanted: str) -> None:
    """A photo of 300 by 150 dots per inch comes back with them, and so do its layers."""
    image = saved(scene(disc(RADIUS)), dpi=(300, 150))
    mask = png(np.where(disc(RADIUS) > 0, 255, 0).astype(np.uint8))
    resolved, card = accepted({**REQUESTS[operation], "output": {"layers": True, "format": wanted}}, image, mask)
    spec, plan = plan_of(resolved.model_dump(mode="json"), card, {"image": image, "mask": mask})
    rounds = rounds_of(spec, plan)
    rounds.take([each.image for each in rounds.requests])
    (rendered,) = rounds.rendered
    for data in (rendered.data, *rendered.layers.values()):
        assert Image.open(io.BytesIO(data)).info["dpi"] == pytest.approx((300, 150), abs=0.02)
