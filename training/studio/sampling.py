"""The noise schedule, and pictures from half-trained networks on a real cut-out, to look at while they learn."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
import torch
from diffusers import DDIMScheduler

from training.studio import autoencoder
from training.studio.latents import mask_blocks
from training.studio.precision import autocast
from training.studio.recipe import LATENT_CHANNELS, Recipe
from training.studio.scene import contact_sheet, draw_scene
from training.studio.store import Bytes
from training.studio.vocabulary import tokenize
from worker.images.subject import Segmenter

SCHEDULER: dict[str, Any] = {
    # Stable Diffusion's is 0.012. These latents are smoother: with that, walls and tables would be decided in a quarter of the timesteps.
    "beta_end": 0.03,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}
PROMPTS = (
    "white marble table, teal wall",
    "dark wooden table, teal wall",
    "pink paper backdrop",
    "night city bokeh lights, dark wooden table",
    "sandy beach, sea and sky",
    "red brick wall, light wooden table",
    "grass, blurred garden",
    "white podium, lavender background",
    "grey concrete wall, black marble counter, window light",
    "gradient from orange to purple",
    "yellow seamless paper, leaf shadows",
    "",
)
GUIDANCE = 2.5


def alphas_cumprod() -> torch.Tensor:
    """``(1000,)``, the last 0."""
    values: torch.Tensor = scheduler().alphas_cumprod
    return values


def scheduler() -> Any:
    return DDIMScheduler.from_config(SCHEDULER)


def prompts_sheet(recipe: Recipe, work: Path, networks: Any, tokenizer: Any, scaling_factor: float, *, steps: int = 20) -> Bytes:
    """``PROMPTS`` around a real coffee cup, guided, from fixed noise."""
    image, subject = _cup()
    vae = autoencoder.load(recipe, work)
    pictures = [
        paint(vae, networks, tokenizer, scaling_factor, image, subject < 128, list(PROMPTS[start : start + 4]), steps=steps)
        for start in range(0, len(PROMPTS), 4)
    ]
    return contact_sheet([picture for batch in pictures for picture in batch], 4)


@torch.inference_mode()
def paint(
    vae: Any, networks: Any, tokenizer: Any, scaling_factor: float, image: Bytes, painted: np.ndarray[Any, Any], prompts: list[str],
    *, steps: int = 20, guidance: float = GUIDANCE, seed: int = 0,
) -> list[Bytes]:  # fmt: skip
    """One picture for each prompt; what is not ``painted (H, W)`` is put back as it was."""
    sampler = scheduler()
    sampler.set_timesteps(steps)
    count = len(prompts)
    pixels = autoencoder.to_tensor(image[None])
    keep = torch.from_numpy(~painted).float()
    with autocast():
        masked = vae.encoder(pixels * keep).float() * scaling_factor
        embeds = networks["text_encoder"](tokenize(tokenizer, [*prompts, *[""] * count]))[0]
        height, width = masked.shape[2:]
        mask = torch.from_numpy(mask_blocks(painted)).float()[None, None]
        around = torch.cat([mask, masked], dim=1).expand(2 * count, -1, height, width)
        noise = torch.randn((1, LATENT_CHANNELS, height, width), generator=torch.Generator().manual_seed(seed))
        latents = noise.expand(count, -1, -1, -1)
        for timestep in sampler.timesteps:
            rows = torch.cat([torch.cat([latents, latents]), around], dim=1)
            text, empty = networks["unet"](rows, timestep, embeds, return_dict=False)[0].float().chunk(2)
            latents = sampler.step(empty + guidance * (text - empty), timestep, latents, return_dict=False)[0]
        decoded = torch.cat([vae.decoder(each[None] / scaling_factor) for each in latents]).float()
    return [np.where(painted[..., None], picture, image) for picture in autoencoder.to_pixels(decoded)]


@cache
def _cup() -> tuple[Bytes, Bytes]:
    """A photo of a coffee cup in the middle of 256×256 and its matte; where the segmenter's file is not installed, a rendered object."""
    weights = Path(sys.prefix) / "share/outfill/models/u2netp.onnx"
    if not weights.exists():
        scene = draw_scene(1, 0)
        return scene.rgb, scene.subject
    photo = np.asarray(skimage.data.coffee(), np.uint8)
    matte = Segmenter(weights).matte(photo)
    canvas = np.full((256, 256, 4), (127, 127, 127, 0), np.uint8)
    canvas[66:226, 8:248] = cv2.resize(np.dstack([photo, matte]), (240, 160), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(canvas[..., :3]), np.ascontiguousarray(canvas[..., 3])
