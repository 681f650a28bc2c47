"""The autoencoder: diffusers' ``AutoencoderTiny`` (after madebyollin's TAESD), trained on crops of the scenes. No norms, no sampling.

Its latents are held near zero mean and unit deviation by a soft penalty, and the decoder learns with a little noise on them, so that what
a diffusion model draws, which is never quite a latent, still decodes well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn
from torch.nn import functional

from training.studio import checkpoint, loop
from training.studio.precision import autocast
from training.studio.recipe import LATENT_CHANNELS, Recipe
from training.studio.scene import contact_sheet
from training.studio.store import Bytes, Scenes, sheet

STAGE = 1
_CONTRAST = 3.0
"""Latents of the mosaic, for colours in 0..1 less a half."""
_NOISE = 0.05
_HOLE = 0.3
"""Share of the crops with a part blanked to mid grey, as masked pictures are."""


def build(recipe: Recipe) -> Any:
    """A new autoencoder. It starts as a mosaic, and so learns from the first step on what a mosaic lacks."""
    width = (recipe.vae_channels,) * len(recipe.vae_encoder_blocks)
    model = AutoencoderTiny(
        encoder_block_out_channels=width,
        decoder_block_out_channels=width,
        num_encoder_blocks=recipe.vae_encoder_blocks,
        num_decoder_blocks=recipe.vae_decoder_blocks,
        latent_channels=LATENT_CHANNELS,
    )
    _start_as_mosaic(model)
    return model


@torch.no_grad()
def _start_as_mosaic(model: Any) -> None:
    """Weights with which three latent channels are the mean colours of the blocks, and the decoder shows these, smoothed.

    After 300 steps this is at half the error that a usual start is at. Colours are positive where they pass a ReLU, so three channels of
    each layer can carry them unchanged; the others start at random (He et al. 2015), residual blocks at zero (Zhang et al. 2019, Fixup).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, AutoencoderTinyBlock):
            nn.init.zeros_(module.conv[-1].weight)
    same, mean, tent = torch.zeros(3, 3), torch.zeros(3, 3), torch.tensor([0.25, 0.5, 0.25])
    same[1, 1] = 1
    mean[1:, 1:] = 0.25
    down, up = ([layer for layer in part.layers if isinstance(layer, nn.Conv2d)] for part in (model.encoder, model.decoder))
    for convolution in (down[-1], up[-1]):
        convolution.weight.mul_(0.1)
    kernels = [same, *[mean] * (len(down) - 2), _CONTRAST * same, same / _CONTRAST, *[torch.outer(tent, tent)] * (len(up) - 2), same]
    for convolution, kernel in zip([*down, *up], kernels, strict=True):
        for channel in range(3):
            convolution.weight[channel] = 0
            convolution.weight[channel, channel] = kernel
    down[-1].bias[:3] = -_CONTRAST / 2  # type: ignore[index]
    up[0].bias[:3] = 0.5  # type: ignore[index]


def adopt(work: Path, start: Path) -> None:
    """Take the autoencoder of the pipeline ``start`` as it is: what its latents mean to a UNet stays true."""
    model = AutoencoderTiny.from_pretrained(start / "vae")
    checkpoint.save(work / "autoencoder", 0, {"model": model.state_dict()})


def train(recipe: Recipe, work: Path, log: Callable[[str], None]) -> bool:
    """Train to ``recipe.vae_steps`` or go on from a checkpoint. False if it was told to stop."""
    folder = work / "autoencoder"
    torch.manual_seed(recipe.seed)
    model = build(recipe)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.vae_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    scenes = Scenes(work)

    def learn(step: int) -> dict[str, float]:
        absolute, loss = _step(recipe, model, optimiser, scenes, step)
        return {"L1": absolute, "loss": loss}

    def show(done: int) -> None:
        if done % (4 * recipe.sheet_every) == 0 or done == recipe.vae_steps:
            sheet(folder / f"sheet-{done:07d}.png", _sheet(model, scenes))

    run = loop.Run("autoencoder", folder, model, optimiser, recipe.vae_steps, recipe.vae_rate, warm_up=200)
    return loop.train(run, recipe, log, learn, show)


def load(recipe: Recipe, work: Path) -> Any:
    """The trained autoencoder. Raises ``FileNotFoundError`` before there is one."""
    model = build(recipe)
    model.load_state_dict(checkpoint.of_stage(work, "autoencoder")["model"])
    return model.eval()


def to_tensor(pixels: Bytes) -> torch.Tensor:
    """``uint8 (N, H, W, 3)`` to ``float32 (N, 3, H, W)`` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: torch.Tensor) -> Bytes:
    """The way back."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(scaled.permute(0, 2, 3, 1).contiguous().numpy(), dtype=np.uint8)


def _step(recipe: Recipe, model: Any, optimiser: torch.optim.Optimizer, scenes: Scenes, step: int) -> tuple[float, float]:
    rng, generator = checkpoint.step_rngs(recipe.seed, STAGE, step)
    images = to_tensor(np.stack([draw_crop(rng, scenes, recipe.vae_crop) for _ in range(recipe.vae_batch)]))
    with autocast():
        latents = model.encoder(images)
        decoded = model.decoder(noised(latents, generator))
    decoded, latents = decoded.float(), latents.float()
    absolute = functional.l1_loss(decoded, images)
    loss = absolute + 0.5 * _gradients(decoded, images) + 0.5 * coarse_distance(decoded, images) + 0.1 * _spread(latents)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return float(absolute.detach()), float(loss.detach())


def noised(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As little off as those that a UNet paints."""
    return latents + _NOISE * torch.randn(latents.shape, generator=generator)


def draw_crop(rng: np.random.Generator, scenes: Scenes, side: int) -> Bytes:
    """``uint8 (side, side, 3)`` of a scene, perhaps mirrored, perhaps with a part blanked."""
    pixels = scenes.pixels(int(rng.integers(len(scenes))))
    top, left = (int(rng.integers(size - side + 1)) for size in pixels.shape[:2])
    crop = np.array(pixels[top : top + side, left : left + side, :3])
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < _HOLE:
        angle = rng.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[:side, :side] - side / 2
        crop = np.where((np.cos(angle) * columns + np.sin(angle) * rows > rng.normal(0, side / 4))[..., None], np.uint8(127), crop)
    return np.ascontiguousarray(crop)


def _gradients(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 between the differences of neighbouring pixels: keeps edges and grain."""
    down = functional.l1_loss(decoded[:, :, 1:] - decoded[:, :, :-1], images[:, :, 1:] - images[:, :, :-1])
    across = functional.l1_loss(decoded[..., 1:] - decoded[..., :-1], images[..., 1:] - images[..., :-1])
    return down + across


def coarse_distance(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 at a quarter of the size, of batches ``(N, 3, H, W)``: keeps colours."""
    return functional.l1_loss(functional.avg_pool2d(decoded, 4), functional.avg_pool2d(images, 4))


def _spread(latents: torch.Tensor) -> torch.Tensor:
    """How far each latent channel is from zero mean and unit deviation over the batch."""
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    return (mean**2).mean() + ((deviation - 1) ** 2).mean()


@torch.inference_mode()
def _sheet(model: Any, scenes: Scenes) -> Bytes:
    originals = np.stack([scenes.pixels(index)[..., :3] for index in range(min(12, len(scenes)))])
    decoded = torch.cat([model.decoder(model.encoder(to_tensor(original[None]))) for original in originals])
    rows = [picture for pair in zip(originals, to_pixels(decoded), strict=True) for picture in pair]
    return contact_sheet(rows, 6)
