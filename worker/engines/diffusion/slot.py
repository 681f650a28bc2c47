"""One picture being denoised: all that differs between the rows of a UNet call."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engines.base import Slot
from worker.engines.diffusion.samplers import Sampler


@dataclass(eq=False, kw_only=True)
class DiffusionSlot(Slot):
    """Tensors are on the engine's device, in its dtype; ``h``, ``w`` are the picture's sides over the VAE's factor."""

    sampler: Sampler
    extra_step_kwargs: dict[str, torch.Generator]
    """Holds the slot's generator if the sampler draws noise in ``step``."""
    timesteps: torch.Tensor
    """``(steps,)``, on the CPU."""
    latents: torch.Tensor
    """``(1, 4, h, w)``; advanced by every step."""
    mask_latents: torch.Tensor
    """``(1, 1, h, w)``; 1 = paint, 0 = keep."""
    masked_image_latents: torch.Tensor
    """``(1, 4, h, w)``; the picture with what is painted blanked."""
    prompt_embeds: torch.Tensor
    """``(1, tokens, channels)``."""
    negative_prompt_embeds: torch.Tensor | None
    """The same shape; ``None``: no guidance, and one UNet row instead of two."""
    guidance_scale: float

    @property
    def timestep(self) -> torch.Tensor:
        """The timestep of the next step, ``()``."""
        return self.timesteps[self.position]
