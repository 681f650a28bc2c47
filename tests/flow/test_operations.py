"""The five operations, through HTTP, on real photos of different size and mode."""

from __future__ import annotations

import io
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from conftest import Api, box_mask, pixels_of
from PIL import Image

PHOTOS = ("coffee", "rocket_rgba", "clock_grey")
Array = np.ndarray[Any, Any]


@pytest.fixture(params=PHOTOS)
def photo(request: pytest.FixtureRequest) -> bytes:
    """Each photo in turn."""
    data: bytes = request.getfixturevalue(request.param)
    return data


def as_mode(data: bytes, mode: str) -> Array:
    """The pixels of a file converted to ``mode``."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert(mode))


def assert_kept(photo: bytes, output: bytes, edited: Array) -> None:
    """Outside ``edited`` the output is the input, in all its channels."""
    mode = "RGBA" if pixels_of(photo).ndim == 3 and pixels_of(photo).shape[2] == 4 else "RGB"
    before, after = as_mode(photo, mode), as_mode(output, mode)
    assert before.shape == after.shape
    np.testing.assert_array_equal(before[~edited], after[~edited])
    assert (before[edited] != after[edited]).any()


def test_inpaint_paints_the_mask_and_four_pixels_around_it_and_nowhere_else(api: Api, photo: bytes) -> None:
    """Inpaint without options changes pixels up to four from the mask and keeps every other pixel, at the input's size."""
    mask, marked = box_mask(photo)
    edited = cv2.distanceTransform((~marked).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= 4
    job = api.run(
        {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "a red ball", "steps": 3}, photo=photo, mask=mask
    )
    assert job["model"] == "tiny"
    assert_kept(photo, api.output(job), edited)


def test_erase_grows_the_mask_and_keeps_the_rest(api: Api, photo: bytes) -> None:
    """Erase without options edits the mask and eight pixels around it, and nothing else."""
    mask, _ = box_mask(photo)
    request = {"operation": "erase", "image": "file:photo", "mask": "file:mask", "output": {"layers": True}}
    job = api.run(request, photo=photo, mask=mask)
    edited = pixels_of(httpx.get(job["outputs"][0]["layers"]["mask"]).content) > 0
    rows, columns = np.nonzero(edited)
    given_rows, given_columns = np.nonzero(pixels_of(mask))
    assert (rows.min(), columns.min()) == (given_rows.min() - 8, given_columns.min() - 8)
    assert_kept(photo, api.output(job), edited)


def test_outpaint_keeps_the_photo_in_its_place(api: Api, photo: bytes) -> None:
    """Outpaint returns a larger picture in which the input stands unchanged where it was put."""
    job = api.run({"operation": "outpaint", "image": "file:photo", "expand": {"left": 33, "top": 20}}, photo=photo)
    before, after = pixels_of(photo), as_mode(api.output(job), "RGBA")
    height, width = before.shape[:2]
    assert after.shape[:2] == (height + 20, width + 33)
    np.testing.assert_array_equal(after[20:, 33:], as_mode(photo, "RGBA"))


@pytest.mark.parametrize("background", [{"color": "#2060c0"}, {"gradient": {"start": "#ffffff", "end": "#808080"}}])
def test_replace_background_finds_and_keeps_the_product(api: Api, photo: bytes, background: dict[str, Any]) -> None:
    """Without a mask the product is found; its solid pixels are the input's, and the corners are the new background."""
    request = {"operation": "replace_background", "image": "file:photo", "background": background, "output": {"layers": True}}
    job = api.run(request, photo=photo)
    report = job["outputs"][0]["report"]
    assert report["preserved"]["changed_pixels"] == 0
    assert report["preserved"]["kept_pixels"] > 0.02 * pixels_of(photo).shape[0] * pixels_of(photo).shape[1]
    output = as_mode(api.output(job), "RGBA")
    assert output[..., 3].min() == 255
    if "color" in background:
        assert tuple(output[0, 0]) == (0x20, 0x60, 0xC0, 255)


def test_replace_background_from_a_prompt_paints_behind_a_given_mask(api: Api, coffee: bytes) -> None:
    """With a mask and a prompt, what the mask keeps is kept exactly."""
    mask, edited = box_mask(coffee)
    request = {
        "operation": "replace_background",
        "image": "file:photo",
        "mask": "file:mask",
        "mask_options": {"polarity": "black_edits"},
        "prompt": "a beach",
        "steps": 2,
        "scheduler": "ddim",
    }
    job = api.run(request, photo=coffee, mask=mask)
    assert_kept(coffee, api.output(job), ~edited)
    assert job["recipe"]["scheduler"] == "ddim"


def test_replace_background_with_a_picture_shows_the_picture(api: Api, coffee: bytes, clock_grey: bytes) -> None:
    """A given picture is scaled to cover the frame behind the product."""
    request = {"operation": "replace_background", "image": "file:photo", "background": {"image": "file:behind"}}
    job = api.run(request, photo=coffee, behind=clock_grey)
    output = as_mode(api.output(job), "RGB")
    assert (np.ptp(output[:20, :20].astype(int), axis=-1) == 0).all()  # the corner shows the grey photo


def test_remove_background_returns_the_cut_out_and_its_mask(api: Api, photo: bytes) -> None:
    """The cut-out has the input's size and colours where it is solid, and nothing where it is not."""
    job = api.run({"operation": "remove_background", "image": "file:photo"}, photo=photo)
    cut_out = pixels_of(api.output(job))
    assert cut_out.shape == (*pixels_of(photo).shape[:2], 4)
    solid = cut_out[..., 3] == 255
    assert solid.any()
    assert (cut_out[..., 3] == 0).any()
    np.testing.assert_array_equal(cut_out[solid][:, :3], as_mode(photo, "RGB")[solid])
    mask = pixels_of(httpx.get(job["outputs"][0]["layers"]["product_mask"]).content)
    np.testing.assert_array_equal(mask, cut_out[..., 3])
    assert set(job["outputs"][0]["layers"]) == {"product_mask", "mask"}


def test_several_images_differ_and_repeat_by_seed(api: Api, coffee: bytes) -> None:
    """Variations have consecutive seeds, differ from one another, and each comes again from its own seed."""
    mask, _ = box_mask(coffee)
    request = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "x", "steps": 2, "seed": 41}
    three = api.run({**request, "num_images": 3}, photo=coffee, mask=mask)
    assert [output["seed"] for output in three["outputs"]] == [41, 42, 43]
    pictures = [pixels_of(api.output(three, number)) for number in range(3)]
    assert (pictures[0] != pictures[1]).any()
    again = api.run({**request, "seed": 42}, photo=coffee, mask=mask)
    assert np.abs(pixels_of(api.output(again)).astype(int) - pictures[1]).max() <= 1  # a batch of another size may round differently


