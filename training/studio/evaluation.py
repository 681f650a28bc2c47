"""Does the model paint what was asked for? Judged on pairs that it has not seen, around things from real photos."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from api_schemas.requests import Scheduler
from core.settings import Settings
from training.studio.captions import caption
from training.studio.cutouts import CutOuts
from training.studio.facts import Facts
from training.studio.judge import Judge, Verdict, backdrop_of, colour_of, parts_of
from training.studio.recipe import Recipe
from training.studio.scene import contact_sheet, draw_scene
from training.studio.store import Bytes, Scenes, sheet
from worker.engines.base import Engine, PaintRequest, Sampling, begin
from worker.engines.registry import build_engine, discover
from worker.images.blend import composite

PAIRS = 200
_SERIES = 1_000_003
"""Seed of the scenes whose captions are asked for; the training has another."""
_TOGETHER = 8
HEADING = "## Figures"


@dataclass(frozen=True)
class Pair:
    """One thing to ask for: a held-out seed and caption, and a real cut-out ``(256, 256, 4)`` that is kept."""

    seed: int
    text: str
    facts: Facts
    thing: str
    cutout: Bytes


@dataclass(frozen=True)
class Score:
    """What the judge said of one picture. ``colours`` tells for each wall or surface whether its colour is the one that was named."""

    wanted: Verdict
    seen: Verdict
    colours: dict[str, bool]

    @property
    def backdrop(self) -> bool:
        return self.seen.agrees(self.wanted)


def draw_pairs(segmenter: Path, count: int = PAIRS) -> list[Pair]:
    """The first ``count`` pairs, always the same."""
    cutouts, pairs = CutOuts(segmenter), []
    for index in range(count):
        rng = np.random.default_rng([_SERIES, 1, index])
        facts = draw_scene(_SERIES, index).facts
        thing, cutout = cutouts.place(rng)
        pairs.append(Pair(_SERIES + index, caption(rng, facts, complete=True), facts, thing, cutout))
    return pairs


def paint(engine: Engine, pairs: Sequence[Pair]) -> Bytes:
    """``(N, 256, 256, 3)``: each pair painted by Outfill's own engine with the model's defaults, the cut-out put back."""
    painted: list[Bytes] = []
    for start in range(0, len(pairs), _TOGETHER):
        some = pairs[start : start + _TOGETHER]
        slots = begin(engine, (_request(engine, pair) for pair in some))
        while unfinished := [slot for slot in slots if not slot.done]:
            engine.step(unfinished)
        for pair, pixels in zip(some, engine.finish(slots), strict=True):
            painted.append(composite(pixels, pair.cutout[..., :3], pair.cutout[..., 3]))
    return np.stack(painted)


def _request(engine: Engine, pair: Pair) -> PaintRequest:
    defaults = engine.card.sampling
    if defaults is None:
        raise ValueError(f"{engine.card.id} reads no prompts")
    sampling = Sampling(
        pair.text, "", defaults.steps, defaults.guidance_scale, defaults.strength, Scheduler(defaults.scheduler)
    )  # fmt: skip
    return PaintRequest(np.ascontiguousarray(pair.cutout[..., :3]), 255 - pair.cutout[..., 3], pair.seed, sampling)


def score(judge: Judge, pictures: Bytes, judged: np.ndarray[Any, Any], facts: Sequence[Facts]) -> list[Score]:
    """What the judge says of ``(N, 256, 256, 3)``, seen where ``judged (N, 256, 256)``."""
    scores = []
    for index, seen in enumerate(judge.backdrops(pictures, judged)):
        wanted = facts[index]
        terms = {role: judge.colours.term(pictures[index], judged[index], role, wanted) for role in parts_of(wanted)}
        right = {role: term == colour_of(part) for role, part in parts_of(wanted).items() if (term := terms[role]) is not None}
        scores.append(Score(backdrop_of(wanted), seen, right))
    return scores


def figures(scores: Iterable[Score]) -> dict[str, float]:
    """Shares of right answers. A picture's main colours are right if each that can be read is."""
    scores = list(scores)
    coloured = [each for each in scores if each.colours]
    return {
        "pictures": len(scores),
        "backdrop": _share(each.backdrop for each in scores),
        "wall": _share(each.seen.wall == each.wanted.wall for each in scores if each.wanted.wall != "none"),
        "surface": _share(each.seen.surface == each.wanted.surface for each in scores),
        "colour": _share(all(each.colours.values()) for each in coloured),
        "colour of a part": _share(right for each in coloured for right in each.colours.values()),
    }


def evaluate(recipe: Recipe, work: Path, directory: Path, log: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Judge the pipeline in ``directory``; write its figures into its model card and ``evaluation.json``, and a sheet of all pictures."""
    judge = Judge.load(recipe, work)
    scenes = Scenes(work)
    unseen = range(recipe.scenes - recipe.held_out, recipe.scenes)
    pixels = np.stack([scenes.pixels(index) for index in unseen])
    ceiling = figures(score(judge, pixels[..., :3], pixels[..., 3] < 128, [scenes.facts[index] for index in unseen]))
    log(f"the judge itself, on rendered scenes that it has not seen: {json.dumps(ceiling)}")
    pairs = draw_pairs(Settings().models.store / "u2netp.onnx")
    engine = build_engine(discover({"studio": directory})[0], path=directory)
    pictures = paint(engine, pairs)
    cutouts = np.stack([pair.cutout for pair in pairs])
    scores = score(judge, pictures, cutouts[..., 3] < 128, [pair.facts for pair in pairs])
    found = {"model": figures(scores), "judge": ceiling}
    log(f"the model: {json.dumps(found['model'])}")
    sheet(work / "evaluation.jpg", contact_sheet(list(pictures), 20, 128))
    _write(work / "evaluation.json", found, pairs, scores)
    _into_card(directory / "README.md", found)
    return found


def _write(file: Path, found: dict[str, dict[str, float]], pairs: Sequence[Pair], scores: Sequence[Score]) -> None:
    rows = [
        {
            "seed": pair.seed, "caption": pair.text, "thing": pair.thing, "wanted": vars(each.wanted), "seen": vars(each.seen),
            "backdrop": each.backdrop, "colours": each.colours,
        }
        for pair, each in zip(pairs, scores, strict=True)
    ]  # fmt: skip
    file.write_text(json.dumps({**found, "pairs": rows}, indent=1) + "\n", encoding="utf-8")


def _into_card(card: Path, found: dict[str, dict[str, float]]) -> None:
    """Replace the figures of the model card."""
    model, judge = found["model"], found["judge"]
    before, _, _ = card.read_text(encoding="utf-8").partition(HEADING)
    rows = "".join(f"| {name} | {model[name]:.1%} | {judge[name]:.1%} |\n" for name in model if name != "pictures")
    card.write_text(
        f"""{before.rstrip()}

{HEADING}

{model["pictures"]} captions of scenes that were not trained on, each naming wall, surface, colours and light, around things cut out of real photos,
painted with the defaults. A judge made without this model names what it sees where the model painted: the backdrop (wall, surface and plinth, all
right) by a small classifier of textures that learned from rendered scenes, main colours by statistics of theirs. The last column is the judge's own
accuracy on {judge["pictures"]} rendered scenes that it had not seen: it can say no more. `python -m training.studio evaluate` repeats it.

| right | Studio | the judge's ceiling |
| --- | --- | --- |
{rows}""",
        encoding="utf-8",
    )


def _share(answers: Iterable[bool]) -> float:
    listed = list(answers)
    return sum(listed) / len(listed) if listed else float("nan")
