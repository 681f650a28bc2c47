"""What the tests of the diffusion engine paint, and how they compare it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from api_schemas.requests import Scheduler
from worker.engines.base import Engine, PaintRequest, Sampling, begin
from worker.engines.diffusion.engine import DiffusionEngine

SIZE = 64
SAMPLING = Sampling("a red sofa", "people", steps=4, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DPMPP_2M_KARRAS)


def request_for(sampling: Sampling = SAMPLING, *, seed: int = 0, height: int = SIZE, width: int = SIZE) -> PaintRequest:
    """A random picture of large blocks, and a mask of whole 8-pixel blocks, on which the stock pipelines' mask and ours agree."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    blocks = (random.random((height // 8, width // 8)) < 0.4).astype(np.uint8) * 255
    return PaintRequest(image=coarse.repeat(8, 0).repeat(8, 1), mask=blocks.repeat(8, 0).repeat(8, 1), seed=seed, recipe=sampling)


def begun(engine: Engine, request: PaintRequest) -> Any:
    """The slot of ``request``, painted by ``engine`` alone."""
    (slot,) = begin(engine, [request])
    return slot


def result_of(engine: DiffusionEngine, request: PaintRequest) -> torch.Tensor:
    """The final latents of ``request``, painted alone."""
    slot = begun(engine, request)
    while not slot.done:
        engine.step([slot])
    assert slot.error is None
    latents: torch.Tensor = slot.latents
    return latents


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
