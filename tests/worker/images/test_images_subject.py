"""Finding the product, with the real network."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from api_schemas.errors import SubjectNotFound
from worker.images.codec import Frame, decode
from worker.images.mask import coverage
from worker.images.subject import Segmenter, subject_of

MODEL = Path(sys.prefix) / "share/outfill/models/u2netp.onnx"
PHOTOS = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(MODEL)


def coffee() -> Frame:
    return decode((PHOTOS / "coffee.png").read_bytes(), max_pixels=10**6)


def test_cup_and_saucer(segmenter: Segmenter) -> None:
    """In the coffee photo the cup with its saucer is the product, whole, with a soft edge a few pixels wide."""
    matte = segmenter.matte(coffee().pixels)
    # The saucer, measured by hand, is this ellipse; the cup rises out of its top.
    saucer = np.zeros((400, 600), np.uint8)
    cv2.ellipse(saucer, (278, 230), (190, 145), 0, 0, 360, 255, -1)
    assert (matte[saucer > 0] == 255).mean() > 0.99
    assert matte[60, 290] == 255
    assert (matte[:, :60] == 0).all()
    assert (matte[:, 500:] == 0).all()
    assert 0.40 < coverage(matte) < 0.55
    assert ((matte > 0) & (matte < 255)).mean() < 0.05


def test_small_subject(segmenter: Segmenter) -> None:
    """A small subject, the rocket, is found in one narrow piece."""
    frame = decode((PHOTOS / "rocket.jpg").read_bytes(), max_pixels=10**6)
    matte = segmenter.matte(frame.pixels)
    rows, columns = np.nonzero(matte > 127)
    assert 300 < columns.min() < columns.max() < 350
    assert rows.max() - rows.min() > 200


def test_large_picture(segmenter: Segmenter) -> None:
    """The matte of an enlarged photo is the enlarged matte."""
    pixels = coffee().pixels
    large = cv2.resize(pixels, (2400, 1600), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    back = cv2.resize(segmenter.matte(large), (600, 400), interpolation=cv2.INTER_AREA)
    assert ((back > 127) != (segmenter.matte(pixels) > 127)).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (64, 64), (301, 203)])
def test_nothing_stands_out(segmenter: Segmenter, size: tuple[int, int]) -> None:
    """A picture of one colour has no subject, at any size."""
    for level in (0, 128, 255):
        with pytest.raises(SubjectNotFound):
            segmenter.matte(np.full((*size, 3), level, np.uint8))


@pytest.mark.parametrize("photo", ["grass.png", "gravel.png"])
def test_texture_has_no_subject(segmenter: Segmenter, photo: str) -> None:
    """A plain texture has no subject."""
    frame = decode((PHOTOS / photo).read_bytes(), max_pixels=10**6)
    with pytest.raises(SubjectNotFound):
        segmenter.matte(frame.pixels)


def test_used_alpha_is_the_matte(segmenter: Segmenter) -> None:
    """A cut-out's own alpha is its matte, exactly; an alpha that is opaque throughout is not asked."""
    frame = coffee()
    alpha = np.zeros((400, 600), np.uint8)
    alpha[100:200, 100:300] = 255
    assert np.array_equal(subject_of(Frame(frame.pixels, alpha), segmenter), alpha)
    opaque = Frame(frame.pixels, np.full((400, 600), 255, np.uint8))
    assert np.array_equal(subject_of(opaque, segmenter), segmenter.matte(frame.pixels))
