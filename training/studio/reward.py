"""A reader of latents: which wall, surface and plinth they show, in which colours. What the alignment asks (``alignment.py``).

Statistics of what was painted, in bands from top to bottom, as they describe textures (Heeger and Bergen 1995; Portilla and Simoncelli 2000), and
a small classifier. Gradients of such statistics make a texture more of its kind everywhere, where those of a convolutional network, which was less
often right besides, may do with a trick somewhere. It is not the judge: that one sees pixels, has other statistics and learned apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from training.studio import checkpoint, latents, loop
from training.studio.facts import Facts
from training.studio.judge import COLOURS, HEADS, backdrop_of, colour_of, parts_of
from training.studio.recipe import LATENT_CHANNELS, Recipe

STAGE = 6
TERMS = tuple(COLOURS)
CLASSES = {**HEADS, "wall colour": TERMS, "surface colour": TERMS}
_UNASKED = -100
"""``cross_entropy``'s word for what does not count."""
_LEAST_PAINTED = 0.6
"""Share of a picture: where less is painted, what is kept says what to paint."""
_MEMBERS, _WIDTH, _SMOOTHING = 2, 512, 0.05
_ROWS, _BANDS, _LEVELS, _MIXTURES = 16, 4, 3, 12
_FILTERS = (
    ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)),
    ((-1, -2, -1), (0, 0, 0), (1, 2, 1)),
    ((-2, -1, 0), (-1, 0, 1), (0, 1, 2)),
    ((0, -1, -2), (1, 0, -1), (2, 1, 0)),
    ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
)
"""Edges in four directions (Sobel) and spots."""
_FAINT = 0.02
_TOGETHER = 100


class Statistics(nn.Module):
    """What was painted, in numbers: ``(N, 4, 64, 64)`` of unit deviation and where, ``(N, 1, 64, 64)``, to ``(N, F)``."""

    def __init__(self) -> None:
        super().__init__()
        mixtures = torch.randn(_MIXTURES, LATENT_CHANNELS, 1, 1, generator=torch.Generator().manual_seed(STAGE))
        filters = torch.tensor(_FILTERS, dtype=torch.float32)[:, None]
        self.mixtures, self.filters = (
            nn.Buffer(each / each.flatten(1).norm(dim=1)[:, None, None, None]) for each in (mixtures, filters.repeat(_MIXTURES, 1, 1, 1))
        )

    def forward(self, pictures: torch.Tensor, painted: torch.Tensor) -> torch.Tensor:
        painted = _eroded(painted)  # edges there are the kept thing's
        mean = _mean(pictures, painted, _ROWS)
        variance = (_mean(pictures**2, painted, _ROWS) - mean**2).clamp(min=0)
        found = [mean, mean.diff(dim=2), (variance + 1e-3).log()]
        for _ in range(_LEVELS):
            mixed = functional.pad(functional.conv2d(pictures, self.mixtures), (1, 1, 1, 1), mode="reflect")
            edges = functional.conv2d(mixed, self.filters, groups=_MIXTURES)
            # How strong, how sparse, and whether light on dark or dark on light.
            powers = (
                _mean(edges.abs(), painted, _BANDS),
                (_mean(edges**2, painted, _BANDS) + 1e-4) ** (1 / 2),
                (_mean(edges.clamp(min=0) ** 3, painted, _BANDS) + 1e-6) ** (1 / 3),
                (_mean(edges**4, painted, _BANDS) + 1e-6) ** (1 / 4),
            )
            found += [(power + _FAINT).log() for power in powers]
            pictures, painted = functional.avg_pool2d(pictures, 2), -functional.max_pool2d(-painted, 2)
        return torch.cat([each.flatten(1) for each in found], dim=1)


def _eroded(painted: torch.Tensor) -> torch.Tensor:
    return -functional.max_pool2d(-painted, 3, stride=1, padding=1)


def _mean(values: torch.Tensor, painted: torch.Tensor, bands: int) -> torch.Tensor:
    """``(N, C, bands)``: the mean in each band of what was painted, of all where nothing was."""
    values, weights = (each.reshape(*each.shape[:2], bands, -1) for each in (values, painted + 1e-3))
    return (values * weights).sum(dim=3) / weights.sum(dim=3)


