"""All numbers of a training run in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, replace

VAE_FACTOR = 4
LATENT_CHANNELS = 4


@dataclass(frozen=True)
class Phase:
    """A part of the UNet's training, with a new optimiser: ``steps`` at ``batch`` pictures. Each begins with the averaged weights of the one before."""

    steps: int
    batch: int
    rate: float
    """The highest, reached after ``warm_up`` steps."""
    warm_up: int
    decay: int
    """Last steps, over which the rate falls."""
    ema: float
    power: float
    """Of the evenly drawn numbers in 0..1 that timesteps are taken from: above 1, more of them have little noise, which is where detail is learned."""
    painted: int = 0
    """Pictures that are painted besides, a step of each at every step, for the reward."""
    reward: float = 0.0
    """Its weight beside the diffusion loss."""


@dataclass(frozen=True)
class Recipe:
    """``scenes`` are rendered once, in shards; steps are optimiser steps."""

    seed: int = 20
    scenes: int = 10_000
    shard: int = 500
    masks_per_scene: int = 2

    vae_channels: int = 48
    vae_encoder_blocks: tuple[int, ...] = (0, 1, 2)
    vae_decoder_blocks: tuple[int, ...] = (3, 2, 1)
    vae_steps: int = 6_000
    vae_batch: int = 12
    vae_crop: int = 64
    vae_rate: float = 1e-3

    decoder_steps: int = 1_500
    decoder_batch: int = 8
    decoder_rate: float = 6e-4

    unet_channels: tuple[int, ...] = (64, 96, 160, 192)
    unet_layers: tuple[int, ...] = (2, 2, 1, 1)
    norm_groups: int = 8
    text_width: int = 192
    text_layers: int = 3
    tokens: int = 32
    text_steps: int = 2_000
    text_batch: int = 64
    text_rate: float = 1e-3
    phases: tuple[Phase, ...] = (
        Phase(steps=2_100, batch=192, rate=8e-4, warm_up=400, decay=0, ema=0.999, power=1.0),
        Phase(steps=1_083, batch=32, rate=2.8e-4, warm_up=60, decay=0, ema=0.998, power=1.7),
        Phase(steps=1_600, batch=32, rate=3.5e-4, warm_up=30, decay=900, ema=0.998, power=1.2),
        Phase(steps=1_000, batch=16, rate=2e-4, warm_up=30, decay=400, ema=0.995, power=1.2, painted=32, reward=0.03),
        Phase(steps=5_505, batch=256, rate=5e-4, warm_up=200, decay=1_805, ema=0.999, power=1.2),
        Phase(steps=420, batch=16, rate=2e-4, warm_up=30, decay=300, ema=0.985, power=1.2, painted=32, reward=0.04),
    )
    """Of the UNet and the text encoder together, as the weights that ship went through them, but for ``remarks``."""
    remarks: str = (
        "The phase at batch 256 ran on a GPU, on 12,000 scenes; 813 of its steps were left out, whose gradients were not finite. The UNet was shallower "
        "before it, and read no pooled text: what was added began at zero. In the fourth phase and the last it learned from pictures of its own too: a "
        "reader of latents, which is not the judge below, told what they lacked, in the fourth of their colours too."
    )
    """What the model card adds of how the weights came about."""
    drop_caption: float = 0.10
    kept_weight: float = 0.08
    """Of the loss on what is kept, which the service puts back anyway."""

    reward_steps: int = 8_000
    reward_batch: int = 64
    reward_rate: float = 1e-3

    judge_steps: int = 8_000
    judge_batch: int = 64
    judge_rate: float = 1e-3
    held_out: int = 1_000
    """Last scenes, which the judge does not learn from: its accuracy is measured on them."""

    checkpoint_every: int = 250
    sheet_every: int = 500
    log_every: int = 50

    @property
    def unet_steps(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def refining(self) -> Recipe:
        """For finished weights: the last phase alone, and a third of the decoder's steps."""
        return replace(
            self, phases=self.phases[-1:], decoder_steps=self.decoder_steps // 3, remarks="It began with the weights of another pipeline."
        )
