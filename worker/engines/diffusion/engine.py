"""Stable Diffusion inpainting, nine channels, with continuous batching.

Slots join and leave between denoising steps. The rows of one UNet call may differ in everything but the model and the latent shape; each
slot has its own sampler, generator and position. The maths is that of ``StableDiffusionInpaintPipeline`` (diffusers 0.42), which the
tests hold it against.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextModel, CLIPTokenizer

from api_schemas.errors import EngineFailed
from api_schemas.models import ModelCard
from worker.engines.base import PaintRequest, Pixels, Sampling, Slot
from worker.engines.diffusion.pictures import decode_latents, encode_image, image_tensor, mask_latents, mask_tensor
from worker.engines.diffusion.prompts import PromptEncoder
from worker.engines.diffusion.samplers import Sampler, build_sampler, generator_kwargs, sampler_config, strength_timesteps
from worker.engines.diffusion.slot import DiffusionSlot

Precision = Literal["float32", "float16", "bfloat16"]
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
"""The machine's failures, not a row's: they leave ``step`` as they are."""


class DiffusionEngine:
    """A resident nine-channel inpainting pipeline. Called from one thread only."""

    def __init__(
        self, card: ModelCard, *, unet: Any, vae: Any, prompts: PromptEncoder, sampler_config: dict[str, Any], max_rows: int = 8
    ) -> None:
        """Put the parts together; ``load`` reads them from a directory."""
        self.card = card
        self.max_rows = max_rows
        self._unet = unet
        self._vae = vae
        self._vae_factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self._prompts = prompts
        self._sampler_config = sampler_config

    @classmethod
    def load(cls, path: Path, card: ModelCard, *, device: str = "cpu", dtype: Precision = "float32", max_rows: int = 8) -> Self:
        """Load the pipeline in directory ``path``: safetensors only, nothing from the network, no code of the model's.

        There is no safety checker. ``max_rows`` is in slots; a guided slot takes two rows of the UNet's batch. Raises ``OSError`` where
        a file is missing; ``card_for`` is what explains an unsupported directory.
        """
        options = {"use_safetensors": True, "local_files_only": True, "dtype": getattr(torch, dtype)}
        classes: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        unet, vae, text_encoder = (each.from_pretrained(path / folder, **options).to(device).eval() for folder, each in classes.items())
        tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
        prompts = PromptEncoder(tokenizer, text_encoder)
        return cls(card, unet=unet, vae=vae, prompts=prompts, sampler_config=sampler_config(path), max_rows=max_rows)

    def prepare(self, request: PaintRequest) -> DiffusionSlot:
        """Encode prompt and picture and draw the noise, in the order in which the stock pipeline draws from its generator.

        Raises ``Invalid`` where strength leaves no step, ``TypeError`` without a ``Sampling`` recipe, and ``ValueError`` for a picture
        whose sides are not multiples of ``card.size_multiple``.
        """
        sampling = _sampling(request)
        self._check_size(request)
        sampler = build_sampler(sampling.scheduler, self._sampler_config)
        timesteps = strength_timesteps(sampler, sampling.steps, sampling.strength)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        image, mask = image_tensor(request.image), mask_tensor(request.mask)
        with torch.inference_mode():
            latents = self._initial_latents(image, sampler, timesteps, sampling.strength, generator)
            masked_image_latents = encode_image(self._vae, image * (mask < 0.5), generator)
        guided = sampling.guidance_scale > 1.0
        return DiffusionSlot(
            request=request,
            steps=len(timesteps),
            batch_key=(self.card.id, tuple(latents.shape[1:]), ()),
            sampler=sampler,
            extra_step_kwargs=generator_kwargs(sampler, generator),
            timesteps=timesteps,
            latents=latents,
            mask_latents=mask_latents(mask, self._vae_factor).to(latents),
            masked_image_latents=masked_image_latents,
            prompt_embeds=self._prompts.encode(sampling.prompt),
            negative_prompt_embeds=self._prompts.encode(sampling.negative_prompt) if guided else None,
            guidance_scale=sampling.guidance_scale,
        )

    def step(self, slots: Sequence[Slot]) -> None:
        """Advance every slot by one step, in one UNet call.

        A row whose sampler raises or whose latents are no longer finite gets an ``EngineFailed`` as its error; the others go on. Out of
        memory in the UNet leaves all slots as they were, so that the step can be tried again with fewer.
        """
        rows = [cast(DiffusionSlot, slot) for slot in slots if not slot.done]
        with torch.inference_mode():
            inputs = [(slot, scaled) for slot in rows if (scaled := _scaled_latents(slot)) is not None]
            if not inputs:
                return
            stepped = [slot for slot, _ in inputs]
            for slot, noise_pred in zip(stepped, self._predict_noise(inputs), strict=True):
                _advance(slot, noise_pred)
            _fail_non_finite(stepped)

    def finish(self, slots: Sequence[Slot]) -> list[Pixels]:
        """Decode, up to ``max_rows`` of one shape at a time.

        A row whose decoded pixels are not finite gets an ``EngineFailed`` as its error; its pixels are then of no use.
        """
        pixels: list[Pixels] = []
        with torch.inference_mode():
            for batch in self._decodable([cast(DiffusionSlot, slot) for slot in slots]):
                decoded, finite = decode_latents(self._vae, torch.cat([slot.latents for slot in batch]))
                pixels.extend(decoded)
                for slot, is_finite in zip(batch, finite, strict=True):
                    if not is_finite:
                        slot.error = EngineFailed("the decoded picture is not finite")
        return pixels

    def _check_size(self, request: PaintRequest) -> None:
        height, width = request.mask.shape
        if request.image.shape != (height, width, 3) or request.image.dtype != np.uint8 or request.mask.dtype != np.uint8:
            raise ValueError(f"image {request.image.shape} and mask {request.mask.shape} must be uint8 (H, W, 3) and (H, W)")
        if height % self.card.size_multiple or width % self.card.size_multiple:
            raise ValueError(f"{width}×{height} is not a multiple of {self.card.size_multiple}")

    def _initial_latents(
        self, image: torch.Tensor, sampler: Sampler, timesteps: torch.Tensor, strength: float, generator: torch.Generator
    ) -> torch.Tensor:
        """Noise at full strength, else the noised picture; ``StableDiffusionInpaintPipeline.prepare_latents``."""
        height, width = (side // self._vae_factor for side in image.shape[2:])
        shape = (1, self._vae.config.latent_channels, height, width)
        image_latents = None if strength == 1.0 else encode_image(self._vae, image, generator)
        noise: torch.Tensor = randn_tensor(shape, generator=generator, device=self._unet.device, dtype=self._unet.dtype)
        if image_latents is None:
            return noise * sampler.init_noise_sigma
        return sampler.add_noise(image_latents, noise, timesteps[:1])

    def _predict_noise(self, inputs: Sequence[tuple[DiffusionSlot, torch.Tensor]]) -> Iterator[torch.Tensor]:
        """One UNet call for all rows, then classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) where it is on."""
        samples = [torch.cat([scaled, slot.mask_latents, slot.masked_image_latents], dim=1) for slot, scaled in inputs]
        embeds = [slot.prompt_embeds for slot, _ in inputs]
        timesteps = [slot.timestep for slot, _ in inputs]
        for index, (slot, _) in enumerate(inputs):
            if slot.negative_prompt_embeds is not None:
                samples.append(samples[index])
                embeds.append(slot.negative_prompt_embeds)
                timesteps.append(slot.timestep)
        predicted: torch.Tensor = self._unet(
            torch.cat(samples),
            torch.stack([timestep.float() for timestep in timesteps]).to(self._unet.device),
            encoder_hidden_states=torch.cat(embeds),
            return_dict=False,
        )[0]
        text, uncond = torch.split(predicted[: len(inputs)], 1), iter(torch.split(predicted[len(inputs) :], 1))
        for (slot, _), noise_text in zip(inputs, text, strict=True):
            if slot.negative_prompt_embeds is None:
                yield noise_text
            else:
                noise_uncond = next(uncond)
                yield noise_uncond + slot.guidance_scale * (noise_text - noise_uncond)

    def _decodable(self, slots: Iterable[DiffusionSlot]) -> Iterator[list[DiffusionSlot]]:
        for _, group in groupby(slots, key=lambda slot: slot.latents.shape):
            batch = list(group)
            yield from (batch[start : start + self.max_rows] for start in range(0, len(batch), self.max_rows))


def _sampling(request: PaintRequest) -> Sampling:
    if not isinstance(request.recipe, Sampling):
        raise TypeError(f"a diffusion model needs a Sampling recipe, not {type(request.recipe).__name__}")
    return request.recipe


def _scaled_latents(slot: DiffusionSlot) -> torch.Tensor | None:
    """The sampler's input scaling; ``None`` if it failed, which is then the slot's error."""
    try:
        return slot.sampler.scale_model_input(slot.latents, slot.timestep)
    except DEVICE_ERRORS:
        raise
    except Exception as error:
        slot.error = _failed("the sampler failed", error)
        return None


def _advance(slot: DiffusionSlot, noise_pred: torch.Tensor) -> None:
    try:
        slot.latents = slot.sampler.step(noise_pred, slot.timestep, slot.latents, return_dict=False, **slot.extra_step_kwargs)[0]
    except DEVICE_ERRORS:
        raise
    except Exception as error:
        slot.error = _failed("the sampler failed", error)
    else:
        slot.position += 1


def _fail_non_finite(slots: Sequence[DiffusionSlot]) -> None:
    """One check, and so one wait for the device, for all rows."""
    finite = torch.isfinite(torch.cat([slot.latents for slot in slots])).flatten(1).all(dim=1).tolist()
    for slot, is_finite in zip(slots, finite, strict=True):
        if not is_finite and slot.error is None:
            slot.error = EngineFailed(f"the latents were not finite after step {slot.position} of {slot.steps}")


def _failed(what: str, error: Exception) -> EngineFailed:
    failure = EngineFailed(f"{what}: {error}")
    failure.__cause__ = error
    return failure