class _Member(nn.Module):
    def __init__(self, statistics: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(statistics, _WIDTH), nn.ReLU(), nn.Dropout(0.4))
        self.heads = nn.ModuleDict({name: nn.Linear(_WIDTH, len(classes)) for name, classes in CLASSES.items()})

    def forward(self, statistics: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.layers(statistics)
        return {name: head(found) for name, head in self.heads.items()}


class Reward(nn.Module):
    """``Statistics`` to the scores of each of ``CLASSES``, by members that learned alike from other drop-outs: a trick on one is none on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = Statistics()
        count = self.statistics(torch.zeros(1, LATENT_CHANNELS, 64, 64), torch.ones(1, 1, 64, 64)).shape[1]
        self.mean, self.deviation = nn.Buffer(torch.zeros(count)), nn.Buffer(torch.ones(count))
        self.members = nn.ModuleList(_Member(count) for _ in range(_MEMBERS))

    def scores(self, statistics: torch.Tensor) -> dict[str, torch.Tensor]:
        """``(members, N, classes)`` of each, from ``(N, F)``."""
        scaled = ((statistics - self.mean) / self.deviation).clamp(-5, 5)
        found = [member(scaled) for member in self.members]
        return {name: torch.stack([each[name] for each in found]) for name in CLASSES}

    def loss(self, statistics: torch.Tensor, targets: dict[str, torch.Tensor], *, smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy of each picture ``(N,)``: the sum over what ``targets`` name of ``CLASSES``, the mean over the members."""
        scores = self.scores(statistics)
        losses = [
            functional.cross_entropy(member, wanted, reduction="none", label_smoothing=smoothing, ignore_index=_UNASKED)
            for name, wanted in targets.items()
            for member in scores[name]
        ]
        return torch.stack(losses).sum(dim=0) / _MEMBERS

    def forward(self, pictures: torch.Tensor, painted: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """What is missed in each of ``pictures (N, 4, 64, 64)``."""
        return self.loss(self.statistics(pictures, painted), targets)


def targets_of(facts: Sequence[Facts]) -> dict[str, torch.Tensor]:
    """The right class ``(N,)`` of each of ``CLASSES``; what a caption does not ask for does not count."""
    rows = []
    for each in facts:
        backdrop, colours = backdrop_of(each), {role: colour_of(part) for role, part in parts_of(each).items()}
        row = {name: HEADS[name].index(getattr(backdrop, name)) for name in HEADS}
        if backdrop.wall == "none":  # seen from above, which captions seldom say
            row["wall"] = _UNASKED
        for role in ("wall", "surface"):
            row[f"{role} colour"] = TERMS.index(colours[role]) if role in colours else _UNASKED
        rows.append(row)
    return {name: torch.tensor([row[name] for row in rows]) for name in CLASSES}


def surroundings(data: latents.Latents) -> torch.Tensor:
    """``(M, 2)``: the scenes, and which of their masks, where nearly all is painted."""
    return torch.nonzero(data.masks.float().mean(dim=(2, 3)) >= _LEAST_PAINTED)


def train(recipe: Recipe, work: Path, log: Callable[[str], None]) -> bool:
    """Train to ``recipe.reward_steps`` or go on from a checkpoint. False if it was told to stop."""
    if checkpoint.is_done(work, "reward", recipe.reward_steps):
        return True
    data = latents.load(work)
    pairs = surroundings(data)
    learned = pairs[pairs[:, 0] < len(data.facts) - recipe.held_out]
    targets = targets_of([data.facts[scene] for scene in learned[:, 0].tolist()])
    torch.manual_seed(recipe.seed + STAGE)
    model = Reward()
    # As they are, and once as they might have been painted.
    ways = torch.stack([_statistics(model, data, learned, seed) for seed in (None, recipe.seed)], dim=1)
    model.mean.copy_(ways.mean(dim=(0, 1)))
    model.deviation.copy_(ways.flatten(0, 1).std(dim=0) + 1e-3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.reward_rate, weight_decay=0.05, fused=True)

    def learn(step: int) -> dict[str, float]:
        rng, _ = checkpoint.step_rngs(recipe.seed, STAGE, step)
        torch.manual_seed(int(rng.integers(2**62)))  # dropout's
        chosen, way = (torch.from_numpy(rng.integers(count, size=recipe.reward_batch)) for count in ways.shape[:2])
        wanted = {name: each[chosen] for name, each in targets.items()}
        loss = model.loss(ways[chosen, way], wanted, smoothing=_SMOOTHING).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {"loss": float(loss.detach())}

    run = loop.Run("reward", work / "reward", model, optimiser, recipe.reward_steps, recipe.reward_rate, warm_up=100)
    if not loop.train(run, recipe, log, learn):
        return False
    unseen = pairs[pairs[:, 0] >= len(data.facts) - recipe.held_out]
    log(
        "reward, on scenes that it has not seen: " + ", ".join(f"{name} {share:.3f}" for name, share in _right(model, data, unseen).items())
    )
    return True


def load(recipe: Recipe, work: Path) -> Reward:
    """The trained reader, frozen. Raises ``FileNotFoundError`` before there is one."""
    model = Reward().requires_grad_(False).eval()  # noqa: FBT003 (torch's own signature)
    model.load_state_dict(checkpoint.of_stage(work, "reward", recipe.reward_steps)["model"])
    return model


@torch.no_grad()
def _statistics(model: Reward, data: latents.Latents, pairs: torch.Tensor, seed: int | None) -> torch.Tensor:
    """``(M, F)`` of ``pairs``, varied by a ``seed``."""
    found = []
    for start in range(0, len(pairs), _TOGETHER):
        places = pairs[start : start + _TOGETHER].unbind(dim=1)
        pictures = data.latents[places].float() * data.scaling_factor
        if seed is not None:
            _, generator = checkpoint.step_rngs(seed, STAGE, start)
            pictures = varied(pictures, generator)
        found.append(model.statistics(pictures, data.masks[places].float()[:, None]))
    return torch.cat(found)


def varied(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """``(N, 4, h, w)`` as a painter might leave them: noisy, coarse, lighter."""

    def drawn(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand((len(pictures), 1, 1, 1), generator=generator)

    coarse = functional.interpolate(functional.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    pictures = pictures + drawn(0, 1) * (drawn(0, 1) < 0.5) * (coarse - pictures)
    noise = torch.randn(pictures.shape, generator=generator)
    return pictures * drawn(0.93, 1.07) + noise * drawn(0, 0.35) * (drawn(0, 1) < 0.6)


def _right(model: Reward, data: latents.Latents, pairs: torch.Tensor) -> dict[str, float]:
    """The share of right answers about ``pairs``."""
    targets = targets_of([data.facts[scene] for scene in pairs[:, 0].tolist()])
    with torch.no_grad():
        found = model.eval().scores(_statistics(model, data, pairs, None))
    answers = {name: scores.mean(dim=0).argmax(dim=1) == targets[name] for name, scores in found.items()}
    return {name: float(answer[targets[name] != _UNASKED].float().mean()) for name, answer in answers.items()}
