"""Laying blocks of a texture beside it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.images.quilt import Texture, quilt

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


def laid(texture: Float, shade: Float, usable: Bool, beyond: Float) -> tuple[Float, Bool]:
    """``beyond`` wholly laid with blocks."""
    count = beyond.shape[1]
    empty = np.zeros((len(texture), count, 3), np.float32)
    return quilt(empty, np.zeros(empty.shape[:2], np.bool_), beyond, Texture(texture, shade, usable), 32, 1)


def test_blocks_show_only_what_is_usable() -> None:
    """Every pixel is laid, with values of the usable part alone."""
    texture = np.random.default_rng(0).normal(0, 10, (128, 200, 3)).astype(np.float32)
    usable = np.ones((128, 200), np.bool_)
    texture[30:90, 60:180], usable[30:90, 60:180] = 500, False
    flat = np.zeros_like(texture)
    out, there = laid(texture, flat, usable, flat[:, :100])
    assert there.all()
    assert np.abs(out).max() < 100


def test_the_texture_stays_as_lively() -> None:
    """What is laid has the deviation of the texture, to within a tenth."""
    texture = np.random.default_rng(0).normal(0, 10, (128, 200, 3)).astype(np.float32)
    flat = np.zeros_like(texture)
    out, _ = laid(texture, flat, np.ones((128, 200), np.bool_), flat[:, :100])
    assert abs(float(out.std()) / 10 - 1) < 0.1


def test_blocks_come_from_where_the_shade_is_the_same() -> None:
    """Of two textures on two shades, the one is laid whose shade is that beyond."""
    texture, shade = np.random.default_rng(0).normal(0, 1, (128, 128, 3)).astype(np.float32), np.zeros((128, 128, 3), np.float32)
    texture[:, :64] *= 20
    shade[:, :64] = 100
    calm = laid(texture, shade, np.ones((128, 128), np.bool_), np.zeros((128, 100, 3), np.float32))[0]
    assert float(calm[:, :64].std()) < 5


def test_where_no_block_fits_nothing_is_laid() -> None:
    """Without a usable block the columns stay as they are, and are not said to be there."""
    texture = np.random.default_rng(0).normal(0, 10, (64, 64, 3)).astype(np.float32)
    usable = np.zeros((64, 64), np.bool_)
    usable[::9, ::9] = True
    flat = np.zeros_like(texture)
    out, there = laid(texture, flat, usable, flat[:, :40])
    assert not there.any()
    assert not out.any()
