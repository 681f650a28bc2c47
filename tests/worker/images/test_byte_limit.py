"""A file of at most so many bytes."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api_schemas.errors import OutputTooLarge
from api_schemas.requests import OutputOptions
from worker.images.byte_limit import LEAST_QUALITY, encode_within
from worker.images.codec import Frame, encode

NOISE = Frame(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))


def size_at(quality: int, image_format: str) -> int:
    return len(encode(NOISE, OutputOptions.model_validate({"format": image_format, "quality": quality})))


def within(**fields: Any) -> tuple[bytes, int | None]:
    return encode_within(NOISE, OutputOptions.model_validate(fields))


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
@pytest.mark.parametrize("goal", [50, 51, 67, 89])
def test_the_quality_is_lowered_as_little_as_is_needed(image_format: str, goal: int) -> None:
    """The file fits, is of the quality that it is said to be, and one more would not fit."""
    limit = size_at(goal, image_format)
    data, quality = within(format=image_format, quality=90, max_bytes=limit)
    assert quality is not None
    assert len(data) <= limit < size_at(quality + 1, image_format)
    assert data == encode(NOISE, OutputOptions.model_validate({"format": image_format, "quality": quality}))


@pytest.mark.parametrize(
    ("fields", "quality"), [({"format": "jpeg"}, 92), ({"format": "jpeg", "quality": 30}, 30), ({"format": "webp", "quality": 70}, 70)]
)
def test_what_fits_is_left_as_it_was_asked_for(fields: dict[str, Any], quality: int) -> None:
    """A limit that is not met changes nothing."""
    data, used = within(**fields, max_bytes=10**7)
    assert used == quality
    assert data == encode(NOISE, OutputOptions.model_validate(fields))


def test_lossless_files_have_no_quality() -> None:
    """None is told for PNG and for a WebP without one."""
    assert within(format="png")[1] is None
    assert within(format="webp")[1] is None


@pytest.mark.parametrize(("fields", "told"), [({"quality": 92}, LEAST_QUALITY), ({"quality": 20}, 20)])
def test_below_the_floor_the_job_fails_by_name(fields: dict[str, int], told: int) -> None:
    """It says how many bytes there would be at the lowest quality that is tried, which is never above that asked for."""
    with pytest.raises(OutputTooLarge, match=f"quality {told}, .* has {size_at(told, 'jpeg')} bytes, more than 5000") as caught:
        within(format="jpeg", max_bytes=5000, **fields)
    assert (caught.value.field, caught.value.code) == ("output.max_bytes", "output_too_large")


@pytest.mark.parametrize("quality", range(LEAST_QUALITY, 101))
def test_white_stays_white_at_every_quality_that_is_tried(quality: int) -> None:
    """Pure white is 255 in a JPEG of each quality down to the floor."""
    white = Frame(np.full((16, 16, 3), 255, np.uint8))
    data = encode(white, OutputOptions.model_validate({"format": "jpeg", "quality": quality}))
    assert np.asarray(Image.open(BytesIO(data))).min() == 255
