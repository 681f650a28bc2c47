"""A device to test on, and the pipelines that are tried on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from painting import request_for

from api_schemas.requests import Scheduler
from scripts import tiny_pipeline, true_size
from scripts.stock import load_stock
from worker.engines.base import PaintRequest, Sampling
from worker.engines.device import read_device
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.residency import model_facts
from worker.tuning import DeviceFacts, Tuning, Wishes, choose

GIB = 2**30
SAMPLING = Sampling("a red sofa", "people", steps=3, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DDIM)


@dataclass(frozen=True)
class Rig:
    """A device, and the pipelines that are tried on it."""

    device: str
    built: Callable[[str], Path]

    @property
    def on_gpu(self) -> bool:
        """Whether weights are of true size and memory is counted."""
        return self.device == "cuda"

    @property
    def wishes(self) -> Wishes:
        """The precision that the bounds of the tests are for; all else is left to the tuning."""
        return Wishes(dtype="float16" if self.on_gpu else "float32")

    def request(self, family: str, *, seed: int = 7, **changed: Any) -> PaintRequest:
        """A picture of the native size."""
        size = true_size.NATIVE_SIZES[f"{family}-inpaint"] if self.on_gpu else tiny_pipeline.NATIVE_SIZE
        return request_for(replace(SAMPLING, **changed), seed=seed, height=size, width=size)

    def tuning(self, family: str, wishes: Wishes | None = None, facts: DeviceFacts | None = None) -> Tuning:
        """What the worker would choose."""
        return choose(facts or read_device(self.device, wishes or self.wishes), model_facts(self.built(family)), wishes or self.wishes)

    def engine(self, family: str, tuning: Tuning | None = None) -> DiffusionEngine:
        """An engine tuned so."""
        directory = self.built(family)
        # inductor is for GPUs here: on a CPU the graphs are run as they are, which is quick.
        backend = "inductor" if self.on_gpu else "eager"
        tuning = tuning or self.tuning(family)
        return DiffusionEngine.load(directory, card_for(directory, family), device=self.device, tuning=tuning, backend=backend)

    def stock(self, family: str) -> Any:
        """The stock pipeline at the same precision."""
        dtype = getattr(torch, self.tuning(family).dtype)
        return load_stock(self.built(family), device=self.device, dtype=dtype)
