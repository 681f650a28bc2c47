"""Laying out what is seen beyond a border."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from worker.engines.layout import Ground, _Expansion, copied, lay_out

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


def ground(pixels: Float, usable: Bool, count: int, *, is_side: bool = True) -> Ground:
    """``pixels`` to be continued by so many columns, with nothing to reflect and black where the border is drawn out."""
    black = np.zeros((len(pixels), count, 3), np.float32)
    return Ground(pixels, usable, black, np.zeros(black.shape[:2], np.bool_), black, is_side)


def bars(columns: int, period: int) -> Float:
    """Upright bars, 24 rows high."""
    wave = 128 + 100 * np.sign(np.sin(2 * np.pi * (np.arange(columns) + 0.5) / period))
    return np.broadcast_to(wave[None, :, None], (24, columns, 3)).astype(np.float32)


def test_a_pattern_goes_on_in_step() -> None:
    """Bars go on at their distance: what is laid out is what the pattern has there."""
    whole = bars(101, 6)
    layout = lay_out(ground(whole[:, 41:], np.ones((24, 60), np.bool_), 41), seed=1)
    assert np.abs(layout.shown - whole[:, :41]).mean() < 10


def test_nothing_hidden_is_shown() -> None:
    """Cells that are not usable are nowhere copied, however well they would match."""
    pixels = np.random.default_rng(2).normal(100, 4, (40, 80, 3)).astype(np.float32)
    usable = np.ones((40, 80), np.bool_)
    pixels[10:30, 20:60], usable[10:30, 20:60] = 250, False
    assert lay_out(ground(pixels, usable, 40), seed=1).shown.max() < 150


@pytest.mark.parametrize("is_side", [True, False])
def test_what_lies_at_another_height_stays_there(*, is_side: bool) -> None:
    """Beside a picture of two halves each goes on with its own; beyond the one at its border only that goes on."""
    pixels = np.random.default_rng(4).normal(60, 4, (40, 60, 3)).astype(np.float32)
    far = (slice(0, 20), slice(None)) if is_side else (slice(None), slice(20, 60))
    pixels[far] += 120
    out = lay_out(ground(pixels, np.ones((40, 60), np.bool_), 30, is_side=is_side), seed=1).shown.mean(axis=2)
    light = np.zeros((40, 30), np.bool_)
    light[:20] = is_side
    assert np.mean((out > 120) == light) > 0.97


def test_with_nothing_to_copy_the_border_is_drawn_out() -> None:
    """Where no cell is usable all that is left is what is drawn out."""
    pixels = np.zeros((20, 20, 3), np.float32)
    layout = lay_out(ground(pixels, np.zeros((20, 20), np.bool_), 10), seed=1)
    assert (layout.labels == layout.drawn).all()


def test_a_copy_comes_from_where_its_shift_says() -> None:
    """A cell shows the one so many rows down and columns to the right; beyond the picture it shows nothing usable."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    shown, there = copied(values, np.ones((3, 4), np.bool_), 2, (1, 3))
    assert there.tolist() == [[True, True], [True, True], [False, False]]
    assert shown[:2, :, 0].tolist() == [[5, 6], [9, 10]]


def energy(expansion: _Expansion, labels: npt.NDArray[np.int64]) -> float:
    """What ``labels`` cost."""
    return expansion._energy(labels, expansion._seams(labels))


@pytest.mark.parametrize("seed", range(8))
def test_an_expansion_is_near_the_best(seed: int) -> None:
    """On a grid small enough to try all labellings, the one found costs at most twice as much as the best: the bound of alpha expansion."""
    random = np.random.default_rng(seed)
    expansion = _Expansion(random.normal(0, 20, (3, 2, 3, 5)).astype(np.float32), random.uniform(0, 40, (3, 2, 3)).astype(np.float32))
    best = min(energy(expansion, np.array(labels)) for labels in itertools.product(range(3), repeat=6))
    assert energy(expansion, expansion.run(random).reshape(-1)) <= 2 * best + 1
