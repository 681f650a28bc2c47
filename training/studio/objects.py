"""The things that are kept: random shapes, textures and colours, cut out as a photo's subject would be.

They only have to be varied: the model must learn to set anything on a surface, and never to paint one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.studio.arrays import SIDE, Field, Rng, blur, fbm, field, grid, mix, one_of, smoothstep, speckle, stretch, tint
from training.studio.colours import any_rgb

_DRAWN = 2 * SIDE
"""Objects are drawn at twice the size, for clean edges."""


@dataclass(frozen=True)
class Subject:
    """A kept object in its place. ``rgb (H, W, 3)``, ``alpha (H, W)``; it stands at row ``foot`` around column ``centre``."""

    rgb: Field
    alpha: Field
    foot: float
    centre: float
    width: float


def draw_subject(rng: Rng, foot: float, centre: float, height: float) -> Subject:
    """An object ``height`` pixels tall that stands at (``foot``, ``centre``), both in pixels of the scene."""
    kind = one_of(rng, {"turned": 0.42, "box": 0.2, "lump": 0.16, "ball": 0.1, "slab": 0.12})
    foot2, centre2, height2 = 2 * foot, 2 * centre, 2 * height
    draw = {"turned": _turned, "box": _box, "lump": _lump, "ball": _ball, "slab": _slab}[kind]
    alpha, shade = draw(rng, foot2, centre2, height2)
    skin = _skin(rng, foot2, centre2, height2)
    rgb = np.clip(skin * shade[..., None], 0, 1)
    if rng.random() < 0.5:  # a highlight
        rgb = np.clip(rgb + rng.uniform(0.2, 0.7) * smoothstep(0.96, 1.2, shade)[..., None], 0, 1)
    rgb = np.clip(rgb * (1 + rng.uniform(0, 0.03) * speckle(rng, SIDE * 2, SIDE * 2, 0.8)[..., None]), 0, 1)
    small = field(cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    matte = np.clip(field(cv2.resize(alpha, (SIDE, SIDE), interpolation=cv2.INTER_AREA)), 0, 1)
    columns = np.flatnonzero((matte > 0.5).any(axis=0))
    width = float(columns[-1] - columns[0] + 1) if len(columns) else 1.0
    return Subject(small, matte, foot, float(columns.mean()) if len(columns) else centre, width)


def _canvas() -> Field:
    return np.zeros((_DRAWN, _DRAWN), np.float32)


def _turned(rng: Rng, foot: float, centre: float, height: float) -> tuple[Field, Field]:
    """A bottle, vase, cup, jar or tube: a profile turned around an upright axis, seen a little from above, perhaps with a handle."""
    knots = int(rng.integers(3, 7))
    widest = height * rng.uniform(0.16, 0.62)
    heights = np.linspace(0, 1, knots)
    profile = rng.uniform(0.45, 1.0, knots)
    if rng.random() < 0.4:  # a neck
        profile[-1] *= rng.uniform(0.2, 0.6)
    if rng.random() < 0.35:  # a cylinder
        profile[:] = profile[0]
    profile = profile / profile.max() * widest
    pitch = rng.uniform(0.05, 0.34)
    rows, columns = grid(_DRAWN, _DRAWN)
    top = foot - height
    share = np.clip((foot - rows) / height, 0, 1)
    smooth = rng.random() < 0.7
    fine = np.interp(np.linspace(0, 1, 400), heights, profile)
    if smooth:
        fine = np.asarray(cv2.GaussianBlur(fine.reshape(1, -1), (0, 0), 400 / knots / 3, borderType=cv2.BORDER_REPLICATE)).ravel()
    radius = field(np.interp(share.ravel(), np.linspace(0, 1, 400), fine))[:, None]
    across = (columns - centre) / np.maximum(radius, 1)
    first, last = float(fine[0]), float(fine[-1])
    body = smoothstep(1.0 + 1.5 / widest, 1.0 - 1.5 / widest, np.abs(across)) if widest > 2 else _canvas()
    body = field(np.where((rows > top) & (rows < foot - pitch * first), body, 0))
    for radius_at, row in ((first, foot - pitch * first), (last, top)):
        cv2.ellipse(body, _sub((centre, row)), _sub((radius_at, max(1.0, pitch * radius_at))), 0, 0, 360, 1.0, -1, cv2.LINE_AA, 4)
    shade = _round(rng, np.clip((columns - centre) / max(widest, 1) * 1.02, -1, 1) + 0 * rows)
    if rng.random() < 0.5:  # open at the top: an inside
        inside = _canvas()
        cv2.ellipse(inside, _sub((centre, top)), _sub((last * 0.9, max(1.0, pitch * last * 0.9))), 0, 0, 360, 1.0, -1, cv2.LINE_AA, 4)
        shade = shade * (1 - inside * rng.uniform(-0.2, 0.7))
    if rng.random() < 0.3:  # a handle
        side = 1 if rng.random() < 0.5 else -1
        reach = height * rng.uniform(0.14, 0.26)
        at = foot - height * rng.uniform(0.45, 0.65)
        where = centre + side * float(np.interp(0.5, np.linspace(0, 1, 400), fine))
        thickness = max(3, int(height * rng.uniform(0.03, 0.07)))
        cv2.ellipse(body, _sub((where, at)), _sub((reach, reach * rng.uniform(0.8, 1.4))), 0, 0, 360, 1.0, thickness, cv2.LINE_AA, 4)
    return np.clip(body, 0, 1), shade


def _box(rng: Rng, foot: float, centre: float, height: float) -> tuple[Field, Field]:
    """A carton seen at a corner or straight on, with its lid in view."""
    front = height * rng.uniform(0.3, 0.9)
    side = front * rng.choice([0.0, rng.uniform(0.15, 0.9)])
    rise = side * rng.uniform(0.1, 0.35)
    lid = height * rng.uniform(0.03, 0.2)
    body = height - lid
    left = centre - (front + side) / 2
    corner = left + front
    lean = lid * 0.6
    faces = [
        ([(left, foot), (corner, foot), (corner, foot - body), (left, foot - body)], rng.uniform(0.85, 1.05)),
        (
            [(corner, foot), (corner + side, foot - rise), (corner + side, foot - rise - body * 0.97), (corner, foot - body)],
            rng.uniform(0.5, 0.85),
        ),
        (
            [
                (left, foot - body),
                (corner, foot - body),
                (corner + side, foot - rise - body * 0.97),
                (left + side + lean, foot - body - lid),
            ],
            rng.uniform(1.0, 1.2),
        ),
    ]
    alpha, shade = _canvas(), np.ones((_DRAWN, _DRAWN), np.float32)
    for points, light in faces:
        polygon = [np.round(np.array(points) * 16).astype(np.int32)]
        cv2.fillPoly(alpha, polygon, 1.0, cv2.LINE_AA, 4)
        cv2.fillPoly(shade, polygon, float(light), cv2.LINE_8, 4)
    return alpha, shade


def _lump(rng: Rng, foot: float, centre: float, height: float) -> tuple[Field, Field]:
    """A shoe, a toy, a plant, a loaf: any smooth outline with a flat foot, or several of them together."""
    alpha = _canvas()
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        angles = np.linspace(0, 2 * np.pi, 160, endpoint=False)
        reach = np.ones(160)
        for wave in range(2, 9):
            reach += rng.normal(0, 0.32 / wave) * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
        reach = np.clip(reach, 0.2, 2)
        wide = rng.uniform(0.5, 1.5)
        points = np.stack([wide * reach * np.cos(angles), reach * np.sin(angles)], axis=1)
        low, high = points[:, 1].min(), points[:, 1].max()
        scale = height * rng.uniform(0.6, 1.0) / (high - low) * 1.06
        points = (points - np.array([0.0, high])) * scale + np.array([centre + rng.normal(0, 0.12) * height, foot + 0.06 * height])
        points[:, 1] = np.minimum(points[:, 1], foot)
        cv2.fillPoly(alpha, [np.round(points * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
    inner = blur(alpha, height * 0.07)
    rows, columns = grid(_DRAWN, _DRAWN)
    across = np.clip((columns - centre) / height * 1.3, -1, 1) + 0 * rows
    return alpha, _round(rng, field(across)) * (0.55 + 0.5 * inner)


def _ball(rng: Rng, foot: float, centre: float, height: float) -> tuple[Field, Field]:
    rows, columns = grid(_DRAWN, _DRAWN)
    half = height / 2
    wide = half * rng.uniform(0.85, 1.2)
    x, y = (columns - centre) / wide, (rows - foot + half) / half
    distance = np.sqrt(x**2 + y**2)
    alpha = smoothstep(1 + 1 / half, 1 - 1 / half, field(distance))
    light = rng.uniform(-0.7, 0.7)
    z = np.sqrt(np.clip(1 - distance**2, 0, 1))
    shade = 0.42 + 0.6 * np.clip(light * x - 0.6 * y + 0.6 * z, 0, 1.4)
    return alpha, field(shade)


def _slab(rng: Rng, foot: float, centre: float, height: float) -> tuple[Field, Field]:
    """A phone, a card, a frame, a tablet on its edge: rounded corners, a little askew."""
    alpha = _canvas()
    wide, tall = height * rng.uniform(0.4, 1.3), height * 0.96
    corner = min(wide, tall) * rng.uniform(0.02, 0.3)
    angle = np.deg2rad(rng.normal(0, 6))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    arc = np.linspace(0, np.pi / 2, 9)
    points = []
    for index, (x, y) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        bend = arc + index * np.pi / 2
        points.append(np.stack([x * (wide / 2 - corner) + corner * np.cos(bend), y * (tall / 2 - corner) + corner * np.sin(bend)], axis=1))
    outline = np.concatenate(points) @ turn.T
    outline += np.array([centre, foot - float(outline[:, 1].max())])
    cv2.fillPoly(alpha, [np.round(outline * 16).astype(np.int32)], 1.0, cv2.LINE_AA, 4)
    return alpha, 0.8 + 0.35 * fbm(rng, _DRAWN, _DRAWN, cells=(2, 2), octaves=1)


def _round(rng: Rng, across: Field) -> Field:
    """Light on an upright cylinder; ``across`` runs from -1 at its left to 1 at its right."""
    light = rng.uniform(-0.8, 0.8)
    facing = np.sqrt(np.clip(1 - across**2, 0, 1))
    shade = 0.38 + 0.66 * np.clip(facing * np.sqrt(1 - light**2) + across * light, 0, 1)
    if rng.random() < 0.4:
        shade += rng.uniform(0.1, 0.5) * np.exp(-(((across - light * 0.8) / 0.09) ** 2))
    if rng.random() < 0.2:  # polished metal
        shade *= 0.8 + 0.4 * np.cos(across * rng.uniform(4, 14))
    return field(shade)


def _skin(rng: Rng, foot: float, centre: float, height: float) -> Field:
    """What the object is made of or printed with."""
    rows, columns = grid(_DRAWN, _DRAWN)
    first, second = any_rgb(rng), any_rgb(rng)
    kind = one_of(rng, {"plain": 0.3, "fade": 0.14, "stripes": 0.14, "noise": 0.18, "checks": 0.06, "busy": 0.18})
    angle = rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)])
    along = np.cos(angle) * columns + np.sin(angle) * rows
    if kind == "plain":
        skin = np.broadcast_to(first, (_DRAWN, _DRAWN, 3)).copy()
    elif kind == "fade":
        skin = mix(first, second, stretch(field(along + 0 * (rows + columns))))
    elif kind == "stripes":
        skin = mix(first, second, smoothstep(-0.1, 0.1, field(np.sin(along / height * rng.uniform(10, 60) + 0 * (rows + columns)))))
    elif kind == "checks":
        pitch = height * rng.uniform(0.05, 0.2)
        skin = mix(first, second, field((np.floor(rows / pitch) + np.floor(columns / pitch)) % 2))
    elif kind == "noise":
        cells = float(rng.choice([6, 14, 40, 90]))
        skin = mix(first, second, fbm(rng, _DRAWN, _DRAWN, cells=(cells, cells), octaves=4, gain=0.6))
    else:
        layers = [fbm(rng, _DRAWN, _DRAWN, cells=(cells, cells), octaves=4, gain=0.65) for cells in (4, 7, 11)]
        skin = np.clip(np.stack(layers, axis=-1) * 1.1 - 0.05, 0, 1) * rng.uniform(0.5, 1.1)
        skin = mix(skin, tint(skin.mean(axis=2), first), rng.uniform(0, 0.8))
    if rng.random() < 0.4:
        return _label(rng, skin, foot, centre, height)
    return field(skin)


def _label(rng: Rng, skin: Field, foot: float, centre: float, height: float) -> Field:
    """``skin`` with a panel and lettering, such as on a pack."""
    panel, ink = any_rgb(rng), any_rgb(rng)
    top, bottom = sorted(foot - height * rng.uniform(0.1, 0.85, 2))
    half = height * rng.uniform(0.08, 0.5)
    printed = np.ascontiguousarray(np.clip(skin, 0, 1) * 255).astype(np.uint8)
    panel, ink = panel * 255, ink * 255
    if rng.random() < 0.7:
        cv2.rectangle(printed, (int(centre - half), int(top)), (int(centre + half), int(bottom)), panel.tolist(), -1, cv2.LINE_AA)
    for row in np.linspace(top, bottom, int(rng.integers(2, 5)))[1:]:
        letters = "".join(chr(int(code)) for code in rng.integers(65, 91, int(rng.integers(3, 9))))
        size = rng.uniform(0.4, 2.0)
        place = int(centre - half * 0.8), int(row - 4)
        cv2.putText(printed, letters, place, cv2.FONT_HERSHEY_DUPLEX, size, ink.tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)
    return field(field(printed) / 255)


def _sub(point: tuple[float, float]) -> tuple[int, int]:
    """OpenCV's fixed point with four bits behind it."""
    return round(point[0] * 16), round(point[1] * 16)
