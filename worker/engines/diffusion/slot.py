"""One picture being denoised: all that differs between the rows of a UNet call."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engines.base import Slot
from worker.engines.diffusion.lora import LoraUses
from worker.engines.diffusion.prompts import PromptEmbeds
from worker.engines.diffusion.samplers import Sampler


@dataclass(frozen=True, eq=False)
class Kept:
    """What a model without inpainting channels blends in where nothing is painted."""

    image_latents: torch.Tensor
    """``(1, 4, h, w)``; the picture."""
    noise: torch.Tensor
    """The same shape; what the latents began with."""


@dataclass(eq=False, kw_only=True)
class DiffusionSlot(Slot):
    """Tensors are on the engine's device, in its dtype; ``h``, ``w`` are the picture's sides over the VAE's factor."""

    loras: LoraUses
    """Active while it steps; part of the batch key."""
    sampler: Sampler
    extra_step_kwargs: dict[str, torch.Generator]
    """Holds the slot's generator if the sampler draws noise in ``step``."""
    timesteps: torch.Tensor
    """``(steps,)``, on the CPU."""
    latents: torch.Tensor
    """``(1, 4, h, w)``; advanced by every step."""
    mask_latents: torch.Tensor
    """``(1, 1, h, w)``; 1 = paint, 0 = keep."""
    masked_image_latents: torch.Tensor | None
    """``(1, 4, h, w)``; the picture with what is painted blanked. ``None``: the UNet does not take it, and ``kept`` is blended in."""
    kept: Kept | None
    """``None`` for an inpainting model."""
    prompt: PromptEmbeds
    negative_prompt: PromptEmbeds | None
    """``None``: no guidance, and one UNet row instead of two."""
    guidance_scale: float

    @property
    def timestep(self) -> torch.Tensor:
        """The timestep of the next step, ``()``."""
        return self.timesteps[self.position]

    def unet_input(self, scaled: torch.Tensor) -> torch.Tensor:
        """What the UNet sees of the latents that the sampler has ``scaled``: ``(1, 4 or 9, h, w)``."""
        if self.masked_image_latents is None:
            return scaled
        return torch.cat([scaled, self.mask_latents, self.masked_image_latents], dim=1)

    def advance(self, noise_pred: torch.Tensor) -> None:
        """One step of the sampler; then, for a model without inpainting channels, what is kept comes back at the next step's noise."""
        latents = self.sampler.step(noise_pred, self.timestep, self.latents, return_dict=False, **self.extra_step_kwargs)[0]
        if self.kept is not None:
            original = self.kept.image_latents
            if self.position + 1 < self.steps:
                original = self.sampler.add_noise(original, self.kept.noise, self.timesteps[self.position + 1 : self.position + 2])
            latents = (1 - self.mask_latents) * original + self.mask_latents * latents
        self.latents = latents
        self.position += 1
