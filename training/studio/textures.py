"""Materials seen straight on: each is ``(height, width, 3)`` at ``zoom`` (1: as on a table at arm's length, 2: twice as near).

What tells one from another is drawn at four pixels and more, coarser than a photo would have it: the autoencoder has a few numbers for each block
of eight, and a model of this size learns what it can see.
"""

from __future__ import annotations

import cv2
import numpy as np

from training.studio.arrays import Field, Rng, blur, fbm, field, grid, mix, sample, smoothstep, speckle, stretch, tint
from training.studio.colours import any_rgb

WOODS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "light": ((0.90, 0.77, 0.58), (0.72, 0.54, 0.35)),
    "brown": ((0.66, 0.45, 0.27), (0.44, 0.27, 0.15)),
    "dark": ((0.37, 0.235, 0.155), (0.18, 0.105, 0.068)),
    "white": ((0.93, 0.92, 0.90), (0.78, 0.76, 0.73)),
    "grey": ((0.64, 0.62, 0.59), (0.44, 0.42, 0.40)),
}
MARBLES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "white": ((0.945, 0.942, 0.935), (0.50, 0.50, 0.53)),
    "black": ((0.075, 0.075, 0.085), (0.80, 0.79, 0.76)),
    "green": ((0.10, 0.25, 0.19), (0.70, 0.80, 0.72)),
    "pink": ((0.90, 0.76, 0.74), (0.66, 0.42, 0.42)),
    "beige": ((0.89, 0.82, 0.72), (0.62, 0.48, 0.36)),
    "grey": ((0.58, 0.59, 0.61), (0.86, 0.86, 0.87)),
}
BRICKS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "red": ((0.60, 0.27, 0.20), (0.74, 0.69, 0.63)),
    "white": ((0.90, 0.89, 0.87), (0.68, 0.67, 0.65)),
    "grey": ((0.47, 0.47, 0.48), (0.66, 0.65, 0.64)),
    "brown": ((0.42, 0.28, 0.21), (0.58, 0.53, 0.48)),
    "black": ((0.15, 0.15, 0.16), (0.28, 0.28, 0.28)),
}


def wood(rng: Rng, height: int, width: int, tone: str, zoom: float = 1.0, *, planks: bool = True) -> Field:
    """Boards lying across: rings stretched along the board, pores, a knot here and there, dark gaps."""
    light, dark = (field(colour) * rng.uniform(0.95, 1.05) for colour in WOODS[tone])
    rows, columns = grid(height, width)
    board = max(18.0, rng.uniform(38, 74) * zoom) if planks else height * 1.6
    offset = rng.uniform(0, board)
    number = np.floor((rows + offset) / board).astype(np.int64)[:, 0]
    count = int(number.max()) + 1
    inside = (rows + offset) / board - number[:, None]
    shift = field(rng.uniform(0, 400, count))[number][:, None]
    tones = field(rng.normal(0, 0.11 if planks else 0, count))[number][:, None]
    # One wide field of rings; each board shows its own part of it.
    bend = fbm(rng, height, width + 440, cells=(height / 60 / zoom + 1, width / 300 / zoom + 1), octaves=3)
    fine = fbm(rng, height, width + 440, cells=(height / 7 / zoom, width / 180 / zoom + 1), octaves=3, gain=0.6)
    pores = fbm(rng, height, width + 440, cells=(height / 4, width / 40), octaves=1)
    if rng.random() < 0.5:
        bend = bend + _knots(rng, bend.shape, zoom)
    bend, fine, pores = (sample(noise, rows, columns + shift) for noise in (bend, fine, pores))
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (bend * rng.uniform(5, 11) + inside * rng.uniform(0.5, 1.5)))
    grain = 0.45 * field(rings) ** 1.6 + 0.55 * fine
    texture = mix(light, dark, np.clip(0.9 * grain + tones - 0.1, 0, 1))
    texture *= 1 - 0.10 * smoothstep(0.62, 0.9, pores)[..., None]
    if planks:
        edge = np.minimum(inside, 1 - inside) * board
        gap = np.broadcast_to(1 - smoothstep(0.8, 2.4, edge), (height, width)).copy()
        for index in range(count):  # where one board ends and the next begins
            at = rng.uniform(0, width * 1.6)
            gap[number == index] = np.maximum(gap[number == index], 1 - smoothstep(0.4, 1.6, np.abs(columns - at)))
        texture *= 1 - 0.62 * gap[..., None]
    return np.clip(texture, 0, 1)


