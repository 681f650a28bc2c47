"""A judge made without the model: it tells from a picture which backdrop it shows, and in which colours.

The backdrop by a small classifier of textures that learns from rendered scenes; the colour by statistics of theirs. Neither looks at what is
kept: only what was painted counts. Its own accuracy on rendered scenes that it has not seen is the ceiling of what it can say
about a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from training.studio import checkpoint, loop
from training.studio.arrays import SIDE
from training.studio.facts import Facts, Part
from training.studio.recipe import Recipe
from training.studio.statistics import describe
from training.studio.store import Bytes, Scenes, each_shard, save_array
from worker.images.measures import to_lab

STAGE = 4
WALLS = ("plain", "gradient", "brick", "wood", "concrete", "marble", "tiles", "curtain", "garden", "bokeh", "sea", "none")
SURFACES = ("plain", "wood", "marble", "concrete", "linen", "terrazzo", "tiles", "slate", "sand", "grass")
HEADS = {"wall": WALLS, "surface": SURFACES, "podium": ("no", "yes")}
COLOURS: dict[str, tuple[str, ...]] = {
    "white": ("white", "light grey"),
    "grey": ("grey",),
    "black": ("black", "dark grey"),
    "beige": ("beige", "cream", "peach"),
    "brown": ("brown",),
    "red": ("red", "burgundy", "coral"),
    "orange": ("orange",),
    "yellow": ("yellow", "mustard"),
    "green": ("green", "olive", "sage"),
    "teal": ("teal", "turquoise", "mint"),
    "blue": ("blue", "light blue", "navy"),
    "purple": ("purple", "lavender"),
    "pink": ("pink", "magenta"),
}
"""Colour terms (after Berlin and Kay 1969, with teal and beige) and the names of ``colours.NAMED`` that they cover."""
_TERMS = {name: term for term, names in COLOURS.items() for name in names}
_WOODS = {"light": "beige", "brown": "brown", "dark": "brown", "white": "white", "grey": "grey"}
_UNNAMED = {"slate": "black", "sand": "beige", "grass": "green", "garden": "green", "bokeh": "black", "sea": "blue"}
_TOP, _BOTTOM = slice(0, 40), slice(-40, None)
"""Rows of 256 in which the renderer has wall and surface, wherever they meet."""
_SPREAD = (6.0, 4.0, 4.0)
"""Widths of the kernel in L, a, b."""
_OTHER_LIGHT = 0.05
_HALF = 128
_VARIED = 2
"""Further versions of each scene that the classifier learns from."""
_LEAST = 300
"""Pixels that a colour is read from."""


@dataclass(frozen=True)
class Verdict:
    """What the judge sees: a member of ``HEADS`` for each head."""

    wall: str
    surface: str
    podium: str

    def agrees(self, wanted: Verdict) -> bool:
        """Whether this is the ``wanted`` backdrop. What is asked for from above has no wall to be judged: captions seldom say that it is."""
        return self.surface == wanted.surface and self.podium == wanted.podium and wanted.wall in ("none", self.wall)


def backdrop_of(facts: Facts) -> Verdict:
    """The backdrop that ``facts`` tell of, in the judge's words."""
    wall, surface = facts.wall.material if facts.wall else "none", facts.surface.material if facts.surface else "plain"
    if facts.kind == "gradient":
        return Verdict("gradient", "plain", "no")
    plain = {"paper": "plain", "paint": "plain", "gloss": "plain"}
    return Verdict(plain.get(wall, wall), plain.get(surface, surface), "yes" if facts.kind == "podium" else "no")


def colour_of(part: Part) -> str:
    """The colour term of a wall or a surface."""
    if part.material == "wood":
        return _WOODS[part.tone]
    return _TERMS[part.tone] if part.tone else _UNNAMED[part.material]


def parts_of(facts: Facts) -> dict[str, Part]:
    """The walls and surfaces of a scene whose colour can be read at its upper (``wall``) or lower border (``surface``)."""
    parts = {"wall": facts.wall, "surface": facts.surface}
    if facts.kind in ("podium", "gradient"):  # a plinth need not reach the border; a gradient has two colours anywhere
        parts.pop("surface")
    if facts.kind == "gradient":
        parts.pop("wall")
    return {role: part for role, part in parts.items() if part is not None}


