"""A scene: a backdrop, an object that stands in it with its shadow, and the facts of it. Drawn from two numbers, always the same."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.studio.arrays import SIDE, Field, Rng, blur, field, grid, mix, sample, smoothstep, speckle
from training.studio.backdrops import Spot, Stage, draw_stage
from training.studio.facts import Facts
from training.studio.objects import Subject, draw_subject

_EMPTY = 0.22
"""Share of the scenes in which nothing stands: for what is painted whole, or inside a stroke."""


@dataclass(frozen=True)
class Scene:
    """``rgb uint8 (H, W, 3)``; ``subject uint8 (H, W)``, 255 = the kept object, all 0 where there is none."""

    rgb: npt.NDArray[np.uint8]
    subject: npt.NDArray[np.uint8]
    facts: Facts


def draw_scene(seed: int, index: int) -> Scene:
    """Scene number ``index`` of the series ``seed``."""
    rng = np.random.default_rng([seed, index])
    subject = _subject(rng)
    stage = draw_stage(rng, Spot(subject.foot, subject.centre, subject.width))
    rgb = stage.rgb
    alpha = subject.alpha
    if rng.random() < _EMPTY:
        alpha = np.zeros_like(alpha)
    else:
        rgb = _shadowed(rng, stage, subject)
        rgb = mix(rgb, _in_light(rng, stage, subject), alpha)
    rgb = rgb + rng.uniform(0, 0.003) * speckle(rng, SIDE, SIDE, 0.4)[..., None]
    return Scene(_bytes(rgb), _bytes(alpha), stage.facts)


def _subject(rng: Rng) -> Subject:
    foot = SIDE * float(np.clip(rng.normal(0.83, 0.09), 0.58, 0.98))
    if rng.random() < 0.08:  # cut off by the lower border
        foot = SIDE * rng.uniform(1.0, 1.2)
    height = min(SIDE * rng.uniform(0.26, 0.78), foot - 0.06 * SIDE)
    return draw_subject(rng, foot, SIDE * float(np.clip(rng.normal(0.5, 0.11), 0.2, 0.8)), height)


def _in_light(rng: Rng, stage: Stage, subject: Subject) -> Field:
    """The object under the stage's light, or as it often is, under the light of the photo that it was cut from."""
    if rng.random() < 0.5:
        return subject.rgb
    exposure = {"dark": 0.7, "bright": 1.08}.get(stage.facts.light, 1.0)
    cast = {"warm": (1.04, 1.0, 0.92), "cool": (0.95, 1.0, 1.05)}.get(stage.facts.warmth, (1.0, 1.0, 1.0))
    return field(np.clip(subject.rgb * exposure * field(cast), 0, 1))


def _shadowed(rng: Rng, stage: Stage, subject: Subject) -> Field:
    """The stage with the object's shadows: a dark line where it touches, a softer cast one, and its mirror image on what shines."""
    if stage.facts.kind == "flat":
        return _dropped(rng, stage, subject)
    rgb = stage.rgb
    rows, columns = grid(SIDE, SIDE)
    alpha = subject.alpha
    foot = subject.foot
    if stage.gloss > 0.04:
        image = np.dstack([subject.rgb, alpha])
        mirrored = sample(image, 2 * foot - rows - 2, columns)
        fade = stage.gloss * 1.3 * np.exp(-np.maximum(rows - foot, 0) / (0.22 * SIDE)) * (rows > foot - 6)
        mirrored = blur(mirrored, 1.5)
        rgb = mix(rgb, mirrored[..., :3], np.clip(mirrored[..., 3] * fade, 0, 1))
    hard = stage.facts.light in ("sun", "window", "leaves")
    slant = rng.uniform(0.3, 1.3) * rng.choice([-1, 1]) if hard else rng.uniform(-0.8, 0.8)
    squash = rng.uniform(0.12, 0.4)
    shade = _cast(alpha, foot, slant, squash)
    softness = rng.uniform(1.2, 3) if hard else rng.uniform(3.5, 9)
    near, far = blur(shade, softness), blur(shade, softness * 2.6)
    away = np.clip(np.abs(foot - rows) / (0.25 * SIDE), 0, 1)
    cast = near * (1 - away) + far * away * 0.85
    floor = smoothstep(-3, 3, rows - stage.back)
    cast = cast * floor * (rng.uniform(0.35, 0.6) if hard else rng.uniform(0.25, 0.55))
    wide = max(subject.width, 8)
    touch = _cast(alpha, foot, 0.0, 0.05)
    contact = blur(touch, max(1.5, 0.022 * wide)) * rng.uniform(0.5, 0.85)
    pool = np.exp(-(((columns - subject.centre) / (0.62 * wide)) ** 4) - ((rows - foot) / (0.055 * wide + 4)) ** 2)
    pool = field(pool) * rng.uniform(0.22, 0.55) * floor
    shadow = 1 - (1 - np.clip(cast, 0, 1)) * (1 - np.clip(contact * floor, 0, 1)) * (1 - pool)
    if hard and stage.facts.kind == "room" and rng.random() < 0.6:  # on the wall behind
        wall = blur(sample(alpha, rows - 6, columns - slant * 24), softness * 1.5)
        shadow = np.maximum(shadow, 0.35 * wall * (1 - floor))
    # A shadow is not black: it keeps some of the surface's own colour, and cools a little.
    return field(np.clip(rgb * (1 - shadow[..., None] * field((0.96, 0.93, 0.88))), 0, 1))


def _cast(alpha: Field, foot: float, slant: float, squash: float) -> Field:
    """The silhouette laid down on the floor behind: rows above ``foot`` squashed and slanted."""
    rows, columns = grid(SIDE, SIDE)
    up = (foot - rows) / squash
    behind = sample(alpha, foot - 2 - up, columns - slant * up * squash * 1.5)
    return field(np.where((foot - rows > -3) & (up < foot), behind, 0))


def _dropped(rng: Rng, stage: Stage, subject: Subject) -> Field:
    """The shadow of a thing that lies flat under a lamp."""
    shift = rng.uniform(2, 14) * np.array([np.sin(turn := rng.uniform(0, 2 * np.pi)), np.cos(turn)])
    rows, columns = grid(SIDE, SIDE)
    moved = sample(subject.alpha, field(rows - shift[0]), field(columns - shift[1]))
    shadow = rng.uniform(0.25, 0.5) * blur(moved, rng.uniform(2, 8))
    shadow = np.maximum(shadow, rng.uniform(0.2, 0.4) * blur(subject.alpha, 3.5))
    return field(np.clip(stage.rgb * (1 - shadow[..., None] * field((0.96, 0.93, 0.88))), 0, 1))


def _bytes(values: Field) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def contact_sheet(scenes: list[npt.NDArray[np.uint8]], columns: int, side: int = SIDE) -> npt.NDArray[np.uint8]:
    """Pictures in rows of ``columns``, each ``side`` pixels."""
    blank = np.zeros((side, side, 3), np.uint8)
    cells = [np.asarray(cv2.resize(scene, (side, side), interpolation=cv2.INTER_AREA), np.uint8) for scene in scenes]
    cells += [blank] * (-len(cells) % columns)
    return np.concatenate([np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)], axis=0)