def _knots(rng: Rng, shape: tuple[int, ...], zoom: float) -> Field:
    rows, columns = grid(shape[0], shape[1])
    out = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        y, x, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(8, 16) * zoom
        out += rng.uniform(0.35, 0.7) * np.exp(-(((rows - y) / radius) ** 2) - ((columns - x) / radius / 2.4) ** 2)
    return out


def marble(rng: Rng, height: int, width: int, tone: str, zoom: float = 1.0) -> Field:
    """Polished marble: faint clouds, and veins where warped noise crosses its mean; wide soft ones and fine sharp ones."""
    base, vein = (field(colour) for colour in MARBLES[tone])
    if tone == "black" and rng.random() < 0.3:
        vein = field((0.80, 0.62, 0.34))
    size = max(height, width)
    rows, columns = grid(height, width)
    lumps = size / 110 / zoom + 1
    angle = rng.uniform(0, np.pi)
    warp = [(fbm(rng, height, width, cells=(lumps, lumps), octaves=4, gain=0.55) - 0.5) * 130 * zoom for _ in range(2)]
    u = (np.cos(angle) * columns + np.sin(angle) * rows) * 0.45
    v = (-np.sin(angle) * columns + np.cos(angle) * rows) * 1.5
    share = np.zeros((height, width), np.float32)
    veins = ((lumps * 0.7, 0.030, 0.75, 0.0), (lumps * 1.1, 0.020, 0.95, 0.25), (lumps * 1.8, 0.016, 0.45, 0.45))
    for cells, thin, strength, threshold in veins:
        lattice = fbm(rng, size, size, cells=(cells, cells), octaves=2, gain=0.35)
        noise = sample(lattice, field(v + warp[0]) % (2 * size), field(u + warp[1]) % (2 * size))
        ridge = np.exp(-np.abs(noise - float(np.median(noise))) / thin)
        fade = smoothstep(threshold, threshold + 0.35, fbm(rng, height, width, cells=(lumps, lumps), octaves=2))
        share = np.maximum(share, strength * rng.uniform(0.7, 1.0) * ridge * fade)
    clouds = fbm(rng, height, width, cells=(lumps * 0.8, lumps * 0.8), octaves=4)
    halo = blur(share, 7 * zoom)
    texture = mix(base, vein, np.clip(share * 0.9 + 0.55 * halo + 0.13 * smoothstep(0.45, 0.95, clouds), 0, 0.95))
    return np.clip(texture, 0, 1)


def concrete(rng: Rng, height: int, width: int, rgb: Field, zoom: float = 1.0) -> Field:
    """Cast concrete: stains at several sizes, pores, and most often the joints of its formwork with the holes of its ties."""
    rows, columns = grid(height, width)
    stains = fbm(rng, height, width, cells=(height / 90 / zoom + 1, width / 90 / zoom + 1), octaves=5, gain=0.6)
    streaks = fbm(rng, height, width, cells=(height / 160 / zoom + 1, width / 30 / zoom + 1), octaves=2)
    value = 1 + 0.36 * (stains - 0.5) + 0.12 * (streaks - 0.5) + 0.008 * speckle(rng, height, width, 1.0)
    value = value - 0.36 * _pores(rng, height, width, zoom)
    if rng.random() < 0.75:
        value = value - _formwork(rng, rows, columns, rng.uniform(0.35, 0.6) * min(height, width))
    return np.clip(tint(field(value), rgb), 0, 1)


def _pores(rng: Rng, height: int, width: int, zoom: float) -> Field:
    """Bubbles of air that the cast left at its face: 1 in their middle."""
    out = np.zeros((height, width), np.float32)
    for _ in range(int(height * width / (1100 * zoom**2) * rng.uniform(0.6, 1.3))):
        radius = (1.1 + 2.4 * rng.random() ** 2) * zoom
        centre = (int(rng.uniform(0, width) * 16), int(rng.uniform(0, height) * 16))
        axes = (int(radius * 16), int(radius * rng.uniform(0.6, 1.0) * 16))
        cv2.ellipse(out, centre, axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.4, 1.0), -1, cv2.LINE_AA, 4)
    return blur(out, 0.5)


def _formwork(rng: Rng, rows: Field, columns: Field, panel: float) -> Field:
    """How much darker the joints between panels of ``panel`` pixels are, and the tie holes near their corners."""
    down, across = ((place + rng.uniform(0, panel)) % panel for place in (rows, columns))
    joints = 0.30 * np.maximum(np.exp(-(((down - 3) / 1.4) ** 2)), np.exp(-(((across - 3) / 1.4) ** 2)))
    inset, radius = 0.2 * panel, max(2.6, 0.035 * panel)
    y, x = (np.minimum(np.abs(place - inset), np.abs(place - panel + inset)) for place in (down, across))
    holes = 0.5 * smoothstep(radius + 0.8, radius - 0.8, field(np.sqrt(y**2 + x**2)))
    return field(np.maximum(joints, holes))


