"""The samplers of a model: diffusers' schedulers, from which ``sampler_tables`` takes its numbers.

diffusers calls them schedulers; here that word belongs to what decides which slots step next.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from api_schemas.errors import Invalid
from api_schemas.requests import Scheduler
from worker.engines.notes import read_json

CLASSES: dict[Scheduler, tuple[Any, dict[str, Any]]] = {
    Scheduler.DDIM: (DDIMScheduler, {}),
    Scheduler.PNDM: (PNDMScheduler, {"skip_prk_steps": True}),
    Scheduler.EULER: (EulerDiscreteScheduler, {}),
    Scheduler.EULER_A: (EulerAncestralDiscreteScheduler, {}),
    Scheduler.DPMPP_2M_KARRAS: (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    Scheduler.UNIPC: (UniPCMultistepScheduler, {}),
}


class Sampler(Protocol):
    """What the engine calls of a diffusers scheduler. All tensors are of one row: ``(1, C, h, w)``."""

    order: int
    timesteps: torch.Tensor
    init_noise_sigma: float | torch.Tensor

    def set_timesteps(self, num_inference_steps: int, device: str) -> None: ...
    def set_begin_index(self, begin_index: int) -> None: ...
    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor: ...
    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor: ...
    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, *, return_dict: bool, **kwargs: Any
    ) -> tuple[torch.Tensor, ...]: ...


def sampler_config(path: Path, corrections: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own noise schedule, prediction type and spacing of timesteps, with the family's ``corrections`` of old files."""
    # Latents are not confined to [-1, 1]; DDIM alone would clip where the file is silent.
    return {"clip_sample": False, **read_json(path / "scheduler" / "scheduler_config.json"), **corrections}


def build_sampler(name: Scheduler, config: Mapping[str, Any]) -> Sampler:
    """A new sampler with the noise schedule of ``config``."""
    sampler_class, options = CLASSES[name]
    if config.get("rescale_betas_zero_snr") and "use_karras_sigmas" in options:
        # Karras et al. space by sigma, which at zero terminal SNR begins in the thousands: half of the steps would go to where the model
        # sees nothing but noise. The model's own spacing of timesteps does not have that end.
        options = {**options, "use_karras_sigmas": False}
    sampler: Sampler = sampler_class.from_config(dict(config), **options)
    return sampler


def strength_timesteps(sampler: Sampler, steps: int, strength: float) -> torch.Tensor:
    """Set ``sampler`` to the last ``int(steps × strength)`` of ``steps`` and return their timesteps.

    As ``StableDiffusionInpaintPipeline.get_timesteps``. On the CPU, where indexing them costs no wait for the device. PNDM runs one more.

    Raises ``Invalid`` where no step is left.
    """
    sampler.set_timesteps(steps, device="cpu")
    kept = min(int(steps * strength), steps)
    if kept < 1:
        raise Invalid(f"strength {strength} leaves none of {steps} steps", field="strength")
    begin = (steps - kept) * sampler.order
    if hasattr(sampler, "set_begin_index"):  # DDIM and PNDM find their place by the timestep
        sampler.set_begin_index(begin)
    return sampler.timesteps[begin:]


def generator_kwargs(sampler: Sampler, generator: torch.Generator) -> dict[str, torch.Generator]:
    """``generator`` for the samplers whose ``step`` takes one."""
    return {"generator": generator} if "generator" in inspect.signature(sampler.step).parameters else {}
