"""The autoencoder's decoder, trained on: it learns to draw texture rather than the mean of all textures that a latent could stand for.

Pixels that are compared one by one teach a decoder to blur whatever a latent says too little about. Here the responses to random filters are
sorted within each window before they are compared (a sliced Wasserstein distance between textures; after Heeger and Bergen, "Pyramid-based
texture analysis/synthesis", 1995, and Heitz et al., "A Sliced Wasserstein Loss for Neural Texture Synthesis", 2021), so grain counts wherever it
lies. The encoder, and with it what the UNet learns, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from training.studio import autoencoder, checkpoint, loop
from training.studio.precision import autocast
from training.studio.recipe import Recipe
from training.studio.store import Scenes

STAGE = 5
_FILTERS = 24
_REACH = 5
_WINDOW = 32
_ABSOLUTE, _COARSE, _TEXTURE = 0.5, 0.5, 1.0


def train(recipe: Recipe, work: Path, log: Callable[[str], None]) -> bool:
    """Train to ``recipe.decoder_steps`` or go on from a checkpoint. False if it was told to stop."""
    model, scenes = autoencoder.load(recipe, work).train(), Scenes(work)
    model.encoder.requires_grad_(False)  # noqa: FBT003 (torch's own signature)
    optimiser = torch.optim.AdamW(model.decoder.parameters(), lr=recipe.decoder_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    run = loop.Run("decoder", work / "decoder", model.decoder, optimiser, recipe.decoder_steps, recipe.decoder_rate, warm_up=50)
    return loop.train(run, recipe, log, lambda step: _step(recipe, model, optimiser, scenes, step))


def load(recipe: Recipe, work: Path) -> Any:
    """The autoencoder with this decoder. Raises ``FileNotFoundError`` before there is one."""
    model = autoencoder.load(recipe, work)
    model.decoder.load_state_dict(checkpoint.of_stage(work, "decoder")["model"])
    return model.eval()


def _step(recipe: Recipe, model: Any, optimiser: torch.optim.Optimizer, scenes: Scenes, step: int) -> dict[str, float]:
    rng, generator = checkpoint.step_rngs(recipe.seed, STAGE, step)
    crops = [autoencoder.draw_crop(rng, scenes, recipe.vae_crop) for _ in range(recipe.decoder_batch)]
    images = autoencoder.to_tensor(np.stack(crops))
    with autocast():
        decoded = model.decoder(autoencoder.noised(model.encoder(images), generator))
    decoded = decoded.float()
    absolute, texture = functional.l1_loss(decoded, images), texture_distance(decoded, images, generator)
    loss = _ABSOLUTE * absolute + _COARSE * autoencoder.coarse_distance(decoded, images) + _TEXTURE * texture
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
    optimiser.step()
    return {"L1": float(absolute.detach()), "texture": float(texture.detach())}


def texture_distance(first: torch.Tensor, second: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """How differently the windows of two batches ``(N, 3, H, W)`` are textured: 0 where the same grain lies elsewhere. Filters are drawn anew."""
    total = torch.zeros(())
    for scale in (2, 4):  # the finest grain is not in the latents: asked for, it would be made up, as streaks
        first, second = functional.avg_pool2d(first, 2), functional.avg_pool2d(second, 2)
        filters = torch.randn(_FILTERS, 3, _REACH, _REACH, generator=generator)
        filters = filters - filters.mean(dim=(2, 3), keepdim=True)  # colour is another matter
        filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
        found, wanted = (_sorted_responses(each, filters, _WINDOW // scale) for each in (first, second))
        total = total + functional.l1_loss(found, wanted)
    return total


def _sorted_responses(images: torch.Tensor, filters: torch.Tensor, window: int) -> torch.Tensor:
    """``(N, filters, windows, pixels)``, ascending."""
    responses = functional.conv2d(images, filters, padding=_REACH // 2)
    count, channels, height, width = responses.shape
    windows = responses.reshape(count, channels, height // window, window, width // window, window).transpose(3, 4)
    return windows.reshape(count, channels, -1, window * window).sort(dim=-1)[0]