def plaster(rng: Rng, height: int, width: int, rgb: Field, zoom: float = 1.0) -> Field:
    """Painted wall: nearly plain, with the least of unevenness."""
    uneven = fbm(rng, height, width, cells=(4, 4), octaves=4, gain=0.6) - 0.5
    rough = speckle(rng, height, width, 0.8 * zoom)
    return np.clip(tint(1 + rng.uniform(0.0, 0.05) * uneven + rng.uniform(0.0, 0.004) * rough, rgb), 0, 1)


def brick(rng: Rng, height: int, width: int, tone: str, zoom: float = 1.0) -> Field:
    """Running bond: every brick its own tone, rough faces, mortar set back and in shade from above."""
    face, mortar = (field(colour) * rng.uniform(0.93, 1.06) for colour in BRICKS[tone])
    rows, columns = grid(height, width)
    tall = rng.uniform(17, 24) * zoom
    long = tall * rng.uniform(2.5, 3.2)
    joint = max(1.6, 0.10 * tall)
    wobble = (fbm(rng, height, width, cells=(height / 14, width / 14), octaves=1) - 0.5) * 1.6
    y = rows + rng.uniform(0, tall) + wobble
    course = np.floor(y / tall)
    x = columns + rng.uniform(0, long) + (course % 2) * long / 2 + wobble
    number = (course * 131 + np.floor(x / long) * 71).astype(np.int64) % 997
    tones, warmth = (
        rng.normal(0, 0.13, 997).astype(np.float32)[number],
        rng.normal(0, 0.012 if tone == "white" else 0.04, 997).astype(np.float32)[number],
    )
    above, below = y % tall, tall - y % tall
    beside = np.minimum(x % long, long - x % long)
    inside = smoothstep(joint * 0.35, joint, field(np.minimum(np.minimum(above, below), beside)))
    rough = fbm(rng, height, width, cells=(height / 9, width / 9), octaves=3, gain=0.7) - 0.5
    value = 1 + (0.45 if tone == "white" else 1.0) * tones + 0.28 * rough + 0.008 * speckle(rng, height, width)
    value += 0.16 * np.exp(-(((above - joint) / 1.5) ** 2)) - 0.20 * np.exp(-(((below - joint) / 1.5) ** 2))
    bricks = tint(field(value), face) * (1 + warmth[..., None] * field((1, 0, -1)))
    joints = tint(0.88 + 0.2 * rough, mortar)
    return np.clip(mix(joints, bricks, inside), 0, 1)


def linen(rng: Rng, height: int, width: int, rgb: Field, zoom: float = 1.0) -> Field:
    """Coarsely woven cloth: threads both ways, some of them thick, and soft creases."""
    rows, columns = grid(height, width)
    pitch = rng.uniform(6.0, 8.5) * max(1.0, zoom)
    drift = fbm(rng, height, width, cells=(3, 3), octaves=2) * 5
    y, x = 2 * np.pi * (rows + drift) / pitch, 2 * np.pi * (columns + drift) / pitch
    # Over and under: where one thread is on top the other is not.
    weave = np.where(np.cos(y / 2) * np.cos(x / 2) > 0, np.abs(np.sin(y / 2)), np.abs(np.sin(x / 2))) - 0.6
    slubs = [_slubs(rng, height, width, pitch), _slubs(rng, width, height, pitch).T]
    creases = fbm(rng, height, width, cells=(rng.uniform(2, 4), rng.uniform(2, 5)), octaves=3, gain=0.45)
    shade = sample(creases, rows + 3, columns + 4) - creases
    value = 1 + 0.20 * weave + 0.5 * (slubs[0] + slubs[1]) + rng.uniform(0.5, 1.8) * shade
    return np.clip(tint(blur(field(value), 0.6), rgb), 0, 1)


def _slubs(rng: Rng, height: int, width: int, pitch: float) -> Field:
    """Where threads that run across are thicker or thinner, around 0."""
    return field(fbm(rng, height, width, cells=(height / pitch, width / 50), octaves=1) - 0.5)


