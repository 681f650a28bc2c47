"""Sizes that follow from a request and from the size of its photo."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from api_schemas.errors import ImageTooLarge
from api_schemas.requests import Canvas, OutputOptions, job_request
from api_schemas.sizes import canvas_size, output_size, painted_size
from service.intake import Header
from service.resolve import check_output_size

sides = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("ratio", "size", "canvas"),
    [
        ("1:1", (1600, 1000), (1600, 1600)),
        ("4:5", (1600, 1000), (1600, 2000)),
        ("4:5", (1000, 1600), (1280, 1600)),
        ("16:9", (1000, 1000), (1778, 1000)),
        ("1.91:1", (1000, 1000), (1910, 1000)),
        ("1:1", (640, 640), (640, 640)),
        ("3:2", (1001, 667), (1001, 667)),
    ],
)
def test_a_ratio_is_the_smallest_canvas_that_holds_the_picture(ratio: str, size: tuple[int, int], canvas: tuple[int, int]) -> None:
    """One side is the picture's; the other makes the ratio, to the nearest pixel."""
    assert canvas_size(Canvas(ratio=ratio), size) == canvas


@settings(max_examples=200)
@given(width=sides, height=sides, across=st.integers(1, 100), down=st.integers(1, 100))
def test_no_ratio_cuts_the_picture(width: int, height: int, across: int, down: int) -> None:
    """For every picture and ratio the canvas holds the picture, one side of it is the picture's, and the ratio is as near as a pixel lets it be."""
    wide, high = canvas_size(Canvas(ratio=f"{across}:{down}"), (width, height))
    assert wide >= width
    assert high >= height
    assert wide == width or high == height
    if (wide, high) != (width, height):
        ratio = Fraction(across, down)
        assert abs(wide - high * ratio) <= max(Fraction(1, 2), ratio / 2)


@pytest.mark.parametrize("ratio", ["0:1", "4", "4:", "4/5", "101:1", "100.5:1", "4:5 ", "04:5", "1.2345:1", "-1:2", "1e1:2", "４:5"])
def test_what_is_no_ratio_is_refused(ratio: str) -> None:
    """Two numbers of 1 to 100 with at most three decimals, and a colon."""
    with pytest.raises(ValidationError):
        Canvas.model_validate({"ratio": ratio})


def test_an_output_keeps_its_ratio_by_one_side() -> None:
    """The other is rounded to the nearest pixel, and is at least one."""
    assert output_size(OutputOptions(width=100), (3000, 2000)) == (100, 67)
    assert output_size(OutputOptions(height=100), (3000, 2000)) == (150, 100)
    assert output_size(OutputOptions(width=1), (3000, 20)) == (1, 1)
    assert output_size(OutputOptions(width=7, height=9), (3000, 20)) == (7, 9)
    assert output_size(OutputOptions(), (3000, 20)) == (3000, 20)


def test_an_extension_is_painted_at_its_own_size() -> None:
    """By pixels, by sides or by ratio; other edits are painted at the photo's size, whatever the output's."""
    base = {"operation": "outpaint", "image": "a"}
    sizes = [
        painted_size(job_request.validate_python({**base, **how}), (100, 80))
        for how in ({"expand": {"left": 5, "top": 7}}, {"canvas": {"width": 300, "height": 90}}, {"canvas": {"ratio": "1:2"}})
    ]
    assert sizes == [(105, 87), (300, 90), (100, 200)]
    erase = {"operation": "erase", "image": "a", "mask": "b", "output": {"width": 10}}
    assert painted_size(job_request.validate_python(erase), (100, 80)) == (100, 80)


def test_a_side_of_an_extension_is_bounded() -> None:
    """One pixel more than what is drawn with can count is refused, by the field that makes it so."""
    request = job_request.validate_python({"operation": "outpaint", "image": "i", "expand": {"left": 6}})
    check_output_size(request, Header("png", 32_760, 10), 80_000_000)
    with pytest.raises(ImageTooLarge) as caught:
        check_output_size(request, Header("png", 32_761, 10), 80_000_000)
    assert caught.value.field == "expand"
