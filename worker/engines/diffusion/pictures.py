"""Pixels to latents and back. Formulas as in diffusers' ``VaeImageProcessor`` and ``StableDiffusionInpaintPipeline``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worker.engines.base import Mask, Pixels


def image_tensor(image: Pixels) -> torch.Tensor:
    """``uint8 (H, W, 3)`` to ``float32 (1, 3, H, W)`` in [-1, 1]."""
    scaled = torch.from_numpy(image.astype(np.float32) / 255.0)
    return 2.0 * scaled.permute(2, 0, 1)[None] - 1.0


def mask_tensor(mask: Mask) -> torch.Tensor:
    """``uint8 (H, W)`` to ``float32 (1, 1, H, W)``: 1 from half upwards, else 0. The model knows no half-painted pixels."""
    return torch.from_numpy(mask.astype(np.float32) / 255.0 >= 0.5).float()[None, None]


def mask_latents(mask: torch.Tensor, factor: int) -> torch.Tensor:
    """``(1, 1, H, W)`` to ``(1, 1, H/factor, W/factor)``: 1 where any pixel of the block is painted.

    The stock pipeline takes one pixel of each block (nearest neighbour), by which a stroke thinner than ``factor`` can vanish. For masks
    that are made of whole blocks the two agree.
    """
    return torch.nn.functional.max_pool2d(mask, kernel_size=factor)


def encode_image(vae: Any, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """``(N, 3, H, W)`` to scaled latents ``(N, C, h, w)``, drawn from the VAE's posterior with ``generator``."""
    latents: torch.Tensor = vae.encode(image.to(vae.device, vae.dtype)).latent_dist.sample(generator)
    scaling_factor: float = vae.config.scaling_factor
    return scaling_factor * latents


def decode_latents(vae: Any, latents: torch.Tensor) -> tuple[Pixels, list[bool]]:
    """Latents ``(N, C, h, w)`` to ``uint8 (N, H, W, 3)``, and of each row whether its pixels were all finite."""
    decoded: torch.Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0].float()
    finite: list[bool] = torch.isfinite(decoded).flatten(1).all(dim=1).tolist()
    scaled = (decoded.nan_to_num() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy(), finite
