"""All numbers of a training run in one frozen value: ``Recipe()`` begins with nothing, ``REFINING`` goes on from finished weights."""

from __future__ import annotations

from dataclasses import dataclass

VAE_FACTOR = 8
LATENT_CHANNELS = 4


@dataclass(frozen=True)
class Recipe:
    """``scenes`` are rendered once, in shards; steps are optimiser steps."""

    seed: int = 20
    earlier: str = ""
    """What it goes on from, for the model card."""
    scenes: int = 10_000
    shard: int = 500
    masks_per_scene: int = 2

    vae_channels: int = 48
    vae_encoder_blocks: tuple[int, ...] = (0, 1, 2, 2)
    vae_decoder_blocks: tuple[int, ...] = (3, 2, 2, 1)
    vae_steps: int = 8_000
    vae_batch: int = 12
    vae_crop: int = 64
    vae_rate: float = 1e-3

    decoder_steps: int = 1_500
    decoder_batch: int = 8
    decoder_rate: float = 6e-4

    unet_channels: tuple[int, ...] = (64, 128, 192)
    norm_groups: int = 8
    text_width: int = 192
    text_layers: int = 3
    tokens: int = 32
    text_steps: int = 2_000
    text_batch: int = 64
    text_rate: float = 1e-3
    unet_steps: int = 8_000
    unet_batch: int = 16
    unet_rate: float = 4e-4
    warm_up: int = 400
    unet_decay: int = 3_000
    """Last steps, over which the rate falls."""
    detail_from: int = 4_500
    """Step from which timesteps are drawn towards little noise: by then the layout is learned, and what is left to learn is detail."""
    detail_power: float = 1.7
    ema: float = 0.9995
    drop_caption: float = 0.10
    kept_weight: float = 0.08
    """Of the loss on what is kept, which the service puts back anyway."""

    judge_steps: int = 8_000
    judge_batch: int = 64
    judge_rate: float = 1e-3
    held_out: int = 1_000
    """Last scenes, which the judge does not learn from: its accuracy is measured on them."""

    checkpoint_every: int = 250
    sheet_every: int = 500
    log_every: int = 50


REFINING = Recipe(
    earlier="revision 1 of this model (8,000 steps, on 10,000 scenes of the renderer of that time)",
    decoder_steps=500,
    decoder_rate=4e-4,
    unet_steps=8_000,
    unet_rate=3e-4,
    warm_up=100,
    unet_decay=1_600,
    detail_from=0,
    ema=0.998,
)
"""For a UNet that has learned from another renderer: all steps are also about detail; the encoder stays."""
