"""Pixels to latents and back. Formulas as in diffusers' ``VaeImageProcessor`` and ``StableDiffusion(XL)InpaintPipeline``."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from worker.engines.base import Mask, Pixels

Posterior = tuple[torch.Tensor, torch.Tensor | None]
"""Mean and standard deviation, ``(1, C, h, w)`` each, unscaled; without a deviation nothing is drawn."""


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


class ImageEncoder:
    """The VAE's encoder, which remembers the posteriors of the last pictures: the variations of one job are encoded once."""

    def __init__(self, vae: Any, *, dtype: torch.dtype, capacity: int = 8) -> None:
        """Answer in ``dtype``, which is the UNet's. A posterior of 1024×1024 pixels takes 512 kB in fp32."""
        self._vae = vae
        self._dtype = dtype
        self._capacity = capacity
        self._posteriors: OrderedDict[tuple[torch.Size, bytes], Posterior] = OrderedDict()
        self._scaling_factor: float = vae.config.scaling_factor
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        """Pixels to a side of a latent."""

    def sample(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """``float32 (1, 3, H, W)``, on the CPU, to scaled latents ``(1, C, h, w)``, drawn from the posterior with ``generator``.

        ``AutoencoderTiny`` has no posterior: nothing is drawn, as in the stock pipeline.
        """
        mean, std = self._posterior(image)
        return self._scaled(mean if std is None else mean + std * self._noise(mean.shape, generator))

    def mean(self, image: torch.Tensor) -> torch.Tensor:
        """The scaled latents that are most likely; draws nothing."""
        return self._scaled(self._posterior(image)[0])

    def skip(self, shape: torch.Size, generator: torch.Generator) -> None:
        """Draw what ``sample`` would for latents of ``shape``, without encoding."""
        if not self._draws_nothing:
            self._noise(shape, generator)

    @property
    def _draws_nothing(self) -> bool:
        return not hasattr(self._vae, "quant_conv")  # only AutoencoderKL has a posterior

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        """In the VAE's precision, which need not be the UNet's: other precisions draw other numbers."""
        drawn: torch.Tensor = randn_tensor(shape, generator=generator, device=self._vae.device, dtype=self._vae.dtype)
        return drawn

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self._scaling_factor * latents.to(self._dtype)
        return scaled

    def _posterior(self, image: torch.Tensor) -> Posterior:
        key = (image.shape, hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest())
        posterior = self._posteriors.get(key)
        if posterior is None:
            posterior = self._posteriors[key] = self._encode(image)
            if len(self._posteriors) > self._capacity:
                self._posteriors.popitem(last=False)
        self._posteriors.move_to_end(key)
        return posterior

    def _encode(self, image: torch.Tensor) -> Posterior:
        encoded = self._vae.encode(image.to(self._vae.device, self._vae.dtype))
        if self._draws_nothing:
            return encoded.latents, None
        return encoded.latent_dist.mean, encoded.latent_dist.std


def decode_latents(vae: Any, latents: torch.Tensor) -> tuple[Pixels, list[bool]]:
    """Latents ``(N, C, h, w)`` to ``uint8 (N, H, W, 3)``, and of each row whether its pixels were all finite."""
    decoded: torch.Tensor = vae.decode(_unscaled(vae, latents.to(vae.dtype)), return_dict=False)[0].float()
    finite: list[bool] = torch.isfinite(decoded).flatten(1).all(dim=1).tolist()
    scaled = (decoded.nan_to_num() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy(), finite


def _unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The stock pipeline reads ``latents_mean`` and ``latents_std`` here alone, not where it encodes."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return latents / float(vae.config.scaling_factor)
    per_channel = [latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std)]
    return latents * per_channel[1] / float(vae.config.scaling_factor) + per_channel[0]
