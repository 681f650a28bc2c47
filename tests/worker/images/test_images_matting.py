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
_MAP = 320
"""Side, pixels, of the maps that a small network makes."""
_SIDE = 640

Pixels = npt.NDArray[np.uint8]
Matte = npt.NDArray[np.float32]


def _texture(rng: np.random.Generator, colour: tuple[int, int, int], contrast: float = 15, size: float = 2) -> Pixels:
    grain = cv2.GaussianBlur(rng.normal(size=(_SIDE, _SIDE, 3)), (0, 0), size)
    return np.asarray(np.clip(np.array(colour) + contrast * grain / grain.std(), 0, 255), dtype=np.uint8)


def _gear() -> Pixels:
    """A disc with teeth finer than the network sees, its edge 2 to 3 pixels soft."""
    y, x = np.mgrid[:_SIDE, :_SIDE].astype(np.float32)
    radius = 190 + 8 * np.sin(30 * np.arctan2(y - _SIDE / 2, x - _SIDE / 2))
    sharp = np.clip(radius - np.hypot(x - _SIDE / 2, y - _SIDE / 2) + 0.5, 0, 1)
    return np.asarray(np.rint(cv2.GaussianBlur(sharp, (0, 0), 1) * 255), dtype=np.uint8)


def _disc() -> Pixels:
    disc = np.zeros((4 * _SIDE, 4 * _SIDE), np.uint8)
    cv2.ellipse(disc, (2 * _SIDE, 2 * _SIDE), (900, 620), -10, 0, 360, 255, -1)
    return np.asarray(cv2.GaussianBlur(cv2.resize(disc, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), (0, 0), 0.7), dtype=np.uint8)