def curtain(rng: Rng, height: int, width: int, rgb: Field) -> Field:
    """Cloth hanging in vertical folds."""
    rows, columns = grid(height, width)
    sway = (fbm(rng, height, width, cells=(2, 5), octaves=2) - 0.5) * 40
    folds = fbm(rng, 2, width * 2, cells=(1, rng.uniform(14, 30)), octaves=2, gain=0.4)
    profile = sample(folds, np.zeros((1, 1), np.float32), field(columns + sway + width / 2 + 0 * rows))
    value = 0.62 + 0.46 * profile + 0.05 * (fbm(rng, height, width, cells=(4, 4), octaves=2) - 0.5)
    return np.clip(tint(field(value), rgb) * (1 + 0.004 * speckle(rng, height, width)[..., None]), 0, 1)


def terrazzo(rng: Rng, height: int, width: int, rgb: Field, zoom: float = 1.0) -> Field:
    """Polished floor with chips of stone in three to five colours."""
    base = tint(1 + 0.008 * speckle(rng, height, width) + 0.05 * (fbm(rng, height, width, cells=(4, 4)) - 0.5), rgb)
    canvas = np.ascontiguousarray(np.clip(base, 0, 1) * 255).astype(np.uint8)
    palette = [mix(any_rgb(rng), (0.5, 0.45, 0.4), rng.uniform(0.1, 0.6)) for _ in range(int(rng.integers(2, 5)))]
    palette.append(field((0.25, 0.25, 0.26) if rgb.mean() > 0.4 else (0.9, 0.89, 0.86)))
    count = int(height * width / (300 * zoom**2) * rng.uniform(0.7, 1.2))
    for _ in range(count):
        corners = int(rng.integers(4, 7))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = (3.0 + 7.0 * rng.random() ** 2) * zoom
        reach = radius * rng.uniform(0.6, 1.15, corners)
        points = np.stack([rng.uniform(0, width) + reach * np.cos(angles), rng.uniform(0, height) + reach * np.sin(angles)], axis=1)
        chip = palette[int(rng.integers(len(palette)))] * rng.uniform(0.85, 1.12)
        cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], [float(c) for c in np.clip(chip, 0, 1) * 255], cv2.LINE_AA, 4)
    return field(field(canvas) / 255)


def tiles(rng: Rng, height: int, width: int, rgb: Field, zoom: float = 1.0) -> Field:
    """Glazed tiles, square or long, each a shade apart, with grout and a soft edge of light."""
    rows, columns = grid(height, width)
    tall = rng.uniform(24, 44) * zoom
    long = tall * (2.0 if rng.random() < 0.4 else 1.0)
    y = rows + rng.uniform(0, tall)
    course = np.floor(y / tall)
    x = columns + rng.uniform(0, long) + ((course % 2) * long / 2 if long > tall else 0)
    number = (course * 131 + np.floor(x / long) * 71).astype(np.int64) % 997
    tones = rng.normal(0, 0.055, 997).astype(np.float32)[number]
    above, left = y % tall, x % long
    near = field(np.minimum(np.minimum(above, tall - above), np.minimum(left, long - left)))
    inside = smoothstep(1.2, 2.6, near)
    value = 1 + tones + 0.10 * (0.5 - above / tall) + 0.06 * (left / long - 0.5)
    value = value + 0.10 * np.exp(-(((above - 2.6) / 1.2) ** 2))
    grout = field((0.84, 0.83, 0.81)) if rgb.mean() < 0.55 else rgb * 0.62
    return np.clip(mix(np.broadcast_to(grout, (height, width, 3)), tint(field(value), rgb), inside), 0, 1)


def slate(rng: Rng, height: int, width: int, zoom: float = 1.0) -> Field:
    """Split stone, dark and layered."""
    layers = fbm(rng, height, width, cells=(height / 60 / zoom + 1, width / 60 / zoom + 1), octaves=5, gain=0.6)
    rows, columns = grid(height, width)
    relief = sample(layers, rows + 1.5, columns + 1.5) - layers
    base = field((0.25, 0.27, 0.29)) * rng.uniform(0.8, 1.2)
    steps = 7 * layers + 0.4 * fbm(rng, height, width, cells=(height / 20, width / 20), octaves=2)
    cleft = np.exp(-(((steps - np.round(steps)) / 0.09) ** 2))  # where one layer ends, its edge catches light or throws shade
    value = 1 + 0.7 * (layers - 0.5) + 3.0 * relief + 0.45 * cleft * np.sign(relief) * smoothstep(0.0, 0.02, field(np.abs(relief)))
    return np.clip(tint(blur(field(value), 0.5), base), 0, 1)


