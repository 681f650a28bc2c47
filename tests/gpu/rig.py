"""A device to test on, and the pipelines that are tried on it."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from painting import request_for

from api_schemas.requests import Scheduler
from scripts import tiny_pipeline, true_size
from scripts.gpu_facts.stage import facts_of
from scripts.stock import stock_of
from worker.engines.base import PaintRequest, Sampling
from worker.engines.device import read_device
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.parts import Parts, load_parts
from worker.tuning import DeviceFacts, ModelFacts, Tuning, Wishes, choose

GIB = 2**30
SAMPLING = Sampling("a red sofa", "people", steps=3, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DDIM)


class Rig:
    """A device, and the pipelines that are tried on it: drawn once, on the device; every engine is given a copy of its own."""

    def __init__(self, device: str, folder: Path) -> None:
        """``folder`` is for what is small: tiny pipelines, and LoRAs."""
        self.device = device
        self.on_gpu = device == "cuda"
        """True where weights are of true size and memory is counted."""
        self._folder = folder
        self._drawn = {family: self._draw(family) for family in ("sd15", "sdxl")}
        if self.on_gpu:
            torch.cuda.empty_cache()
        self.held_bytes = torch.cuda.memory_reserved() if self.on_gpu else 0
        """Taken of the device by the pipelines that are copied: no test's."""

    @property
    def wishes(self) -> Wishes:
        """The precision that the bounds of the tests are for; all else is left to the tuning."""
        return Wishes(dtype="float16" if self.on_gpu else "float32")

    def size(self, family: str) -> int:
        """The native side of a picture in pixels."""
        return true_size.NATIVE_SIZES[f"{family}-inpaint"] if self.on_gpu else tiny_pipeline.NATIVE_SIZE

    def request(self, family: str, *, seed: int = 7, **changed: Any) -> PaintRequest:
        """A picture of the native size."""
        size = self.size(family)
        return request_for(replace(SAMPLING, **changed), seed=seed, height=size, width=size)

    def facts(self, family: str) -> ModelFacts:
        """The weight of the pipeline."""
        return facts_of(self._drawn[family].parts, (self.size(family) // 8) ** 2)

    def tuning(self, family: str, wishes: Wishes | None = None, facts: DeviceFacts | None = None) -> Tuning:
        """The choice of the worker."""
        wishes = wishes or self.wishes
        return choose(facts or read_device(self.device, wishes), self.facts(family), wishes)

    def engine(self, family: str, tuning: Tuning | None = None) -> DiffusionEngine:
        """An engine tuned so."""
        tuning = tuning or self.tuning(family)
        return DiffusionEngine(
            self._drawn[family].card,
            # What may be offloaded comes from main memory.
            copy_of(self._drawn[family].parts, self.device if tuning.offload == "none" else "cpu"),
            lora_files=lambda name: self._lora(family, name),
            tuning=tuning,
            device=self.device,
            # inductor is for GPUs here: on a CPU the graphs are run as they are, which is quick.
            backend="inductor" if self.on_gpu else "eager",
        )

    def stock(self, family: str) -> Any:
        """The stock pipeline at the same precision."""
        return stock_of(copy_of(self._drawn[family].parts, self.device))

    def write_lora(self, family: str, name: str) -> None:
        """A random LoRA that the engines of ``family`` find."""
        parts = self._drawn[family].parts
        tiny_pipeline.save_lora({"unet": parts.unet, **parts.text_encoders}, self._lora(family, name))

    def _lora(self, family: str, name: str) -> Path:
        return self._folder / f"{family}-{name}.safetensors"

    def _draw(self, family: str) -> true_size.Drawn:
        kind = f"{family}-inpaint"
        if self.on_gpu:
            return true_size.draw(kind, self.device)
        directory = self._folder / kind
        tiny_pipeline.build(directory, kind=kind)
        return true_size.Drawn(load_parts(directory, dtype="float32", vae_dtype="float32"), card_for(directory, kind))


def copy_of(parts: Parts, device: str) -> Parts:
    """The same weights again, on ``device``: tests arrange, wrap and move what they are given."""
    models = {"unet": parts.unet, "vae": parts.vae, **parts.text_encoders}
    memo: dict[int, Any] = {}
    for tensor in chain.from_iterable((*model.parameters(), *model.buffers()) for model in models.values()):
        moved = tensor.data.to(device, copy=True)
        memo[id(tensor)] = (
            torch.nn.Parameter(moved, requires_grad=tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else moved
        )
    copies = {name: copy.deepcopy(model, memo) for name, model in models.items()}
    return replace(parts, unet=copies.pop("unet"), vae=copies.pop("vae"), text_encoders=copies)
