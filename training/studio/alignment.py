"""The UNet learns to paint what was asked for, from pictures that it paints itself.

The diffusion loss only ever sees rendered scenes with noise on them, and counts a vein of marble no more than any other pixels. Here pictures are
painted as they are served, guided and step by step; at each step the picture that the UNet then foresees goes to the ``reward``, and what that misses
goes back into the UNet through this one step (Xu et al. 2023, "ImageReward", arXiv 2304.05977, ReFL; Clark et al. 2023, arXiv 2309.17400). Pictures in
progress are kept from one training step to the next: each of a batch is at another step of its own, and no forward pass is for nothing.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from training.studio import latents, reward, sampling
from training.studio.captions import caption
from training.studio.judge import HEADS
from training.studio.precision import autocast
from training.studio.recipe import Phase
from training.studio.vocabulary import tokenize

STAGE = 7
ASKED = tuple(HEADS)
"""Of what the reward reads. Not colours: of these it knows 89 %, and the UNet paints more of them right before it is asked for any."""
STEPS = 20
"""As it is served."""
_LEAST_SIGNAL = 0.002
"""Before there is so much in a picture, what is foreseen is the mean of all that a caption could mean, and not looked at."""


@dataclass
class Pictures:
    """``N`` pictures in progress: noisy latents, which of ``STEPS`` comes next, mask, masked and clean latents, tokens, the reward's targets."""

    noisy: torch.Tensor
    at: torch.Tensor
    mask: torch.Tensor
    masked: torch.Tensor
    clean: torch.Tensor
    tokens: torch.Tensor
    targets: torch.Tensor

    def __getitem__(self, some: Any) -> Pictures:
        return Pictures(*(getattr(self, field.name)[some] for field in fields(self)))

    def put(self, some: Any, others: Pictures) -> None:
        """Replace ``some``."""
        for field in fields(self):
            getattr(self, field.name)[some] = getattr(others, field.name)