def sand(rng: Rng, height: int, width: int, zoom: float = 1.0) -> Field:
    """Beach sand: grains, hollows and wind ripples."""
    rows, columns = grid(height, width)
    hollows = fbm(rng, height, width, cells=(height / 45 / zoom + 1, width / 60 / zoom + 1), octaves=4, gain=0.55)
    ripple = np.sin(2 * np.pi * (rows / rng.uniform(13, 20) / zoom + hollows * 3 + 0.01 * columns))
    relief = sample(hollows, rows + 3, columns + 3) - hollows
    value = 1 + 1.3 * relief + rng.uniform(0.05, 0.13) * ripple + 0.05 * speckle(rng, height, width, 1.3)
    return np.clip(tint(field(value), field((0.88, 0.77, 0.59)) * rng.uniform(0.94, 1.05)), 0, 1)


def grass(rng: Rng, height: int, width: int) -> Field:
    """A lawn seen from above its edge: blades that grow longer towards the viewer. Not for warping: it has its own depth."""
    base = mix(field((0.20, 0.36, 0.10)), field((0.33, 0.50, 0.16)), fbm(rng, height, width, cells=(5, 8), octaves=4))
    canvas = np.ascontiguousarray(np.clip(base, 0, 1) * 255).astype(np.uint8)
    count = 1500
    depth = np.sort(rng.random(count) ** 0.75)
    roots = np.stack([rng.uniform(-10, width + 10, count), depth * (height + 14)], axis=1)
    lean = rng.normal(0, 0.45, count)
    blade = (3 + 20 * depth**1.3) * rng.uniform(0.5, 1.2, count)
    tips = roots + np.stack([lean * blade, -blade], axis=1)
    shades = mix(field((0.16, 0.33, 0.07)), field((0.56, 0.72, 0.28)), field(rng.random((count, 1))))[:, 0] * 255
    for root, tip, shade, near in zip(roots, tips, shades, depth, strict=True):
        ends = np.round(np.stack([root, tip]) * 16).astype(np.int32)
        cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), [float(c) for c in shade], 1 + int(near > 0.75), cv2.LINE_AA, 4)
    return field(field(canvas) / 255)


def garden(rng: Rng, height: int, width: int) -> Field:
    """Leaves, blossoms and patches of sun far behind the plane of focus."""
    greens = mix(field((0.13, 0.28, 0.10)), field((0.58, 0.72, 0.34)), stretch(fbm(rng, height, width, cells=(4, 5), octaves=4, gain=0.7)))
    canvas = np.ascontiguousarray(np.clip(greens, 0, 1))
    for _ in range(int(rng.integers(14, 40))):
        colour = mix(field((0.25, 0.45, 0.12)), field((0.92, 0.95, 0.66)), rng.random())
        if rng.random() < 0.15:
            colour = mix(any_rgb(rng), colour, 0.3)
        centre = int(rng.uniform(0, width)), int(rng.uniform(0, height * 0.9))
        spot = canvas.copy()
        cv2.circle(spot, centre, int(rng.uniform(5, 22)), [float(c) for c in colour.ravel()], -1, cv2.LINE_AA)
        canvas = mix(canvas, spot, rng.uniform(0.25, 0.7))
    return np.clip(blur(canvas, rng.uniform(3, 7)), 0, 1)


def bokeh(rng: Rng, height: int, width: int) -> Field:
    """Lights of a town at night, out of focus: discs with a faint rim over a dark haze."""
    warm = rng.random()
    haze = mix(
        field((0.03, 0.035, 0.07)), mix(field((0.10, 0.13, 0.24)), field((0.24, 0.14, 0.08)), warm), fbm(rng, height, width, cells=(3, 3))
    )
    glow = np.zeros((height, width, 3), np.float32)
    size = rng.uniform(6, 18)
    for _ in range(int(rng.integers(25, 70))):
        colour = mix(any_rgb(rng), (1.0, 0.78, 0.42), rng.choice([0.3, 0.85, 0.95]) if warm > 0.3 else rng.uniform(0, 0.5))
        colour = colour / max(float(colour.max()), 0.1)
        radius = size * rng.uniform(0.55, 1.25)
        centre = (int(rng.uniform(-10, width + 10) * 16), int(rng.normal(0.55, 0.25) * height * 16))
        disc = np.zeros((height, width), np.float32)
        cv2.circle(disc, centre, int(radius * 16), 0.8, -1, cv2.LINE_AA, 4)
        cv2.circle(disc, centre, int(radius * 16), 1.0, 1, cv2.LINE_AA, 4)
        glow += tint(disc * rng.uniform(0.15, 0.8) ** 1.3, colour)
    return field(np.clip(haze + blur(glow, rng.uniform(0.6, 1.6)), 0, 1))
