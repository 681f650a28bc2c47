"""One picture being denoised: all that differs between the rows of a UNet call."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engines.base import Slot
from worker.engines.diffusion.lora import LoraUses
from worker.engines.diffusion.prompts import PromptEmbeds
from worker.engines.diffusion.sampler_tables import SamplerTable


@dataclass(frozen=True, eq=False)
class Kept:
    """What a model without inpainting channels is shown where nothing is painted."""

    image_latents: torch.Tensor
    """``(1, 4, h, w)``; the picture."""
    noise: torch.Tensor
    """The same shape; what the latents began with."""


@dataclass(eq=False, kw_only=True)
class DiffusionSlot(Slot):
    """Tensors are on the engine's device; ``h``, ``w`` are the picture's sides over the VAE's factor."""

    loras: LoraUses
    """Active while it steps; part of the batch key."""
    table: SamplerTable
    generator: torch.Generator
    """Of the noise that the sampler draws in each step, if it does."""
    state: torch.Tensor
    """``float32 (WIDTH, 4, h, w)``; the sampler's, advanced by every step."""
    mask_latents: torch.Tensor
    """``(1, 1, h, w)``; 1 = paint, 0 = keep."""
    masked_image_latents: torch.Tensor | None
    """``(1, 4, h, w)``; the picture with what is painted blanked. ``None``: the UNet does not take it, and ``kept`` is shown in its place."""
    kept: Kept | None
    """``None`` for an inpainting model."""
    time_ids: torch.Tensor
    """``(1, 6)``; the size, the crop and the target's size, for a UNet that takes them."""
    prompt: PromptEmbeds
    negative_prompt: PromptEmbeds | None
    """``None``: no guidance, and one UNet row instead of two."""
    guidance_scale: float
    _drawn: torch.Tensor | None = None

    @property
    def latents(self) -> torch.Tensor:
        """``float32 (1, 4, h, w)``, unscaled. Of a model without inpainting channels what is kept is in them at the end alone."""
        numbers = self.table.ends[self.position].to(self.state.device)
        latents = torch.einsum("s,schw->chw", numbers, self.state)[None]
        if self.kept is None or self.position < self.steps:
            return latents
        return torch.where(self.mask_latents > 0, latents, self.kept.image_latents.float())

    def noise(self, dtype: torch.dtype) -> torch.Tensor:
        """``(4, h, w)`` on the CPU, drawn for the next step; the same one until that has been made."""
        if self._drawn is None:
            self._drawn = torch.randn(self.state.shape[1:], generator=self.generator, dtype=dtype)
        return self._drawn

    def advance(self, state: torch.Tensor) -> None:
        """The next step has been made, and led to ``state``."""
        self.state, self._drawn = state, None
        self.position += 1
