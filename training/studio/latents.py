"""Latents of all scenes, of the pictures with their masked part blanked, and the masks at latent size: computed once.

Shapes, for N scenes with K masks each: ``latents`` and ``masked (N, K, 4, 64, 64)`` in half precision; ``masks uint8 (N, K, 64, 64)``, 1
where any pixel of the block is painted. Every second one of a scene is of its mirror image.
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
    """All shards together. Latents times ``scaling_factor`` have unit deviation."""

    latents: torch.Tensor
    masked: torch.Tensor
    masks: torch.Tensor
    facts: list[Facts]
    scaling_factor: float


def compute(recipe: Recipe, work: Path, log: Callable[[str], None], processes: int = 1, device: str = "cpu") -> None:
    """Encode shard by shard on ``device``, in ``processes``; shards that exist are left alone."""
    for end in each_shard(partial(_encode_shard, recipe, work, device), recipe, work / "latents", ".npz", processes):
        log(f"latents {end} of {recipe.scenes}")


def _encode_shard(recipe: Recipe, work: Path, device: str, start: int) -> int:
    """The number of its last scene, plus one."""
    end = min(start + recipe.shard, recipe.scenes)
    # Channels last: in float32 two thirds of the time.
    model = autoencoder.load(recipe, work).to(device, memory_format=torch.channels_last)
    scenes = Scenes(work)
    rows = [_encode(recipe, model, device, scenes, index) for index in range(start, end)]
    latents, masked, masks = (np.stack(part) for part in zip(*rows, strict=True))

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, latents=latents, masked=masked, masks=masks)

    write_whole(work / "latents" / f"{start:06d}.npz", write)
    return end


def load(work: Path, device: str = "cpu") -> Latents:
    """Read all shards into the memory of ``device``: 136 KB a scene."""
    shards = [dict(np.load(file)) for file in _files(work)]
    latents, masked, masks = (
        torch.cat([torch.from_numpy(shard[name]).to(device) for shard in shards]) for name in ("latents", "masked", "masks")
    )
    return Latents(latents, masked, masks, Scenes(work).facts, scaling_factor(work))


def scaling_factor(work: Path) -> float:
    """What brings the latents of the first shard to unit deviation."""
    return round(1 / float(np.load(_files(work)[0])["latents"].astype(np.float32).std()), 4)


def _files(work: Path) -> list[Path]:
    return sorted((work / "latents").glob("*.npz"))


def mask_blocks(painted: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """``(H, W)`` to ``(H/4, W/4)``: 1 where any pixel of the block is painted."""
    height, width = (side // VAE_FACTOR for side in painted.shape)
    blocks = painted.reshape(height, VAE_FACTOR, width, VAE_FACTOR)
    return np.asarray(blocks.any(axis=(1, 3)), np.uint8)


@torch.inference_mode()
def _encode(
    recipe: Recipe, model: torch.nn.Module, device: str, scenes: Scenes, index: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng([recipe.seed, _MASKS, index])
    pixels = scenes.pixels(index)
    seen = [pixels[:, :: -1 if version % 2 else 1] for version in range(recipe.masks_per_scene)]
    painted = np.stack([draw_mask(rng, np.ascontiguousarray(each[..., 3])) for each in seen])
    images = autoencoder.to_tensor(np.stack(seen)[..., :3])
    blanked = images * torch.from_numpy(~painted).float()[:, None]
    with autocast(device):
        encoded = torch.cat([model.encoder(each.to(device)[None]) for each in (*images, *blanked)])  # type: ignore[operator]
    latents, masked = np.split(encoded.float().cpu().numpy().astype(np.float16), 2)
    return latents, masked, np.stack([mask_blocks(mask) for mask in painted])
