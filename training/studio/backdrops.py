"""Backdrops: walls, the surfaces before them in perspective, plinths, and the light on it all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from training.studio import textures
from training.studio.arrays import SIDE, Field, Rng, blur, fbm, field, grid, mix, one_of, sample, smoothstep, speckle, stretch, tint
from training.studio.colours import NAMED, draw_colour
from training.studio.facts import Facts, Part

_OUTDOOR = ("garden", "bokeh", "sea")
_WALLS = {
    "paint": 0.40, "brick": 0.10, "wood": 0.07, "concrete": 0.08, "marble": 0.04, "tiles": 0.06, "curtain": 0.04,
    "garden": 0.08, "bokeh": 0.08, "sea": 0.06,
}  # fmt: skip
_SURFACES = {
    "wood": 0.36, "marble": 0.24, "concrete": 0.09, "linen": 0.08, "terrazzo": 0.07, "tiles": 0.04, "gloss": 0.09, "slate": 0.04,
}  # fmt: skip
_FLAT = {"wood": 0.26, "marble": 0.22, "concrete": 0.1, "linen": 0.14, "terrazzo": 0.1, "slate": 0.06, "sand": 0.06, "grass": 0.06}
_WOOD_TONES = {"light": 0.4, "dark": 0.33, "brown": 0.17, "white": 0.05, "grey": 0.05}
_MARBLE_TONES = {"white": 0.5, "black": 0.3, "grey": 0.05, "green": 0.05, "pink": 0.05, "beige": 0.05}
_BRICK_TONES = {"red": 0.5, "white": 0.25, "grey": 0.1, "brown": 0.08, "black": 0.07}
_STONE_COLOURS = ("grey", "light grey", "dark grey", "beige")
_CLOTH_COLOURS = ("white", "beige", "cream", "grey", "light grey", "navy", "sage", "pink", "light blue", "mustard", "black", "olive")
_FLOOR_COLOURS = ("white", "cream", "light grey", "beige", "pink", "black", "sage", "light blue")
_TILE_COLOURS = ("white", "teal", "green", "navy", "light blue", "pink", "black", "sage", "turquoise", "beige")
_GLOSSY = {"marble": 0.16, "gloss": 0.3, "tiles": 0.12, "terrazzo": 0.08, "slate": 0.04, "wood": 0.04}


@dataclass(frozen=True)
class Stage:
    """A backdrop ready for its object. ``back``: the row at which the surface begins (0: it fills the picture, ``SIDE``: there is none)."""

    rgb: Field
    facts: Facts
    back: float
    gloss: float = 0.0


@dataclass(frozen=True)
class Spot:
    """Where the object stands, in pixels: what plinths are built under and tables reach in front of."""

    foot: float
    centre: float
    width: float


def draw_stage(rng: Rng, spot: Spot) -> Stage:
    kind = one_of(rng, {"paper": 0.17, "gradient": 0.06, "podium": 0.14, "room": 0.52, "flat": 0.11})
    return {"paper": _paper, "gradient": _gradient, "podium": _podium, "room": _room, "flat": _flat}[kind](rng, spot)


# Walls and surfaces, as flat pictures


def _material(rng: Rng, material: str, height: int, width: int, zoom: float) -> tuple[Field, Part]:
    """A picture of ``material`` in a colour of its own choice."""
    if material in ("wood", "marble", "brick"):
        tones = {"wood": _WOOD_TONES, "marble": _MARBLE_TONES, "brick": _BRICK_TONES}[material]
        tone = one_of(rng, tones)
        if material == "wood":
            return textures.wood(rng, height, width, tone, zoom, planks=rng.random() < 0.8), Part(material, tone)
        draw = {"marble": textures.marble, "brick": textures.brick}[material]
        return draw(rng, height, width, tone, zoom), Part(material, tone)
    if material in ("slate", "sand"):
        return {"slate": textures.slate, "sand": textures.sand}[material](rng, height, width, zoom), Part(material)
    if material in _OUTDOOR or material == "grass":
        draw_view = {"garden": textures.garden, "bokeh": textures.bokeh, "grass": textures.grass}[material]
        return draw_view(rng, height, width), Part(material)
    names = {
        "concrete": _STONE_COLOURS,
        "linen": _CLOTH_COLOURS,
        "curtain": _CLOTH_COLOURS,
        "terrazzo": _FLOOR_COLOURS,
        "tiles": _TILE_COLOURS,
    }
    colour = draw_colour(rng, names.get(material, tuple(NAMED)), shades=material in ("paint", "gloss"))
    part = Part(material, colour.name, colour.shade)
    rgb = colour.array
    if material == "curtain":
        return textures.curtain(rng, height, width, rgb), part
    draw_dyed = {
        "paint": textures.plaster, "gloss": textures.plaster, "concrete": textures.concrete, "linen": textures.linen,
        "terrazzo": textures.terrazzo, "tiles": textures.tiles,
    }  # fmt: skip
    return draw_dyed[material](rng, height, width, rgb, zoom), part


def _sea(rng: Rng, height: int, width: int) -> Field:
    """Sky, clouds and sea, out of focus."""
    rows, _ = grid(height, width)
    horizon = height * rng.uniform(0.45, 0.85)
    dusk = rng.random() < 0.25
    low, high = ((0.98, 0.72, 0.48), (0.50, 0.52, 0.76)) if dusk else ((0.84, 0.92, 0.97), (0.36, 0.62, 0.90))
    sky = mix(np.broadcast_to(field(high), (height, width, 3)), field(low), np.broadcast_to(np.clip(rows / horizon, 0, 1), (height, width)))
    clouds = smoothstep(0.52, 0.9, fbm(rng, height, width, cells=(6, 3), octaves=5, gain=0.55))
    sky = mix(sky, (0.98, 0.96, 0.95), clouds * rng.uniform(0, 0.9))
    waves = fbm(rng, height, width, cells=(height / 5, 5), octaves=3, gain=0.6)
    deep, shallow = ((0.16, 0.26, 0.42), (0.62, 0.50, 0.46)) if dusk else ((0.06, 0.30, 0.50), (0.34, 0.68, 0.74))
    near = np.clip((rows - horizon) / max(height - horizon, 1), 0, 1)
    water = mix(np.broadcast_to(field(deep), (height, width, 3)), field(shallow), np.clip(near * 0.8 + 0.25 * (waves - 0.4), 0, 1))
    water = mix(water, (0.97, 0.98, 0.98), 0.7 * smoothstep(0.72, 0.9, waves) * near)
    view = mix(sky, water, np.broadcast_to(smoothstep(-1.0, 1.0, rows - horizon), (height, width)))
    return np.clip(blur(view, rng.uniform(0.4, 3.0)), 0, 1)


# Stages


def _room(rng: Rng, spot: Spot) -> Stage:
    """A table, counter or floor before a wall or a view."""
    material = one_of(rng, _WALLS)
    surface = one_of(rng, _SURFACES)
    if material in ("garden", "sea") and rng.random() < 0.6:
        surface = {"garden": "grass", "sea": "sand"}[material]
    back = rng.uniform(0.30, 0.70) * SIDE
    back = min(back, spot.foot - rng.uniform(0.05, 0.2) * SIDE)
    back = max(back, 0.16 * SIDE)
    if material == "sea":  # its horizon stays in view above the table
        wall, wall_part = np.zeros((SIDE, SIDE, 3), np.float32), Part("sea")
        wall[: int(back) + 3] = _sea(rng, int(back) + 3, SIDE)
        wall[int(back) + 3 :] = wall[int(back) + 2]
    else:
        wall, wall_part = _material(rng, material, SIDE, SIDE, rng.uniform(0.8, 1.6))
    if material not in _OUTDOOR:
        wall = blur(wall, max(0.0, rng.normal(0.7, 0.9)))
    wall = wall * _falloff(rng, strength=0.28)[..., None]
    floor, surface_part = _surface(rng, surface, back)
    gloss = _GLOSSY.get(surface, 0.0) * rng.uniform(0.3, 1.3)
    if material == "bokeh":
        floor = floor * rng.uniform(0.4, 0.75) * field((1.05, 0.97, 0.9))
        gloss = max(gloss, 0.10) * 1.5
    rows, _ = grid(SIDE, SIDE)
    if gloss > 0.02:
        mirrored = sample(blur(wall, 5), 2 * back - rows, grid(SIDE, SIDE)[1])
        fade = gloss * np.exp(-np.maximum(rows - back, 0) / (0.5 * SIDE))
        floor = mix(floor, mirrored, np.broadcast_to(fade * 1.4, (SIDE, SIDE)))
    floor = floor * _falloff(rng, strength=0.2)[..., None]
    if material not in _OUTDOOR:  # where table and wall meet, light is scarce
        reach = rng.uniform(3, 12)
        depth = rng.uniform(0.05, 0.3)
        floor = floor * (1 - depth * np.exp(-np.maximum(rows - back, 0) / reach))[..., None]
        wall = wall * (1 - 0.6 * depth * np.exp(-np.maximum(back - rows, 0) / reach))[..., None]
    soft = rng.uniform(0.5, 1.2) if material not in _OUTDOOR else rng.uniform(0.7, 2.2)
    if surface == "grass":
        soft = rng.uniform(2.5, 5.0)
    edge = np.broadcast_to(smoothstep(-soft, soft, rows - back), (SIDE, SIDE))
    stage = Stage(np.clip(mix(wall, floor, edge), 0, 1), Facts("room", wall_part, surface_part), back, gloss)
    return _lit(rng, stage, outdoor=material in _OUTDOOR)


def _surface(rng: Rng, surface: str, back: float) -> tuple[Field, Part]:
    """``surface`` as a plane that runs from the viewer to row ``back``, in a full-size picture; above ``back`` it means nothing."""
    if surface == "grass":
        floor = np.zeros((SIDE, SIDE, 3), np.float32)
        top = int(back)
        lawn = textures.grass(rng, SIDE - top, SIDE)
        floor[top:] = lawn
        floor[:top] = lawn[:1]
        return floor, Part("grass")
    tall, wide = 400, 460
    texture, part = _material(rng, surface, tall, wide, rng.uniform(0.9, 1.5))
    vanish = back - rng.uniform(60, 190)
    focal = rng.uniform(260, 480)
    rows, columns = grid(2 * SIDE, 2 * SIDE)
    rows, columns = field(rows / 2), field(columns / 2)
    ratio = (SIDE - vanish) / np.maximum(rows - vanish, 20)
    u, v = (columns - SIDE / 2) * ratio, focal * (ratio - 1) + 0 * columns
    yaw = rng.choice([0, np.pi / 2, rng.normal(0, 0.12), rng.normal(0, 0.5)], p=[0.45, 0.2, 0.2, 0.15])
    scale = rng.uniform(0.75, 1.1)
    across = scale * (np.cos(yaw) * u - np.sin(yaw) * v) + wide / 2
    along = scale * (np.sin(yaw) * u + np.cos(yaw) * v) + rng.uniform(0, 60)
    large = sample(texture, field(along), field(across))
    floor = field(cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    if surface == "gloss":
        floor = floor * (1 + 0.1 * (np.linspace(0, 1, SIDE, dtype=np.float32)[:, None, None] - 0.5))
    return floor, part


def _paper(rng: Rng, spot: Spot) -> Stage:
    """Seamless paper: one colour, a bend where wall becomes floor, light that falls off."""
    colour = draw_colour(rng)
    rows, _ = grid(SIDE, SIDE)
    bend = min(rng.uniform(0.4, 0.75) * SIDE, spot.foot - 8)
    wide = rng.uniform(0.06, 0.35) * SIDE
    step = rng.uniform(-0.09, 0.09)
    value = 1 + step * np.tanh((rows - bend) / wide) - rng.uniform(0, 0.06) * np.exp(-(((rows - bend) / wide / 0.7) ** 2))
    value = value * _falloff(rng, strength=0.3) * (1 + rng.uniform(0, 0.003) * speckle(rng, SIDE, SIDE))
    rgb = np.clip(tint(field(value), colour.array), 0, 1)
    stage = Stage(rgb, Facts("paper", Part("paper", colour.name, colour.shade)), max(0.0, bend - wide), rng.choice([0.0, 0.06, 0.12]))
    return _lit(rng, stage)


def _gradient(rng: Rng, spot: Spot) -> Stage:
    """Two colours that run into each other; no place, no shadow but a soft one."""
    first, second = draw_colour(rng, shades=False), draw_colour(rng, shades=False)
    rows, columns = grid(SIDE, SIDE)
    kind = one_of(rng, {"vertical": 0.45, "diagonal": 0.25, "radial": 0.3})
    if kind == "vertical":
        share = rows / SIDE + 0 * columns
    elif kind == "diagonal":
        share = (rows + rng.choice([-1, 1]) * columns) / SIDE / 2
        share = share - share.min()
    else:
        share = np.sqrt((rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2) / SIDE * rng.uniform(1.2, 1.7)
    rgb = mix(np.broadcast_to(first.array, (SIDE, SIDE, 3)), second.array, smoothstep(0.05, 0.95, field(share)))
    return Stage(rgb, Facts("gradient", Part(kind, first.name), Part("to", second.name)), max(0.0, spot.foot - 40))


def _flat(rng: Rng, spot: Spot) -> Stage:
    """A surface seen from above, from edge to edge."""
    del spot
    material = one_of(rng, _FLAT)
    texture, part = _material(rng, material, SIDE, SIDE, rng.uniform(0.9, 1.9))
    if material == "grass":
        texture = np.ascontiguousarray(textures.grass(rng, 2 * SIDE, SIDE)[SIDE:])
    elif rng.random() < 0.5:
        texture = np.ascontiguousarray(texture.transpose(1, 0, 2))
    stage = Stage(texture * _falloff(rng, strength=0.2)[..., None], Facts("flat", None, part), 0.0)
    return _lit(rng, stage)


def _podium(rng: Rng, spot: Spot) -> Stage:
    """A plinth of one or two steps, round or square, under the object, before paper, perhaps with an arch or a disc behind."""
    colour = draw_colour(rng)
    same = rng.random() < 0.4
    material = one_of(rng, {"paint": 0.6, "marble": 0.16, "wood": 0.12, "concrete": 0.12})
    if material == "paint":
        block = colour if same else draw_colour(rng)
        skin, part = textures.plaster(rng, SIDE, SIDE, block.array), Part("paint", block.name, block.shade)
    else:
        skin, part = _material(rng, material, SIDE, SIDE, rng.uniform(0.8, 1.3))
    rows, columns = grid(SIDE, SIDE)
    bend = min(rng.uniform(0.5, 0.8) * SIDE, spot.foot - 4)
    value = (1 + rng.uniform(-0.1, 0.1) * np.tanh((rows - bend) / rng.uniform(2, 40))) * _falloff(rng, strength=0.25)
    rgb = tint(field(value), colour.array)
    if rng.random() < 0.3:
        rgb = _behind(rng, rgb, colour.array, bend)
    pitch = rng.uniform(0.08, 0.3)
    light = rng.uniform(-0.8, 0.8)
    half = max(spot.width * rng.uniform(0.62, 0.9), 0.18 * SIDE)
    tall = rng.uniform(0.14, 0.5) * SIDE
    top = min(spot.foot, 0.93 * SIDE) - pitch * half * rng.uniform(0.1, 0.5)
    steps = [(half, top, tall)]
    if rng.random() < 0.35:
        steps.insert(0, (half * rng.uniform(1.25, 1.6), top + tall * rng.uniform(0.5, 0.8), tall * 1.2))
    draw = _round_step if rng.random() < 0.65 else _square_step
    for half_step, top_step, tall_step in steps:
        ground = top_step + tall_step
        shadow = np.exp(
            -(((columns - spot.centre + light * 0.3 * half_step) / half_step / 1.15) ** 4)
            - ((rows - ground) / (pitch * half_step + 7)) ** 2
        )
        rgb = rgb * (1 - rng.uniform(0.2, 0.5) * field(shadow))[..., None]
        rgb = draw(rgb, skin, spot.centre, (half_step, top_step, tall_step), pitch, light)
    facts = Facts("podium", Part("paper", colour.name, colour.shade), part)
    return _lit(rng, Stage(np.clip(rgb, 0, 1), facts, max(0.0, top - pitch * half), rng.choice([0.0, 0.08])))


def _behind(rng: Rng, rgb: Field, colour: Field, ground: float) -> Field:
    """An arch or a disc of a kindred colour against the wall."""
    shape = np.zeros((SIDE, SIDE), np.float32)
    centre, radius = SIDE * rng.uniform(0.35, 0.65), SIDE * rng.uniform(0.2, 0.34)
    if rng.random() < 0.5:
        top = ground - radius * rng.uniform(1.2, 1.9)
        cv2.circle(shape, (int(centre), int(top)), int(radius), 1.0, -1, cv2.LINE_AA)
        cv2.rectangle(shape, (int(centre - radius), int(top)), (int(centre + radius), int(ground)), 1.0, -1)
    else:
        cv2.circle(shape, (int(centre), int(ground - radius * rng.uniform(0.9, 1.4))), int(radius), 1.0, -1, cv2.LINE_AA)
    shadow = np.roll(blur(shape, 6), (4, int(rng.integers(-6, 7))), (0, 1))
    rgb = rgb * (1 - 0.22 * shadow * (1 - shape))[..., None]
    kindred = np.clip(colour * rng.uniform(0.75, 1.2) + rng.normal(0, 0.03, 3), 0, 1)
    return mix(rgb, kindred * np.ones_like(rgb) * (rgb / np.maximum(colour, 0.05)).mean(axis=2, keepdims=True), shape)


def _round_step(rgb: Field, skin: Field, centre: float, size: tuple[float, float, float], pitch: float, light: float) -> Field:
    half, top, tall = size
    rows, columns = grid(SIDE, SIDE)
    across = (columns - centre) / half
    bow = pitch * half * np.sqrt(np.clip(1 - across**2, 0, 1))
    inside = smoothstep(1 + 0.7 / half, 1 - 0.7 / half, field(np.abs(across)))
    body = inside * (rows > top) * smoothstep(0.7, -0.7, field(rows - top - tall - bow))
    facing = np.sqrt(np.clip(1 - across**2, 0, 1))
    shade = 0.5 + 0.48 * np.clip(facing * np.sqrt(1 - light**2) + across * light, 0, 1) - 0.1 * np.clip((rows - top) / tall, 0, 1)
    rgb = mix(rgb, skin * shade[..., None], field(body))
    distance = np.sqrt(across**2 + ((rows - top) / max(pitch * half, 1)) ** 2)
    lid = smoothstep(1 + 1 / half / pitch / 1.5, 1 - 1 / half / pitch / 1.5, field(distance))
    return mix(rgb, np.clip(skin * 1.07 + 0.01, 0, 1), lid)


def _square_step(rgb: Field, skin: Field, centre: float, size: tuple[float, float, float], pitch: float, light: float) -> Field:
    half, top, tall = size
    deep = pitch * half
    front = np.zeros((SIDE, SIDE), np.float32)
    lid = np.zeros((SIDE, SIDE), np.float32)
    near, far = top + deep, top - deep
    inset = half * min(0.3, pitch)
    cv2.fillPoly(
        front,
        [_points([(centre - half, near), (centre + half, near), (centre + half, near + tall), (centre - half, near + tall)])],
        1.0,
        cv2.LINE_AA,
        4,
    )
    cv2.fillPoly(
        lid,
        [_points([(centre - half, near), (centre + half, near), (centre + half - inset, far), (centre - half + inset, far)])],
        1.0,
        cv2.LINE_AA,
        4,
    )
    rgb = mix(rgb, skin * (0.78 + 0.1 * light), front)
    return mix(rgb, np.clip(skin * 1.07 + 0.01, 0, 1), lid)


def _points(corners: list[tuple[float, float]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.round(np.array(corners) * 16).astype(np.int32)


# Light


def _falloff(rng: Rng, *, strength: float) -> Field:
    """Light that is stronger on one side or in the middle."""
    rows, columns = grid(SIDE, SIDE)
    y, x = (rows / SIDE - rng.uniform(0.1, 0.8)) * 0.8, columns / SIDE - rng.uniform(-0.2, 1.2)
    distance = np.sqrt(x**2 + y**2)
    value = 1 + rng.uniform(0.1, 1.0) * strength * (0.45 - distance)
    return field(np.clip(value, 0.4, 1.3))


def _lit(rng: Rng, stage: Stage, *, outdoor: bool = False) -> Stage:
    """Window panes, leaves, a spot, sun; a mood; a colour cast. What was done is written into the facts."""
    weights = {"soft": 0.52, "window": 0.11, "leaves": 0.07, "spot": 0.06, "sun": 0.06, "dark": 0.09, "bright": 0.09}
    light = "soft" if outdoor else one_of(rng, weights)
    rgb = stage.rgb
    if light in ("window", "leaves", "spot"):
        pattern = {"window": _window, "leaves": _leaves, "spot": _pool}[light](rng)
        strength = rng.uniform(0.25, 0.5)
        rgb = (
            rgb
            * (1 - 0.45 * strength + 0.85 * strength * pattern)[..., None]
            * mix(field((0.97, 0.99, 1.03)), field((1.04, 1.0, 0.93)), pattern)
        )
    elif light == "dark":
        rows, columns = grid(SIDE, SIDE)
        distance = np.sqrt((rows / SIDE - 0.6) ** 2 + (columns / SIDE - rng.uniform(0.2, 0.8)) ** 2)
        rgb = field(rgb * (rng.uniform(0.5, 0.68) * (1.25 - 0.8 * distance))[..., None])
    elif light == "bright":
        rgb = 1 - (1 - np.clip(rgb, 0, 1)) ** rng.uniform(1.15, 1.4)
    warmth = one_of(rng, {"": 0.76, "warm": 0.14, "cool": 0.1})
    if warmth:
        cast = {"warm": (1.06, 1.0, 0.88), "cool": (0.92, 1.0, 1.08)}[warmth]
        rgb = rgb * field(cast)
    return replace(stage, rgb=np.clip(field(rgb), 0, 1), facts=replace(stage.facts, light=light, warmth=warmth))


def _window(rng: Rng) -> Field:
    """The light of a window's panes, aslant and soft at its edges."""
    panes = np.zeros((SIDE, SIDE), np.float32)
    across, down = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    wide, tall = rng.uniform(34, 80), rng.uniform(34, 80)
    gap = rng.uniform(5, 12)
    shear = rng.uniform(0.25, 0.9) * rng.choice([-1, 1])
    left, top = rng.uniform(-20, 120), rng.uniform(-40, 60)
    for i in range(across):
        for j in range(down):
            x, y = left + i * (wide + gap), top + j * (tall + gap)
            corners = [(x, y), (x + wide, y), (x + wide, y + tall), (x, y + tall)]
            slanted = [(cx + shear * cy, cy + 0.25 * (cx - left)) for cx, cy in corners]
            cv2.fillPoly(panes, [_points(slanted)], 1.0, cv2.LINE_AA, 4)
    return blur(panes, rng.uniform(1.5, 6))


