"""What a mask's pixels can mean, as it is said at the door."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from conftest import png
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from odd_files import tiff_file
from PIL import Image

from api_schemas.errors import MaskEmpty, MaskError, MaskFaint, MaskFull, MaskHasNoAlpha
from api_schemas.requests import MaskOptions
from service.intake import check_mask_pixels, check_product_mask_pixels
from worker.images.codec import decode_mask, decode_product_mask
from worker.images.mask import edit_alpha

Array = np.ndarray[Any, Any]
LIMIT = 10**6
SPOT = np.zeros((20, 30), bool)
SPOT[5:12, 8:20] = True


def marked(ground: Any, spot: Any) -> Array:
    """A mask of one spot, in grey or in colour."""
    mask: Array = np.where(SPOT if np.isscalar(spot) else SPOT[..., None], spot, ground).astype(np.uint8)
    return mask


def refusal(data: bytes, **options: Any) -> str:
    """The words in which a mask is refused."""
    with pytest.raises(MaskError) as caught:
        check_mask_pixels(data, MaskOptions.model_validate(options))
    return caught.value.detail


@pytest.mark.parametrize(
    ("mask", "options", "error"),
    [
        (np.zeros((4, 4), np.uint8), {}, MaskEmpty),
        (np.full((4, 4), 255, np.uint8), {}, MaskFull),
        (np.full((4, 4), 255, np.uint8), {"polarity": "black_edits"}, MaskEmpty),
        (np.zeros((4, 4), np.uint8), {"invert": True}, MaskFull),
        (np.full((4, 4), 10, np.uint8), {}, MaskEmpty),
        (np.full((4, 4, 4), 255, np.uint8), {"polarity": "alpha"}, MaskEmpty),
        (np.zeros((4, 4, 4), np.uint8), {"polarity": "alpha"}, MaskFull),
        (np.zeros((4, 4, 3), np.uint8), {"polarity": "alpha"}, MaskHasNoAlpha),
        (marked(0, 128), {}, MaskFaint),
        (marked(0, 128), {"polarity": "black_edits"}, MaskFull),
        (marked(255, 128), {"polarity": "black_edits"}, MaskFaint),
        (marked(30, 255), {}, MaskFull),
        (np.full((4, 4), 128, np.uint8), {}, MaskFaint),
        (np.dstack([marked(0, 255)] * 3 + [marked(255, 100)]), {"polarity": "alpha"}, MaskFaint),
    ],
)
def test_masks_that_cannot_mean_what_they_say_are_refused(mask: Array, options: dict[str, Any], error: type[Exception]) -> None:
    """Under every polarity a mask is refused that marks nothing, marks nothing wholly, keeps nothing, or has no alpha, each by its own code."""
    with pytest.raises(error):
        check_mask_pixels(png(mask), MaskOptions.model_validate(options))


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        (np.tile(np.arange(256, dtype=np.uint8), (4, 1)), {}),
        (np.tile(np.arange(16, 240, dtype=np.uint8), (4, 1)), {"polarity": "black_edits"}),
        (marked(12, 243), {}),
    ],
    ids=["gradient", "gradient of 16 to 239", "JPEG's black and white"],
)
def test_a_soft_mask_needs_one_pixel_of_each_kind(mask: Array, options: dict[str, Any]) -> None:
    """A mask may be as soft as it likes where one pixel is wholly edited and one is kept, to what JPEG makes of black and white."""
    assert check_mask_pixels(png(mask), MaskOptions.model_validate(options))


@pytest.mark.parametrize(
    ("colour", "luma"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((255, 0, 255), 105), ((255, 255, 0), 226)]
)
def test_a_mask_in_a_colour_is_told_how_light_it_is(colour: tuple[int, int, int], luma: int) -> None:
    """A mask drawn in a pure colour is refused with the luma that the colour counts as, and with its ground."""
    assert f"white (255) is edited, and the lightest pixel is {luma} of 255, the darkest 0; a colour" in refusal(
        png(marked((0, 0, 0), colour))
    )


@pytest.mark.parametrize("options", [{}, {"polarity": "black_edits"}, {"invert": True}])
def test_labels_of_0_and_1_are_told_their_range_and_nothing_that_would_not_help(options: dict[str, Any]) -> None:
    """A mask of zeros and ones is refused with its largest value; polarity and invert, which would not help, are not brought up."""
    said = refusal(png(marked(0, 1)), **options)
    assert ("is 1 of 255" if not options else "is 0 of 255, the lightest 1") in said
    assert "polarity" not in said
    assert "invert" not in said


def test_8_bits_in_a_file_of_16_are_told_in_the_files_own_numbers() -> None:
    """A mask of 0 and 255 that was saved with 16 bits is refused as 255 of 65535, not as black."""
    assert "the lightest pixel is 255 of 65535" in refusal(png(marked(0, 255).astype(np.uint16)))
    twelve = tiff_file((32, 24), [12], b"\x00\x70\x07" * (32 * 24 // 2))
    assert "the lightest pixel is 7 of 4095, the darkest 7" in refusal(twelve)


@pytest.mark.parametrize(
    ("rgba", "options", "hint"),
    [
        (np.dstack([marked(0, 0)] * 3 + [marked(0, 255)]), {}, "its alpha has both: see mask_options.polarity"),
        (np.dstack([marked(0, 255)] * 3 + [marked(255, 255)]), {"polarity": "alpha"}, "its brightness has both: see mask_options.polarity"),
        (np.dstack([marked(0, 0)] * 3 + [marked(255, 255)]), {}, None),
    ],
    ids=["strokes in alpha", "strokes in white", "neither"],
)
def test_a_polarity_is_named_where_it_would_help(rgba: Array, options: dict[str, Any], hint: str | None) -> None:
    """A mask that is empty as it is read is told of the other channel exactly where that one marks something."""
    said = refusal(png(rgba), **options)
    assert said.endswith(hint) if hint else "polarity" not in said


VALUES = st.one_of(st.sampled_from([0, 16, 17, 238, 239, 255]), st.integers(0, 255))


@settings(max_examples=300)
@given(
    values=st.lists(VALUES, min_size=4, max_size=4),
    mode=st.sampled_from(["L", "RGB", "RGBA", "LA", "I;16", "I;12", "I;32", "I;16 inverted"]),
    polarity=st.sampled_from(["white_edits", "black_edits", "alpha"]),
    invert=st.booleans(),
)
def test_the_service_and_the_worker_read_masks_alike(values: list[int], mode: str, polarity: str, invert: bool) -> None:  # noqa: FBT001
    """A mask is refused exactly when what the worker would read of it has no pixel that is wholly edited, or none that is kept."""
    grey = np.array(values, np.uint8).reshape(2, 2)
    data = _file(grey, mode)
    options = MaskOptions.model_validate({"polarity": polarity, "invert": invert})
    try:
        check_mask_pixels(data, options)
        verdict = "usable"
    except MaskError as error:
        verdict = error.code
    try:
        expected = _meaning(decode_mask(data, options, max_pixels=LIMIT))
    except MaskHasNoAlpha as error:
        expected = error.code
    assert verdict == expected


@settings(max_examples=300)
@given(
    values=st.lists(VALUES, min_size=4, max_size=4),
    alphas=st.lists(VALUES, min_size=4, max_size=4),
    mode=st.sampled_from(["L", "RGB", "RGBA", "LA", "I;16", "I;12", "I;32", "I;16 inverted"]),
)
def test_the_service_and_the_worker_read_masks_of_products_alike(values: list[int], alphas: list[int], mode: str) -> None:
    """A mask of a product is refused exactly when what the worker would read of it has no product, or no background, or in grey is faint."""
    grey, alpha = (np.array(each, np.uint8).reshape(2, 2) for each in (values, alphas))
    data = _file(grey, mode) if not mode.endswith("A") else png(np.dstack([grey] * (len(mode) - 1) + [alpha]))
    by_alpha = mode.endswith("A") and alpha.min() < 239
    try:
        check_product_mask_pixels(data)
        verdict = "usable"
    except MaskError as error:
        verdict = error.code
    read = decode_product_mask(data, max_pixels=LIMIT)
    if by_alpha:
        assert np.array_equal(read, alpha)
        expected = "mask_empty" if alpha.max() <= 16 else "mask_full" if alpha.min() > 16 else "usable"
    else:
        expected = _meaning(read)
    assert verdict == expected


@pytest.mark.parametrize(
    ("rgba", "said"),
    [
        (np.dstack([marked(0, 255)] * 3 + [marked(200, 200)]), "no pixel of the mask is background"),
        (np.dstack([marked(0, 255)] * 3 + [marked(0, 0)]), "the mask marks no product"),
    ],
    ids=["translucent", "clear"],
)
def test_a_mask_of_a_product_whose_alpha_means_nothing_is_told_of_its_brightness(rgba: Array, said: str) -> None:
    """What the alpha holds is told, and that the brightness would make a mask."""
    with pytest.raises(MaskError) as caught:
        check_product_mask_pixels(png(rgba))
    assert caught.value.detail.startswith(said)
    assert caught.value.detail.endswith("its brightness has both")


def _meaning(read: Array) -> str:
    if not read.any():
        return "mask_empty"
    if read.min() == 255:
        return "mask_full"
    if read.max() < 255:
        return "mask_faint"
    return "mask_full" if read.min() > 0 else "usable"


def _file(grey: Array, mode: str) -> bytes:
    """``grey (2, 2)`` in one of the ways that files have."""
    wide = grey.astype(np.uint16) * 257
    match mode:
        case "I;12":
            twelve = wide >> 4
            return tiff_file((2, 2), [12], b"".join((int(a) << 12 | int(b)).to_bytes(3, "big") for a, b in twelve))
        case "I;32":
            large = np.where(grey == 255, 2**32 - 1, wide.astype(np.uint32))  # beyond 16 bits all is white
            return tiff_file((2, 2), [32], large.astype("<u4").tobytes())
        case "I;16 inverted":
            return tiff_file((2, 2), [16], (65535 - wide).astype("<u2").tobytes(), photometric=0)
    variants = {
        "L": grey,
        "RGB": np.dstack([grey, grey, grey]),
        "RGBA": np.dstack([grey, grey, grey, grey]),
        "LA": np.dstack([grey, grey]),
        "I;16": wide,
    }
    return png(variants[mode])


@settings(max_examples=200)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    px=st.sampled_from([4, 8]),
    kept=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39), st.integers(1, 19), st.integers(1, 19)), min_size=1, max_size=3),
)
def test_room_is_told_as_it_is(size: tuple[int, int], px: int, kept: list[tuple[int, int, int, int]]) -> None:
    """A mask has room exactly if a kept pixel has none that is edited within that many rows and columns, and growing then leaves it."""
    mask = np.full(size, 255, np.uint8)
    for top, left, height, width in kept:
        mask[top : top + height, left : left + width] = 0
    assume(mask.any() and not mask.all())
    padded = np.pad(mask, px)
    free = [not padded[y : y + 2 * px + 1, x : x + 2 * px + 1].any() for y in range(size[0]) for x in range(size[1])]
    has_room = check_mask_pixels(png(mask), MaskOptions(), px)
    assert has_room == any(free)
    if has_room:
        assert not edit_alpha(mask, px, px).all()


def test_a_mask_that_is_no_picture_is_left_to_the_worker() -> None:
    """A mask that cannot be decoded passes the door: the job says what is wrong with it."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8)).save(buffer, "PNG")
    assert check_mask_pixels(buffer.getvalue()[:300], MaskOptions(), 8)