class Reader(nn.Module):
    """Statistics ``(N, F)`` to a dictionary of scores ``(N, classes)``."""

    def __init__(self, statistics: int, width: int = 384) -> None:
        super().__init__()
        self.mean, self.deviation = nn.Buffer(torch.zeros(statistics)), nn.Buffer(torch.ones(statistics))
        self.layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(statistics, width), nn.ReLU(), nn.Dropout(0.4))
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(classes)) for name, classes in HEADS.items()})

    def learn_scale(self, statistics: torch.Tensor) -> None:
        """Take the scale of each statistic from ``(N, F)``."""
        self.mean.copy_(statistics.mean(dim=0))
        self.deviation.copy_(statistics.std(dim=0) + 1e-3)

    def forward(self, statistics: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.layers(((statistics - self.mean) / self.deviation).clamp(-5, 5))
        return {name: head(found) for name, head in self.heads.items()}


def train(recipe: Recipe, work: Path, log: Callable[[str], None]) -> bool:
    """Train to ``recipe.judge_steps`` or go on from a checkpoint. False if it was told to stop."""
    scenes = Scenes(work)
    statistics = torch.from_numpy(_statistics(recipe, work, log, torch.get_num_threads()))
    model = _new_reader(recipe)
    model.learn_scale(statistics.flatten(0, 1))
    wanted = [backdrop_of(facts) for facts in scenes.facts]
    targets = {head: torch.tensor([classes.index(getattr(each, head)) for each in wanted]) for head, classes in HEADS.items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.judge_rate, weight_decay=0.05)

    def learn(step: int) -> dict[str, float]:
        rng, _ = checkpoint.step_rngs(recipe.seed, STAGE, step)
        torch.manual_seed(int(rng.integers(2**62)))  # dropout's
        chosen = rng.integers(len(statistics), size=recipe.judge_batch)
        scores = model(statistics[chosen, rng.integers(statistics.shape[1], size=recipe.judge_batch)])
        losses = [functional.cross_entropy(scores[head], targets[head][chosen], label_smoothing=0.05) for head in HEADS]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {"loss": float(loss.detach())}

    return loop.train(
        loop.Run("judge", work / "judge", model, optimiser, recipe.judge_steps, recipe.judge_rate, warm_up=100), recipe, log, learn
    )


def _new_reader(recipe: Recipe) -> Reader:
    torch.manual_seed(recipe.seed + STAGE)
    blank = np.zeros((SIDE, SIDE, 3), np.uint8)
    return Reader(len(describe(blank, np.ones((SIDE, SIDE), np.bool_))))


def _statistics(recipe: Recipe, work: Path, log: Callable[[str], None], processes: int) -> npt.NDArray[np.float32]:
    """``(scenes, 1 + _VARIED, F)`` of all scenes to learn from, each as it is and varied; shards that exist are read."""
    folder, learned = work / "statistics", replace(recipe, scenes=recipe.scenes - recipe.held_out)
    for end in each_shard(partial(_describe_shard, learned, work), learned, folder, ".npy", processes):
        log(f"statistics of {end} of {learned.scenes} scenes")
    return np.concatenate([np.load(file) for file in sorted(folder.glob("*.npy"))])


def _describe_shard(recipe: Recipe, work: Path, start: int) -> int:
    """The number of its last scene, plus one."""
    scenes, end = Scenes(work), min(start + recipe.shard, recipe.scenes)
    found = np.stack([_each_way(recipe, scenes, index) for index in range(start, end)])
    save_array(work / "statistics" / f"{start:06d}.npy", found)
    return end


def _each_way(recipe: Recipe, scenes: Scenes, index: int) -> npt.NDArray[np.float32]:
    scene = np.ascontiguousarray(scenes.pixels(index))
    rng = np.random.default_rng([recipe.seed, STAGE, index])
    ways = [scene, *(_varied(rng, scene) for _ in range(_VARIED))]
    return np.stack([describe(np.ascontiguousarray(each[..., :3]), each[..., 3] < _HALF) for each in ways])


def _varied(rng: np.random.Generator, scene: Bytes) -> Bytes:
    """A scene as any painter might have painted it: mirrored, a little lighter or darker, with less of its fine texture or none."""
    varied = np.array(scene[:, ::-1] if rng.random() < 0.5 else scene)
    rgb: npt.NDArray[Any] = np.ascontiguousarray(varied[..., :3])
    match int(rng.integers(6)):
        case 0:
            rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.3, 2.0))
        case 1:
            rgb = cv2.bilateralFilter(rgb, 7, rng.uniform(10, 60), 3)
        case 2:
            rgb = cv2.resize(rgb, None, fx=(scale := rng.uniform(0.25, 0.8)), fy=scale, interpolation=cv2.INTER_AREA)
            rgb = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        case 3:
            rgb = cv2.medianBlur(rgb, int(rng.choice((3, 5, 7))))
        case 4:
            rgb = _compressed(rgb, ".webp", (cv2.IMWRITE_WEBP_QUALITY, int(rng.integers(1, 30))))
    rgb = rgb * np.float32(rng.uniform(0.92, 1.08)) + rng.standard_normal(rgb.shape, np.float32) * np.float32(rng.uniform(0, 2))
    rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        rgb = _compressed(rgb, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 95))))
    varied[..., :3] = rgb
    return varied