def _leaves(rng: Rng) -> Field:
    """Sunlight through a plant: the shadow of its leaves."""
    light = np.ones((SIDE, SIDE), np.float32)
    for _ in range(int(rng.integers(2, 5))):
        stem, angle = np.array([rng.uniform(-20, SIDE + 20), rng.uniform(-40, 60)]), rng.uniform(0.2, np.pi - 0.2)
        for along in np.linspace(10, rng.uniform(120, 230), int(rng.integers(7, 16))):
            for side in (-1, 1):
                turn = angle + side * rng.uniform(0.5, 1.0)
                root = stem + along * np.array([np.cos(angle), np.sin(angle)])
                long = rng.uniform(14, 34)
                centre = root + long * np.array([np.cos(turn), np.sin(turn)])
                axes = (int(long * 16), int(long * rng.uniform(0.2, 0.36) * 16))
                cv2.ellipse(
                    light, (int(centre[0] * 16), int(centre[1] * 16)), axes, float(np.rad2deg(turn)), 0, 360, 0.0, -1, cv2.LINE_AA, 4
                )
    return blur(light, rng.uniform(1.5, 5))


def _pool(rng: Rng) -> Field:
    rows, columns = grid(SIDE, SIDE)
    y, x = (rows / SIDE - rng.uniform(0.3, 0.7)) * rng.uniform(0.9, 1.6), columns / SIDE - rng.uniform(0.35, 0.65)
    return stretch(field(np.exp(-(x**2 + y**2) / rng.uniform(0.04, 0.14))))
