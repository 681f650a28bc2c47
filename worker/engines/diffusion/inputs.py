"""Requests made ready on the host: all that a picture needs of tensors, tokens, tables and noise before a device sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from api_schemas.models import ModelCard
from worker.engines.base import PaintRequest, Prepared, Sampling
from worker.engines.diffusion.chunks import PromptReader, Text
from worker.engines.diffusion.lora import LoraUses
from worker.engines.diffusion.pictures import ImageEncoder, Picture, Pictures, is_painted, mask_latents
from worker.engines.diffusion.sampler_tables import SamplerTable, SamplerTables


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture whose latents are drawn from its posterior."""

    picture: Picture
    noise: torch.Tensor | None
    """``(1, C, h, w)``, by which they are; ``None`` for a VAE without a posterior."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs(Prepared):
    """Tensors are on the CPU; ``h``, ``w`` are the request's sides over the VAE's factor."""

    sampling: Sampling
    loras: LoraUses
    table: SamplerTable
    prompt: Text
    negative_prompt: Text | None
    """``None``: no guidance."""
    generator: torch.Generator
    """Of the noise that the sampler draws in each step, if it does."""
    noise: torch.Tensor
    """``(1, C, h, w)``, in the UNet's precision; what the latents begin with."""
    mask_latents: torch.Tensor
    """``float32 (1, 1, h, w)``."""
    image: Drawn | None
    """The picture, where the latents begin with it or it is kept without inpainting channels."""
    masked_image: Drawn | None
    """The picture with what is painted blanked, for a UNet with inpainting channels."""

    @property
    def texts(self) -> Iterator[Text]:
        """What the text encoders are to read."""
        yield self.prompt
        if self.negative_prompt is not None:
            yield self.negative_prompt

    @property
    def pictures(self) -> Iterator[Picture]:
        """What the VAE is to encode."""
        return (drawn.picture for drawn in (self.image, self.masked_image) if drawn is not None)


class InputMaker:
    """Makes requests ready for one model. Thread-safe; does nothing that torch would share among its threads, as those belong to the engine."""

    def __init__(
        self,
        card: ModelCard,
        reader: PromptReader,
        tables: SamplerTables,
        encoder: ImageEncoder,
        *,
        channels: int,
        dtype: torch.dtype,
        inpaints: bool,
    ) -> None:
        """``channels`` of latents, noise in ``dtype``; ``inpaints``: the UNet has channels for a mask and what is left of the picture."""
        self._card, self._reader, self._tables, self._encoder = card, reader, tables, encoder
        self._channels, self._dtype, self._inpaints = channels, dtype, inpaints
        self._pictures = Pictures()

    def inputs(self, request: PaintRequest) -> Inputs:
        """Make ``request`` ready. Noise is drawn in the order in which the stock pipeline draws from its generator. Raises as ``Engine.prepare``."""
        sampling, factor = _sampling(request), self._encoder.factor
        self._check_size(request)
        table = self._tables.table(sampling.scheduler, sampling.steps, sampling.strength)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        height, width = request.mask.shape
        shape = (1, self._channels, height // factor, width // factor)
        painted = is_painted(request.mask)
        image = masked_image = None
        if sampling.strength < 1.0 or not self._inpaints:
            image = Drawn(self._pictures.of(request.image), self._encoder.draw(shape, generator))
        noise = torch.randn(shape, generator=generator, dtype=self._dtype)
        # Without inpainting channels the stock pipeline encodes it even so; what it draws for that, samplers that draw later must not see.
        masked_noise = self._encoder.draw(shape, generator)
        if self._inpaints:
            masked_image = Drawn(self._pictures.of(request.image, painted), masked_noise)
        guided = sampling.guidance_scale > 1.0
        return Inputs(
            request,
            sampling=sampling,
            loras=tuple(sorted(sampling.loras)),
            table=table,
            prompt=self._reader.text(sampling.prompt),
            negative_prompt=self._reader.text(sampling.negative_prompt) if guided else None,
            generator=generator,
            noise=noise,
            mask_latents=mask_latents(painted, factor),
            image=image,
            masked_image=masked_image,
        )

    def _check_size(self, request: PaintRequest) -> None:
        height, width = request.mask.shape
        if request.image.shape != (height, width, 3) or request.image.dtype != np.uint8 or request.mask.dtype != np.uint8:
            raise ValueError(f"image {request.image.shape} and mask {request.mask.shape} must be uint8 (H, W, 3) and (H, W)")
        if height % self._card.size_multiple or width % self._card.size_multiple:
            raise ValueError(f"{width}×{height} is not a multiple of {self._card.size_multiple}")


def _sampling(request: PaintRequest) -> Sampling:
    if not isinstance(request.recipe, Sampling):
        raise TypeError(f"a diffusion model needs a Sampling recipe, not {type(request.recipe).__name__}")
    return request.recipe
