"""Pixels to latents and back. Formulas as in diffusers' ``VaeImageProcessor`` and ``StableDiffusion(XL)InpaintPipeline``."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch

from worker.engines.base import Mask, Pixels

Posterior = tuple[torch.Tensor, torch.Tensor | None]
"""Mean and standard deviation, ``(1, C, h, w)`` each, unscaled; without a deviation nothing is drawn."""


def is_painted(mask: Mask) -> npt.NDArray[np.bool_]:
    """``uint8 (H, W)`` to where half or more is painted. The model knows no half-painted pixels."""
    return mask >= 128


def mask_latents(painted: npt.NDArray[np.bool_], factor: int) -> torch.Tensor:
    """``(H, W)`` to ``float32 (1, 1, H/factor, W/factor)``: 1 where any pixel of the block is painted.

    The stock pipeline takes one pixel of each block (nearest neighbour), by which a stroke thinner than ``factor`` can vanish. For masks
    that are made of whole blocks the two agree.
    """
    height, width = painted.shape
    blocks = painted.reshape(height // factor, factor, width // factor, factor).any(axis=(1, 3))
    return torch.from_numpy(blocks.astype(np.float32))[None, None]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that a VAE may be shown."""

    key: bytes
    """Equal for equal pixels."""
    pixels: torch.Tensor
    """``float32 (1, 3, H, W)`` in [-1, 1], on the CPU."""


class Pictures:
    """Makes pictures for a VAE; equal ones that are in use, as those of one job's variations, are one. Thread-safe.

    It makes no use of torch's threads, which belong to the engine.
    """

    def __init__(self) -> None:
        self._in_use: WeakValueDictionary[bytes, Picture] = WeakValueDictionary()

    def of(self, image: Pixels, painted: npt.NDArray[np.bool_] | None = None) -> Picture:
        """``image (H, W, 3)``, grey where it is ``painted (H, W)``."""
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        if painted is not None:
            digest.update(np.packbits(painted).data)
        key = digest.digest()
        picture = self._in_use.get(key)
        if picture is None:
            scaled = 2.0 * (image.astype(np.float32) / 255.0) - 1.0
            if painted is not None:
                scaled[painted] = 0.0
            picture = self._in_use[key] = Picture(key, torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))[None])
        return picture


class ImageEncoder:
    """The VAE's encoder, which remembers the posteriors of the last pictures: the variations of one job are encoded once."""

    def __init__(self, vae: Any, *, dtype: torch.dtype, capacity: int = 8) -> None:
        """Answer in ``dtype``, which is the UNet's. A posterior of 1024×1024 pixels takes 512 kB in fp32."""
        self._vae = vae
        self._dtype = dtype
        self._capacity = capacity
        self._posteriors: OrderedDict[bytes, Posterior] = OrderedDict()
        self._scaling_factor: float = vae.config.scaling_factor
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        """Pixels to a side of a latent."""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor | None:
        """The noise by which latents of ``shape (1, C, h, w)`` are drawn from their posterior; on the CPU, and in the VAE's precision, which
        need not be the UNet's: other precisions draw other numbers.

        ``AutoencoderTiny`` has no posterior: nothing is drawn, as in the stock pipeline.
        """
        return None if self._draws_nothing else torch.randn(shape, generator=generator, dtype=self._vae.dtype)

    def posteriors(self, pictures: Iterable[Picture], *, rows: int) -> dict[bytes, Posterior]:
        """The posteriors of ``pictures`` by their keys. Those of one size are encoded together, ``rows`` at a time; those that are remembered are not."""
        found, new = {}, dict[bytes, torch.Tensor]()
        for picture in pictures:
            if picture.key in self._posteriors:
                self._posteriors.move_to_end(picture.key)
                found[picture.key] = self._posteriors[picture.key]
            else:
                new[picture.key] = picture.pixels
        for shape in {pixels.shape for pixels in new.values()}:
            keys = [key for key, pixels in new.items() if pixels.shape == shape]
            for start in range(0, len(keys), rows):
                batch = keys[start : start + rows]
                found |= zip(batch, self._encode(torch.cat([new[key] for key in batch])), strict=True)
        self._posteriors |= {key: found[key] for key in new}
        while len(self._posteriors) > self._capacity:
            self._posteriors.popitem(last=False)
        return found

    def latents(self, posterior: Posterior, noise: torch.Tensor | None) -> torch.Tensor:
        """Scaled latents ``(1, C, h, w)``, drawn from ``posterior`` by ``noise`` where it has a deviation."""
        mean, std = posterior
        return self._scaled(mean if std is None or noise is None else mean + std * noise.to(std.device))

    def mean(self, image: torch.Tensor) -> torch.Tensor:
        """The scaled latents of ``float32 (1, 3, H, W)`` that are most likely; draws nothing."""
        ((mean, _),) = self._encode(image)
        return self._scaled(mean)

    @property
    def _draws_nothing(self) -> bool:
        return not hasattr(self._vae, "quant_conv")  # only AutoencoderKL has a posterior

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self._scaling_factor * latents.to(self._dtype)
        return scaled

    def _encode(self, images: torch.Tensor) -> list[Posterior]:
        encoded = self._vae.encode(images.to(self._vae.device, self._vae.dtype))
        if self._draws_nothing:
            return [(mean, None) for mean in _apart(encoded.latents)]
        posterior = encoded.latent_dist
        return list(zip(_apart(posterior.mean), _apart(posterior.std), strict=True))


def _apart(rows: torch.Tensor) -> list[torch.Tensor]:
    """Each in memory of its own, so that one that is kept does not keep the others."""
    return [row[None].clone() for row in rows]


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
