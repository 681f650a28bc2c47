"""Engines compiled as a worker ships them, and the proof that what was timed ran compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.unet_call import blank_call


def compile_call(engine: DiffusionEngine) -> Callable[[int], object]:
    """Choose the attention kernels of ``engine`` as its warm-up does; return the call of so many rows by which it compiles.

    A whole warm-up would compile each number of rows, which takes minutes.
    """
    side = (engine.card.native_size or 512) // engine._encoder.factor  # noqa: SLF001 - a warm-up of one number of rows
    tokens = engine._parts.tokenizers[0].model_max_length  # noqa: SLF001
    if engine.tuning.attention == "fastest":
        engine._choose_attention(side, tokens)  # noqa: SLF001
    call = blank_call(engine._unet, side, side, tokens=tokens)  # noqa: SLF001

    def compiling(rows: int) -> object:
        with torch.inference_mode():
            return call(rows)

    return compiling


@contextmanager
def only_compiled(engine: DiffusionEngine) -> Iterator[None]:
    """Raise ``RuntimeError`` at the end, where a UNet call within it ran uncompiled, or none ran."""
    before = engine.calls.copy()
    yield
    compiled, uncompiled = (engine.calls[mode] - before[mode] for mode in ("compiled", "eager"))
    if uncompiled or not compiled:
        raise RuntimeError(f"{uncompiled} UNet calls ran uncompiled and {compiled} compiled where all were to be compiled")
