"""Matting: the edge follows the picture, not the coarse map."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from worker.images.blend import composite, estimate_foreground
from worker.images.matting import redraw_edge
from worker.images.subject import Segmenter

MODEL = Path(sys.prefix) / "share/outfill/models/u2netp.onnx"


def _texture(rng: np.random.Generator, colour: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    grain = cv2.GaussianBlur(rng.normal(size=(480, 640, 3)), (0, 0), 2)
    return np.asarray(np.clip(np.array(colour) + 15 * grain / grain.std(), 0, 255), dtype=np.uint8)


def _gear() -> npt.NDArray[np.uint8]:
    """A disc with teeth finer than the network sees, its edge 2 to 3 pixels soft."""
    y, x = np.mgrid[:480, :640].astype(np.float32)
    radius = 150 + 8 * np.sin(30 * np.arctan2(y - 240, x - 320))
    sharp = np.clip(radius - np.hypot(x - 320, y - 240) + 0.5, 0, 1)
    return np.asarray(np.rint(cv2.GaussianBlur(sharp, (0, 0), 1) * 255), dtype=np.uint8)


def test_cut_out_has_no_halo() -> None:
    """A toothed thing with a known soft edge, put before black and before white, is within 3 levels of the truth around its edge."""
    rng = np.random.default_rng(0)
    truth, subject, wall = _gear(), _texture(rng, (200, 90, 40)), _texture(rng, (70, 110, 140))
    photo = composite(wall, subject, truth)
    matte = Segmenter(MODEL).matte(photo)
    cut = estimate_foreground(photo, matte)
    edge = np.asarray(cv2.dilate(((truth > 2) & (truth < 253)).astype(np.uint8), np.ones((21, 21), np.uint8))) > 0
    for level in (0, 255):
        ground = np.full_like(photo, level)
        error = composite(ground, cut, matte)[edge].astype(int) - composite(ground, subject, truth)[edge]
        assert np.abs(error).mean() < 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 53)])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_any_size_and_no_edge(shape: tuple[int, int], level: float) -> None:
    """A matte without both sides gives no colours to learn, and keeps its opaque and clear pixels, at any size."""
    matte = np.full(shape, level, np.float32)
    colours = np.random.default_rng(0).random((*shape, 3), np.float32)
    assert np.array_equal(redraw_edge(colours, matte, 2), matte)


def test_alike_sides_keep_the_matte() -> None:
    """Where subject and background have the same colour, the cut stays where the matte had it."""
    matte = np.zeros((80, 80), np.float32)
    matte[:, 40:] = 1
    out = redraw_edge(np.full((80, 80, 3), 0.5, np.float32), matte, 3)
    assert np.array_equal(out, matte)