class Alignment:
    """The pictures in progress, and a step of all of them, in ``threads`` of a ``pool``."""

    def __init__(self, tokenizer: Any, data: latents.Latents, model: reward.Reward, pool: Executor, threads: int) -> None:
        self.pictures: Pictures | None = None
        self._pool, self._threads, self._device = pool, threads, data.latents.device
        self._tokenizer, self._data, self._reward = tokenizer, data, model.to(self._device)
        targets = reward.targets_of(data.facts)
        self._targets = torch.stack([targets[name] for name in ASKED], dim=1).to(self._device)
        self._surroundings = reward.surroundings(data)
        self.empty = tokenize(tokenizer, [""]).to(self._device)
        self._timesteps, self._signal = (each.to(self._device) for each in _schedule())

    def step(self, networks: torch.nn.ModuleDict, phase: Phase, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        """Add the gradients of what the reward misses in ``phase.painted`` pictures to the parameters' of ``networks``.

        What it misses in those that this step finished: less than in others, since the UNet has just learned from them.
        """
        pictures = self.pictures or self._begin(phase.painted, rng, generator)
        finished = torch.nonzero(pictures.at == STEPS)[:, 0]
        if len(finished):
            pictures.put(finished, self._draw(len(finished), rng, generator)[0])
        self.pictures = pictures
        parts = torch.arange(phase.painted, device=self._device).tensor_split(self._threads)
        weight = phase.reward / phase.painted
        missed = torch.cat(list(self._pool.map(lambda part: self._step(networks, pictures, part, weight), parts)))
        return missed[pictures.at == STEPS]

    def _begin(self, count: int, rng: np.random.Generator, generator: torch.Generator) -> Pictures:
        """``count`` new ones at all steps: what is not at its first is the scene of its caption with noise on it."""
        pictures, scenes = self._draw(count, rng, generator)
        pictures.at = torch.from_numpy(rng.permutation(count) * STEPS // count).to(self._device)
        signal = self._signal[pictures.at][:, None, None, None]
        pictures.noisy = signal.sqrt() * self._scaled(self._data.latents[scenes, 0]) + (1 - signal).sqrt() * pictures.noisy
        return pictures

    def _draw(self, count: int, rng: np.random.Generator, generator: torch.Generator) -> tuple[Pictures, torch.Tensor]:
        """``count`` pictures to be, and the scenes that they are to be like, as ``int64 (count,)``.

        What is kept is another scene's: its rim, its light and what it reflects tell of a backdrop that is not the one that is asked for, as a
        photo's do. Where scene and caption belong together the UNet need not read.
        """
        data = self._data
        scenes = torch.from_numpy(rng.integers(len(data.facts), size=count)).to(self._device)
        texts = [caption(rng, data.facts[scene], complete=True) for scene in scenes.tolist()]
        chosen = torch.from_numpy(rng.integers(len(self._surroundings), size=count)).to(self._device)
        places = self._surroundings[chosen].unbind(dim=1)
        clean, masked = (self._scaled(each[places]) for each in (data.latents, data.masked))
        mask = data.masks[places].float()[:, None]
        noise = torch.randn(clean.shape, generator=generator, device=self._device)
        at = torch.zeros(count, dtype=torch.long, device=self._device)
        tokens = tokenize(self._tokenizer, texts).to(self._device)
        return Pictures(noise, at, mask, masked, clean, tokens, self._targets[scenes]), scenes

    def _scaled(self, values: torch.Tensor) -> torch.Tensor:
        return values.float() * self._data.scaling_factor

    def _step(self, networks: torch.nn.ModuleDict, pictures: Pictures, part: torch.Tensor, weight: float) -> torch.Tensor:
        """A step of the pictures of ``part``; the loss of each."""
        some = pictures[part]
        signal = self._signal[some.at][:, None, None, None]
        guided = self._guided(networks, some, looked_at=signal.flatten() >= _LEAST_SIGNAL)
        foreseen = signal.sqrt() * some.noisy - (1 - signal).sqrt() * guided
        shown = torch.where(some.mask > 0, foreseen, some.clean)
        targets = dict(zip(ASKED, some.targets.unbind(dim=1), strict=True))
        losses: torch.Tensor = self._reward(shown, some.mask, targets)
        total = weight * (losses * signal.flatten().sqrt()).sum()
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            noise = signal.sqrt() * guided + (1 - signal).sqrt() * some.noisy
            following = self._signal[some.at + 1][:, None, None, None]
            some.noisy, some.at = following.sqrt() * foreseen + (1 - following).sqrt() * noise, some.at + 1
            pictures.put(part, some)
        return losses.detach()

    def _guided(self, networks: torch.nn.ModuleDict, some: Pictures, looked_at: torch.Tensor) -> torch.Tensor:
        """The guided prediction ``(N, 4, h, w)``. Gradients go through the rows with text of what is ``looked_at``."""

        def predicted(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            shown = torch.cat([some.noisy[rows], some.mask[rows], some.masked[rows]], dim=1)
            with autocast(self._device.type):
                embeds = networks["text_encoder"](tokens)[0]
                said: torch.Tensor = networks["unet"](shown, self._timesteps[some.at[rows]], embeds, return_dict=False)[0]
            return said.float()

        count, rows = len(some.at), torch.arange(len(some.at), device=self._device)
        unseen = rows[~looked_at]
        text = torch.zeros_like(some.noisy)
        with torch.no_grad():
            empty = predicted(torch.cat([rows, unseen]), torch.cat([self.empty.expand(count, -1), some.tokens[unseen]]))
            text[unseen] = empty[count:]
        if bool(looked_at.any()):
            text = text.index_put((rows[looked_at],), predicted(rows[looked_at], some.tokens[looked_at]))
        return empty[:count] + sampling.GUIDANCE * (text - empty[:count])


def _schedule() -> tuple[torch.Tensor, torch.Tensor]:
    """The timesteps of ``STEPS``, and the share of signal before each of them and after the last."""
    scheduler = sampling.scheduler()
    scheduler.set_timesteps(STEPS)
    timesteps: torch.Tensor = scheduler.timesteps
    return timesteps, torch.cat([sampling.alphas_cumprod()[timesteps], torch.ones(1)])
