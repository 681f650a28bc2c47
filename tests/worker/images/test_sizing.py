"""The output at the size that was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_files import DISPLAY_P3

from api_schemas.requests import OutputOptions
from worker.images.codec import Frame, into_space
from worker.images.sizing import landing_of, sized

sides = st.integers(1, 60)


def options(**fields: Any) -> OutputOptions:
    return OutputOptions.model_validate(fields)


@settings(max_examples=80, deadline=None)
@given(have=st.tuples(sides, sides), want=st.tuples(sides, sides), fit=st.sampled_from(["contain", "cover", None]))
def test_both_sides_are_what_was_asked_for(have: tuple[int, int], want: tuple[int, int], fit: str | None) -> None:
    """Of every size, with every fit, the output has exactly the width and height, and its middle is the picture's."""
    frame = Frame(np.full((have[1], have[0], 3), 200, np.uint8))
    out = sized(frame, options(width=want[0], height=want[1], **({"fit": fit} if fit else {})))
    assert (out.width, out.height) == want
    if fit == "cover":
        assert out.alpha is None
    if out.alpha is not None:
        assert set(np.unique(out.alpha)) == {0, 255}  # what is padded ends on whole pixels
        rows, columns = np.nonzero(out.alpha)
        assert 0 <= out.height - 1 - rows.max() - rows.min() <= 1
        assert 0 <= out.width - 1 - columns.max() - columns.min() <= 1
        assert rows.min() == 0 or columns.min() == 0
    assert (out.pixels[(out.alpha if out.alpha is not None else np.full(want[::-1], 255)) > 0] == 200).all()


@pytest.mark.parametrize(("asked", "size"), [({"width": 30}, (30, 20)), ({"height": 50}, (75, 50)), ({"width": 1}, (1, 1)), ({}, (60, 40))])
def test_one_side_keeps_the_ratio(asked: dict[str, int], size: tuple[int, int]) -> None:
    """The other follows, to the nearest pixel and at least one; with neither the picture is left alone."""
    frame = Frame(np.full((40, 60, 3), 9, np.uint8))
    out = sized(frame, options(**asked))
    assert (out.width, out.height) == size
    assert (out is frame) == (size == (60, 40))


def test_cover_cuts_both_sides_alike() -> None:
    """Of a wide picture the middle is left."""
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 255
    assert (sized(Frame(picture), options(width=20, height=20, fit="cover")).pixels == 255).all()
    odd = sized(Frame(np.repeat(picture[:, :59], 1, 1)), options(width=20, height=20, fit="cover"))
    assert set(np.unique(odd.pixels)) <= {0, 255}  # at its own size it is not moved by half a pixel


def test_padding_has_its_colour_in_the_picture_s_space() -> None:
    """Beside an opaque picture it is opaque; in a photo in Display P3 it is the colour in those numbers; clear pixels of the picture stay clear."""
    frame = Frame(np.full((10, 20, 3), 50, np.uint8))
    out = sized(frame, options(width=20, height=20, pad_color="#3060c0"))
    assert out.alpha is None
    assert (out.pixels[:5] == (0x30, 0x60, 0xC0)).all()
    assert (out.pixels[5:15] == 50).all()
    wide = sized(Frame(frame.pixels, None, DISPLAY_P3), options(width=20, height=20, pad_color="#3060c0"))
    back = into_space(np.ascontiguousarray(wide.pixels[:1]), DISPLAY_P3, None)
    assert np.abs(back.astype(int) - (0x30, 0x60, 0xC0)).max() <= 2
    assert wide.icc == DISPLAY_P3
    clear = sized(Frame(frame.pixels, np.zeros((10, 20), np.uint8)), options(width=40, height=40, pad_color="#ffffff"))
    assert clear.alpha is not None
    assert (clear.alpha[:10] == 255).all()
    assert (clear.alpha[10:30] == 0).all()


def test_the_scale_is_told() -> None:
    """Of a picture that is contained, or covers, it is that of the picture, not of the canvas."""
    assert landing_of(options(width=1000, height=1000), (2000, 500)).scale == pytest.approx(0.5)
    assert landing_of(options(width=1000, height=1000, fit="cover"), (2000, 500)).scale == pytest.approx(2)
    assert landing_of(options(height=250), (2000, 500)).scale == pytest.approx(0.5)
    assert landing_of(options(), (2000, 500)).is_exact