def _compressed(rgb: npt.NDArray[Any], extension: str, options: tuple[int, int]) -> Bytes:
    _, file = cv2.imencode(extension, np.ascontiguousarray(rgb[..., ::-1]), options)
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


class Judge:
    """Sees pictures of 256×256."""

    def __init__(self, model: Reader, colours: ColourStatistics) -> None:
        self._model = model.eval()
        self.colours = colours

    @classmethod
    def load(cls, recipe: Recipe, work: Path) -> Judge:
        """Raises ``FileNotFoundError`` before the stage ``judge`` was run."""
        model = _new_reader(recipe)
        model.load_state_dict(checkpoint.of_stage(work, "judge", recipe.judge_steps)["model"])
        return cls(model, ColourStatistics.of(Scenes(work), recipe.scenes - recipe.held_out))

    @torch.inference_mode()
    def backdrops(self, pictures: Bytes, judged: npt.NDArray[np.bool_]) -> list[Verdict]:
        """What stands behind in each of ``(N, 256, 256, 3)``, seen where ``judged (N, 256, 256)``."""
        statistics = np.stack([describe(np.ascontiguousarray(each), seen) for each, seen in zip(pictures, judged, strict=True)])
        scores: dict[str, torch.Tensor] = self._model(torch.from_numpy(statistics))
        best = {head: scores[head].argmax(dim=1).tolist() for head in HEADS}
        rows = zip(*best.values(), strict=True)
        return [Verdict(**{head: HEADS[head][index] for head, index in zip(best, row, strict=True)}) for row in rows]


class ColourStatistics:
    """Which colour term a wall or a surface has, by the rendered ones that look most like it under the same light.

    A kernel density over the median CIELAB of the strip, each tone of a term counted alike.
    """

    def __init__(self, lab: npt.NDArray[np.float32], terms: list[str], tones: list[str], lights: list[str]) -> None:
        self._lab, self._lights = lab, np.array(lights)
        frequency = {tone: tones.count(tone) for tone in set(tones)}
        self._weights = np.array([1 / frequency[tone] for tone in tones])
        self._members = {term: np.array([each == term for each in terms]) for term in COLOURS}

    @classmethod
    def of(cls, scenes: Scenes, count: int) -> ColourStatistics:
        """From the first ``count`` scenes."""
        lab, terms, tones, lights = [], [], [], []
        for index in range(count):
            facts = scenes.facts[index]
            pixels = scenes.pixels(index)
            for role, part in parts_of(facts).items():
                value = strip_lab(pixels[..., :3], pixels[..., 3] < _HALF, role)
                if value is not None:
                    lab.append(value)
                    terms.append(colour_of(part))
                    tones.append(f"{part.material} {part.tone} {part.shade}")
                    lights.append(_light(facts))
        return cls(np.array(lab, np.float32), terms, tones, lights)

    def term(self, picture: Bytes, judged: npt.NDArray[np.bool_], role: str, facts: Facts) -> str | None:
        """The likeliest of ``COLOURS`` at the border of ``role`` under the light of ``facts``; ``None`` where too little is to be seen."""
        lab = strip_lab(picture, judged, role)
        if lab is None:
            return None
        near = np.exp(-(((self._lab - lab) / np.array(_SPREAD)) ** 2).sum(axis=1) / 2)
        near = (near + 1e-12) * self._weights * np.where(self._lights == _light(facts), 1.0, _OTHER_LIGHT)
        return max(self._members, key=lambda term: float(near[self._members[term]].sum()))


def strip_lab(picture: Bytes, judged: npt.NDArray[np.bool_], role: str) -> npt.NDArray[np.float32] | None:
    """The median CIELAB colour of what may be looked at, at the upper border for a wall, at the lower for a surface."""
    rows = _TOP if role == "wall" else _BOTTOM
    pixels = picture[rows][judged[rows]]
    if len(pixels) < _LEAST:
        return None
    return np.asarray(np.median(to_lab(pixels[None])[0], axis=0), np.float32)


def _light(facts: Facts) -> str:
    return f"{facts.light} {facts.warmth}"
