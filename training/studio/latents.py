"""Latents of all scenes, of the pictures with their masked part blanked, and the masks at latent size: computed once.

Shapes, for N scenes with K masks each: ``latents (N, 4, 32, 32)`` and ``masked (N, K, 4, 32, 32)`` in half precision, scaled to unit
deviation; ``masks uint8 (N, K, 32, 32)``, 1 where any pixel of the block is painted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from training.studio import autoencoder
from training.studio.facts import Facts
from training.studio.masks import draw_mask
from training.studio.precision import autocast
from training.studio.recipe import VAE_FACTOR, Recipe
from training.studio.store import Scenes, each_shard, write_whole

_MASKS = 2
"""The stage's number in the seeds of its masks."""


@dataclass(frozen=True)
class Latents:
    """All shards together."""

    latents: npt.NDArray[np.float16]
    masked: npt.NDArray[np.float16]
    masks: npt.NDArray[np.uint8]
    facts: list[Facts]
    scaling_factor: float


def compute(recipe: Recipe, work: Path, log: Callable[[str], None], processes: int = 1) -> None:
    """Encode shard by shard, in ``processes``; shards that exist are left alone."""
    for end in each_shard(partial(_encode_shard, recipe, work), recipe, work / "latents", ".npz", processes):
        log(f"latents {end} of {recipe.scenes}")


def _encode_shard(recipe: Recipe, work: Path, start: int) -> int:
    """The number of its last scene, plus one."""
    end = min(start + recipe.shard, recipe.scenes)
    # Channels last: in float32 two thirds of the time.
    model = autoencoder.load(recipe, work).to(memory_format=torch.channels_last)
    scenes = Scenes(work)
    rows = [_encode(recipe, model, scenes, index) for index in range(start, end)]
    latents, masked, masks = (np.stack(part) for part in zip(*rows, strict=True))

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, latents=latents, masked=masked, masks=masks)

    write_whole(work / "latents" / f"{start:06d}.npz", write)
    return end


def load(work: Path) -> Latents:
    """Read all shards and scale them by what brings the first of them to unit deviation."""
    shards = [np.load(file) for file in sorted((work / "latents").glob("*.npz"))]
    factor = round(1 / float(shards[0]["latents"].astype(np.float32).std()), 4)
    latents, masked = (
        np.concatenate([(shard[name] * np.float32(factor)).astype(np.float16) for shard in shards]) for name in ("latents", "masked")
    )
    return Latents(latents, masked, np.concatenate([shard["masks"] for shard in shards]), Scenes(work).facts, factor)


def mask_blocks(painted: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """``(H, W)`` to ``(H/8, W/8)``: 1 where any pixel of the block is painted."""
    height, width = (side // VAE_FACTOR for side in painted.shape)
    blocks = painted.reshape(height, VAE_FACTOR, width, VAE_FACTOR)
    return np.asarray(blocks.any(axis=(1, 3)), np.uint8)


@torch.inference_mode()
def _encode(
    recipe: Recipe, model: torch.nn.Module, scenes: Scenes, index: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng([recipe.seed, _MASKS, index])
    pixels = scenes.pixels(index)
    image = autoencoder.to_tensor(pixels[None, ..., :3])
    painted = [draw_mask(rng, np.asarray(pixels[..., 3])) for _ in range(recipe.masks_per_scene)]
    blanked = [image * torch.from_numpy(~mask).float() for mask in painted]
    with autocast():
        encoded = torch.cat([model.encoder(each) for each in (image, *blanked)]).float().numpy().astype(np.float16)  # type: ignore[operator]
    return encoded[0], encoded[1:], np.stack([mask_blocks(mask) for mask in painted])