def _brush() -> Pixels:
    """A disc with straight bristles of 2 pixels, further apart than wide."""
    brush = np.zeros((4 * _SIDE, 4 * _SIDE), np.uint8)
    cv2.circle(brush, (2 * _SIDE, 2 * _SIDE), 600, 255, -1)
    for angle in np.linspace(0, 2 * np.pi, 200, endpoint=False):
        tip = np.rint(2 * _SIDE + 720 * np.array([np.cos(angle), np.sin(angle)])).astype(int)
        cv2.line(brush, (2 * _SIDE, 2 * _SIDE), (int(tip[0]), int(tip[1])), 255, 8)
    return np.asarray(cv2.resize(brush, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _coarse(truth: Pixels, off: float = 0.6) -> Matte:
    """What a network of 320 pixels says of ``truth``: blurred, and displaced by ``off`` of its pixels (rms)."""
    rng = np.random.default_rng(1)
    small = cv2.resize(truth.astype(np.float32) / 255, (_MAP, _MAP), interpolation=cv2.INTER_AREA)
    drift = cv2.GaussianBlur(rng.normal(size=(_MAP, _MAP, 2)), (0, 0), 6)
    drift *= off / drift.std()
    y, x = np.mgrid[:_MAP, :_MAP].astype(np.float32)
    moved = cv2.remap(small, (x + drift[..., 0]).astype(np.float32), (y + drift[..., 1]).astype(np.float32), cv2.INTER_LINEAR)
    return np.asarray(np.clip(cv2.GaussianBlur(moved, (0, 0), 1), 0, 1), np.float32)


def _redrawn(photo: Pixels, truth: Pixels) -> Matte:
    return redraw_edge(photo, _coarse(truth), _SIDE / _MAP)


def _off(matte: Matte, truth: Pixels) -> float:
    """Mean difference of opacities, 0..1, within 6 pixels of where the truth is soft."""
    around = np.asarray(cv2.dilate(((truth > 2) & (truth < 253)).astype(np.uint8), np.ones((13, 13), np.uint8))) > 0
    return float(np.abs(matte - truth / 255)[around].mean())


def _distances(matte: Matte, truth: Pixels) -> npt.NDArray[np.float64]:
    """How far, in pixels and from which side, each point of the contour of ``matte`` is from that of ``truth``; four to a pixel, in order."""
    inside = cv2.resize(truth, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) > 127
    away = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5) - cv2.distanceTransform(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5
    )
    found = (cv2.resize(matte, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(found, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    longest = max(contours, key=len)[:, 0]
    return np.asarray(away[longest[:, 1], longest[:, 0]] / 4, np.float64)


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


def test_an_edge_that_colours_show_is_found_to_a_part_of_a_pixel() -> None:
    """From a map of half the size that is off by more than a pixel, a plain disc's contour is found to 0.3 pixels, as sharp as it is."""
    rng = np.random.default_rng(0)
    truth = _disc()
    photo = composite(_texture(rng, (210, 210, 205), 3), _texture(rng, (150, 60, 40), 6), truth)
    matte = _redrawn(photo, truth)
    assert np.sqrt((_distances(matte, truth) ** 2).mean()) < 0.3
    assert _off(matte, truth) < 0.02
    soft = [int(np.count_nonzero((plane > 0.1) & (plane < 0.9))) for plane in (matte, truth / 255)]
    assert soft[0] < 1.3 * soft[1]


def test_sides_of_one_tone_are_not_bitten() -> None:
    """A brown thing on a mottled brown ground has no bites and no ragged edge: nowhere half a pixel further off than the map, nearer on the mean, and smooth."""
    rng = np.random.default_rng(0)
    truth = _disc()
    photo = composite(_texture(rng, (128, 87, 36), 20, 2.5), _texture(rng, (122, 82, 43), 5, 1), truth)
    distances = _distances(_redrawn(photo, truth), truth)
    given = _distances(np.asarray(cv2.resize(_coarse(truth), (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR), np.float32), truth)
    assert np.abs(distances).max() < np.abs(given).max() + 0.5
    assert np.abs(distances).mean() < 0.75 * np.abs(given).mean()
    trend = np.convolve(np.pad(distances, 20, mode="wrap"), np.ones(41) / 41, "valid")
    assert (distances - trend).std() < 0.4


def test_bristles_finer_than_the_map_are_found() -> None:
    """Bristles of 2 pixels, which a map of half the size shows as a haze, are drawn one by one: the haze's error falls to a third."""
    rng = np.random.default_rng(0)
    truth = _brush()
    photo = composite(_texture(rng, (190, 195, 185), 6), _texture(rng, (70, 45, 30), 6), truth)
    haze = np.asarray(cv2.resize(_coarse(truth), (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR), np.float32)
    assert _off(_redrawn(photo, truth), truth) < _off(haze, truth) / 3


def test_glass_stays_clear() -> None:
    """A thing that the map says is half clear all over, of a colour of its own, stays so, and its ground does not become opaque."""
    rng = np.random.default_rng(0)
    truth = (_disc().astype(np.float32) * 0.5).astype(np.uint8)
    photo = composite(_texture(rng, (60, 60, 70), 10), _texture(rng, (180, 220, 210), 5), truth)
    matte = _redrawn(photo, truth)
    inside = cv2.erode(truth, np.ones((31, 31), np.uint8)) > 120
    assert abs(float(matte[inside].mean()) - 0.5) < 0.05
    assert matte[truth == 0].mean() < 0.01


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 53)])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_any_size_and_no_edge(shape: tuple[int, int], level: float) -> None:
    """A matte without both sides gives no colours to learn, and keeps its opacity, at any size."""
    matte = np.full(shape, level, np.float32)
    colours = np.random.default_rng(0).random((*shape, 3), np.float32)
    assert np.allclose(redraw_edge(colours, matte, 2), matte, atol=1e-4)


def test_alike_sides_keep_the_matte() -> None:
    """Where subject and background have the same colour, the cut stays where the matte had it: a straight edge, 2 pixels soft at most."""
    matte = np.zeros((80, 80), np.float32)
    matte[:, 40:] = 1
    out = redraw_edge(np.full((80, 80, 3), 0.5, np.float32), matte, 3)
    assert np.abs(out - matte)[:, [*range(38), *range(42, 80)]].max() < 0.05
    assert np.array_equal(out > 0.5, matte > 0.5)


def test_bytes_are_colours() -> None:
    """``uint8`` colours and the same as ``float32`` of 0..1 give the same edge; the map may be smaller than the photo."""
    truth = _gear()
    rng = np.random.default_rng(0)
    photo = composite(_texture(rng, (70, 110, 140)), _texture(rng, (200, 90, 40)), truth)
    one, other = (redraw_edge(colours, _coarse(truth), _SIDE / _MAP) for colours in (photo, photo.astype(np.float32) / np.float32(255)))
    assert np.abs(one - other).mean() < 1e-3
    assert one.shape == photo.shape[:2]
