"""The UNet and its text encoder, trained together on the latents.

v-prediction (Salimans and Ho 2022, arXiv 2202.00512) under betas that are rescaled so that the last step is pure noise (Lin et al. 2023,
arXiv 2305.08891); the loss counts what is painted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from training.studio import alignment, checkpoint, latents, reward, sampling, text
from training.studio.alignment import Alignment, Pictures
from training.studio.captions import caption
from training.studio.precision import autocast
from training.studio.recipe import LATENT_CHANNELS, VAE_FACTOR, Phase, Recipe
from training.studio.schedule import warm_plateau
from training.studio.store import sheet
from training.studio.vocabulary import tokenize

STAGE = 3
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""What the UNet is shown ``(N, 9, h, w)``, timesteps ``(N,)``, tokens ``(N, T)``, what it should say ``(N, 4, h, w)``, weights ``(N, 1, h, w)``."""
TRAIN_STEPS = 1000
SIDE = 256
_ATTENDED_SIDE = 16
_TOGETHER = 16
"""Of a batch, at most so many at once by one thread of a CPU."""
_AHEAD = 4
"""Processes that draw batches ahead of a GPU, which would else wait for captions."""


def build_unet(recipe: Recipe) -> Any:
    """Attention where there are at most 16×16 places: at 32×32 it alone would take half of the time of a step."""
    attends = [SIDE // VAE_FACTOR >> level <= _ATTENDED_SIDE for level in range(len(recipe.unet_channels))]
    return UNet2DConditionModel(
        sample_size=SIDE // VAE_FACTOR,
        in_channels=2 * LATENT_CHANNELS + 1,
        out_channels=LATENT_CHANNELS,
        block_out_channels=recipe.unet_channels,
        layers_per_block=recipe.unet_layers,
        norm_num_groups=recipe.norm_groups,
        cross_attention_dim=recipe.text_width,
        # Attention is far from where textures are drawn: pooled, the text reaches every level with the time.
        addition_embed_type="text",
        addition_embed_type_num_heads=max(1, recipe.text_width // 32),
        attention_head_dim=tuple(max(1, width // 32) for width in recipe.unet_channels),
        down_block_types=tuple("CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)),
    )


class Drawn(NamedTuple):
    """What a step's batch is made of: scenes, masks of theirs and timesteps ``(N,)``, tokens ``(N, T)``."""

    scenes: torch.Tensor
    masks: torch.Tensor
    timesteps: torch.Tensor
    tokens: torch.Tensor


class Draws(Dataset[Drawn]):
    """What each step is made of, by the step's number alone."""

    def __init__(self, recipe: Recipe, tokenizer: Any, data: latents.Latents) -> None:
        self._recipe, self._tokenizer, self._facts, self._masks = recipe, tokenizer, data.facts, data.masks.shape[1]

    def __getitem__(self, step: int) -> Drawn:
        recipe = self._recipe
        phase, _ = phase_of(recipe, step)
        rng, _ = checkpoint.step_rngs(recipe.seed, STAGE, step)
        scenes = rng.integers(len(self._facts), size=phase.batch)
        masks = rng.integers(self._masks, size=phase.batch)
        texts = [self._caption(rng, int(scene)) for scene in scenes]
        # One timestep of each stratum: less variance than drawing them freely.
        strata = (np.arange(phase.batch) + rng.random(phase.batch)) / phase.batch
        timesteps = (strata**phase.power * TRAIN_STEPS).astype(np.int64)
        tokens = tokenize(self._tokenizer, texts)
        return Drawn(torch.from_numpy(scenes), torch.from_numpy(masks), torch.from_numpy(timesteps), tokens)

    def _caption(self, rng: np.random.Generator, scene: int) -> str:
        worded = caption(rng, self._facts[scene])
        return "" if rng.random() < self._recipe.drop_caption else worded


def phase_of(recipe: Recipe, step: int) -> tuple[Phase, int]:
    """The phase of ``step``, and the step's number in it. Raises ``ValueError`` after the last."""
    number = step
    for phase in recipe.phases:
        if number < phase.steps:
            return phase, number
        number -= phase.steps
    raise ValueError(f"step {step} comes after the last of {recipe.unet_steps}")


class Learner:
    """The two networks on a ``device``, their optimiser and their slow-moving averages. On a CPU ``threads`` share each batch."""

    def __init__(self, recipe: Recipe, tokenizer: Any, *, threads: int = 1, device: str = "cpu") -> None:
        torch.manual_seed(recipe.seed + STAGE)
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.device = device
        unet, text_encoder = build_unet(recipe), text.build(recipe, tokenizer)
        if device == "cpu":
            # Here torch's fused attention spends a quarter of a step going backwards; plain products and softmax do not.
            unet.set_attn_processor(AttnProcessor())
            text_encoder.set_attn_implementation("eager")
        else:
            unet.to(memory_format=torch.channels_last).compile(dynamic=False)
        self.networks = torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).to(device).train()
        self.ema = {name: value.detach().clone() for name, value in self.networks.state_dict().items()}
        self.optimiser = self._new_optimiser()
        self.step = 0
        self.alignment: Alignment | None = None
        """What paints in phases with a reward."""
        self.missed: list[torch.Tensor] = []
        """The reward's loss of each picture that was finished, for the log."""
        self._threads, self.pool = threads, ThreadPoolExecutor(threads)
        self._alphas_cumprod = sampling.alphas_cumprod().to(device)

    def begin(self, **weights: dict[str, torch.Tensor]) -> None:
        """Start from the weights of a network, at least from a ``text_encoder`` that can read."""
        for network, learned in weights.items():
            self.networks[network].load_state_dict(learned)
            self.ema |= {f"{network}.{name}": value.detach().to(self.device, torch.float32, copy=True) for name, value in learned.items()}

    def state(self) -> dict[str, Any]:
        pictures = self.alignment.pictures if self.alignment else None
        return {
            "networks": self.networks.state_dict(), "ema": self.ema, "optimiser": self.optimiser.state_dict(),
            "pictures": vars(pictures) if pictures else None,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        self.networks.load_state_dict(state["networks"])
        self.ema = {name: value.to(self.device) for name, value in state["ema"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        if self.alignment and state.get("pictures"):
            self.alignment.pictures = Pictures(**{name: value.to(self.device) for name, value in state["pictures"].items()})
        self.step = state["step"]

    def averaged(self) -> torch.nn.ModuleDict:
        """New networks with the averaged weights."""
        networks = torch.nn.ModuleDict({"unet": build_unet(self.recipe), "text_encoder": text.build(self.recipe, self.tokenizer)})
        networks.load_state_dict(self.ema)
        return networks.eval()

    def learn(self, data: latents.Latents, drawn: Drawn) -> torch.Tensor:
        """One optimiser step; its loss, which a GPU may still be computing. A step whose gradient is not finite changes no weight."""
        phase, step = phase_of(self.recipe, self.step)
        if step == 0 and self.step > 0:
            self.networks.load_state_dict(self.ema)
            self.optimiser = self._new_optimiser()
            if self.alignment:  # what an earlier phase was painting is not this one's
                self.alignment.pictures = None
        _, generator = checkpoint.step_rngs(self.recipe.seed, STAGE, self.step, self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = warm_plateau(step, steps=phase.steps, warm_up=phase.warm_up, decay=phase.decay, peak=phase.rate)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._backward(self._batch(data, drawn, generator))
        if phase.painted:
            if self.alignment is None:
                raise ValueError("a phase that paints needs an alignment")
            rngs = checkpoint.step_rngs(self.recipe.seed, alignment.STAGE, self.step, self.device)
            self.missed.append(self.alignment.step(self.networks, phase, *rngs))
        norm = torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        # torch's fused optimisers leave a step out on this word, by which its GradScaler tells them, without waiting for the GPU.
        self.optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self.step += 1
        self._average(min(phase.ema, (2 + step) / (11 + step)))
        return torch.where(torch.isfinite(norm), loss, torch.nan)

    def _new_optimiser(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.networks.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def _batch(self, data: latents.Latents, drawn: Drawn, generator: torch.Generator) -> Batch:
        scenes, which, timesteps, tokens = (each.to(self.device, non_blocking=True) for each in drawn)
        places = scenes, which
        clean, masked = (each[places].float() * data.scaling_factor for each in (data.latents, data.masked))
        mask = data.masks[places].float()[:, None]
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        signal, noisiness = (
            part[timesteps][:, None, None, None] for part in (self._alphas_cumprod.sqrt(), (1 - self._alphas_cumprod).sqrt())
        )
        noisy, target = signal * clean + noisiness * noise, signal * noise - noisiness * clean
        weight = mask + (1 - mask) * self.recipe.kept_weight
        return torch.cat([noisy, mask, masked], dim=1), timesteps, tokens, target, weight

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Add the gradients of ``batch`` to the parameters'; its loss.

        A GPU takes it whole. On a CPU each thread takes a part of it from end to end: they meet once in a step and not in every product, which is
        faster, and does not collapse where something else wants a core. Parts are small enough for main memory.
        """
        if self.device != "cpu":
            return self._backward_part(*batch, share=1.0)
        parts = list(zip(*(torch.split(each, min(_TOGETHER, -(-len(each) // self._threads))) for each in batch), strict=True))
        losses = self.pool.map(lambda part: self._backward_part(*part, share=len(part[0]) / len(batch[0])), parts)
        return torch.stack(list(losses)).sum()

    def _backward_part(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        tokens: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor,
        *,
        share: float,
    ) -> torch.Tensor:
        with autocast(self.device):
            embeds = self.networks["text_encoder"](tokens)[0]
            predicted = self.networks["unet"](noisy, timesteps, embeds, return_dict=False)[0]
        error = ((predicted.float() - target) ** 2 * weight).mean(dim=(1, 2, 3)) / weight.mean(dim=(1, 2, 3))
        loss: torch.Tensor = error.mean() * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _average(self, decay: float) -> None:
        learned = {name: value for name, value in self.networks.state_dict().items() if value.is_floating_point()}
        torch._foreach_lerp_([self.ema[name] for name in learned], list(learned.values()), 1 - decay)


def train(recipe: Recipe, work: Path, log: Callable[[str], None], start: Path | None = None, device: str = "cpu") -> bool:
    """Train on ``device`` through all phases of ``recipe``, from the weights of the pipeline ``start`` if there is one, or go on from a checkpoint.

    False if it was told to stop.
    """
    if checkpoint.is_done(work, "unet", recipe.unet_steps):
        return True
    folder = work / "unet"
    threads, state = torch.get_num_threads(), checkpoint.newest(folder)
    data, stopper = latents.load(work, device), checkpoint.Stopper()
    learner = Learner(recipe, text.tokenizer_for(recipe, work), threads=threads, device=device)
    if any(phase.painted for phase in recipe.phases):
        model = reward.load(recipe, work)
        learner.alignment = Alignment(learner.tokenizer, data, model, learner.pool, threads if device == "cpu" else 1)
    if state:
        learner.restore(state)
    else:
        learner.begin(**(weights_of(start) if start else {"text_encoder": text.load(recipe, work)}))
    losses: list[torch.Tensor] = []
    since = time.monotonic()
    for drawn in ahead(Draws(recipe, learner.tokenizer, data), range(learner.step, recipe.unet_steps), device):
        with _each_alone(threads):
            losses.append(learner.learn(data, drawn))
        last = learner.step == recipe.unet_steps
        if learner.step % recipe.log_every == 0:
            log(
                f"unet {learner.step} of {recipe.unet_steps}: {_figures(losses, learner.missed)}, {(time.monotonic() - since) / len(losses):.3f} s"
            )
            losses, learner.missed, since = [], [], time.monotonic()
        if learner.step % recipe.checkpoint_every == 0 or last or stopper.stopped:
            checkpoint.save(folder, learner.step, learner.state())
        if learner.step % recipe.sheet_every == 0 or last:
            networks = learner.averaged()
            pictures = sampling.prompts_sheet(recipe, work, networks, learner.tokenizer, data.scaling_factor)
            sheet(folder / f"sheet-{learner.step:07d}.jpg", pictures)
            since = time.monotonic()
        if stopper.stopped:
            return False
    return True


def _figures(losses: list[torch.Tensor], missed: list[torch.Tensor]) -> str:
    """What the log says of some steps. Raises ``FloatingPointError`` where none had a finite gradient: nothing changes any more."""
    found = torch.stack(losses)
    left_out = int(found.isnan().sum())
    if left_out == len(losses):
        raise FloatingPointError(f"none of {left_out} steps had a finite gradient: go on from the last checkpoint, at a lower rate")
    figures = [f"loss {float(found.nanmean()):.4f}"]
    if missed:
        figures.append(f"reward misses {float(torch.cat(missed).mean()):.3f}")
    if left_out:
        figures.append(f"{left_out} left out")
    return ", ".join(figures)


def weights_of(pipeline: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What ``Learner.begin`` takes, from a pipeline directory."""
    return {name: load_file(next((pipeline / name).glob("*.safetensors"))) for name in ("unet", "text_encoder")}


@contextmanager
def _each_alone(threads: int) -> Iterator[None]:
    """No thread of ours is helped by torch's own."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ahead(draws: Draws, steps: range, device: str) -> Iterator[Drawn]:
    """``draws`` of ``steps``; for a GPU by processes that draw ahead of it."""
    processes = 0 if device == "cpu" else _AHEAD
    yield from DataLoader(draws, batch_size=None, sampler=steps, num_workers=processes, prefetch_factor=8 if processes else None)