def test_layers_composite_to_the_output(api: Api, coffee: bytes) -> None:
    """The fill over the input, blended by its alpha, is the output exactly."""
    mask, _ = box_mask(coffee)
    job = api.run({"operation": "erase", "image": "file:photo", "mask": "file:mask", "output": {"layers": True}}, photo=coffee, mask=mask)
    fill = pixels_of(httpx.get(job["outputs"][0]["layers"]["fill"]).content).astype(np.uint32)
    alpha = fill[..., 3:]
    over = (fill[..., :3] * alpha + pixels_of(coffee).astype(np.uint32) * (255 - alpha) + 127) // 255
    np.testing.assert_array_equal(over.astype(np.uint8), pixels_of(api.output(job)))


@pytest.mark.parametrize(("image_format", "magic"), [("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF"), ("png", b"\x89PNG")])
def test_outputs_come_in_the_format_asked_for(api: Api, coffee: bytes, image_format: str, magic: bytes) -> None:
    """The bytes are of the format that was asked for, and as many and with the hash that the job says."""
    import hashlib

    request = {
        "operation": "replace_background",
        "image": "file:photo",
        "background": {"color": "#ffffff"},
        "output": {"format": image_format},
    }
    job = api.run(request, photo=coffee)
    data, output = api.output(job), job["outputs"][0]
    assert data.startswith(magic)
    assert (output["bytes"], output["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_studio_paints_a_backdrop_of_the_colour_that_was_asked_for(api: Api, coffee: bytes) -> None:
    """The model that ships with Outfill replaces a background by prompt at the photo's own size: in that colour, the cup as it was."""
    request = {
        "operation": "replace_background",
        "image": "file:photo",
        "model": "studio",
        "prompt": "blue paper backdrop",
        "seed": 1,
        "output": {"layers": True},
    }
    job = api.run(request, photo=coffee)
    edited = pixels_of(httpx.get(job["outputs"][0]["layers"]["mask"]).content) > 0
    output = api.output(job)
    assert_kept(coffee, output, edited)
    backdrop = as_mode(output, "RGB")[:40].astype(float).mean(axis=(0, 1))
    assert backdrop.argmax() == 2
    assert backdrop[2] > 1.3 * backdrop[:2].mean()
