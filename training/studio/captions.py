"""Captions: the facts of a scene in the words of someone who wants it. Any of them may be left out, in any order, with synonyms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from training.studio.arrays import Rng
from training.studio.colours import NAMED, SHADES, SYNONYMS
from training.studio.facts import Facts, Part

WOOD_TONES: dict[str, tuple[str, ...]] = {
    "light": ("light wooden", "light wooden", "light wood", "light oak", "pale oak", "birch", "pine", "maple", "ash wood", "bright wooden"),
    "brown": ("wooden", "wooden", "wood", "oak", "brown wooden", "teak", "rustic wooden", "cherry wood"),
    "dark": ("dark wooden", "dark wooden", "dark wood", "walnut", "dark walnut", "mahogany", "dark oak", "ebony"),
    "white": ("white wooden", "whitewashed wooden", "white wood"),
    "grey": ("grey wooden", "weathered wooden", "gray wood", "driftwood"),
}
MARBLE_TONES: dict[str, tuple[str, ...]] = {
    "white": ("white marble", "white marble", "carrara marble", "light marble"),
    "black": ("black marble", "black marble", "dark marble"),
    "green": ("green marble", "emerald marble"),
    "pink": ("pink marble", "rose marble"),
    "beige": ("beige marble", "cream marble", "travertine"),
    "grey": ("grey marble", "gray marble"),
}
BRICK_TONES: dict[str, tuple[str, ...]] = {
    "red": ("red brick", "red brick", "brick", "exposed brick"),
    "white": ("white brick", "white painted brick", "light brick"),
    "grey": ("grey brick", "gray brick"),
    "brown": ("brown brick", "old brick"),
    "black": ("black brick", "dark brick"),
}
WALLS: dict[str, tuple[str, ...]] = {
    "paint": ("{} wall", "{} wall", "{} painted wall", "{} background", "{} backdrop"),
    "brick": ("{} wall", "{} wall", "wall of {}s", "{} background"),
    "wood": ("{} wall", "{} wall", "{} panels", "{} planks", "{} background"),
    "marble": ("{} wall", "{} background", "{} slab"),
    "concrete": ("{} concrete wall", "{} concrete wall", "{} concrete background", "{} cement wall"),
    "tiles": ("{} tiles", "{} tiled wall", "wall of {} tiles", "{} ceramic tiles"),
    "curtain": ("{} curtain", "{} drapes", "{} fabric background", "{} linen curtain"),
    "garden": ("blurred garden", "green garden", "garden background", "blurry green nature", "park", "trees in the background", "garden"),
    "bokeh": (
        "night bokeh", "bokeh lights", "city lights at night", "night city bokeh lights", "blurred lights at night", "bokeh", "night bar",
    ),
    "sea": ("the sea", "blue sea", "ocean", "sea view", "ocean and sky", "seaside", "sea and sky"),
}  # fmt: skip
SURFACES: dict[str, tuple[str, ...]] = {
    "wood": ("{} table", "{} table", "{} tabletop", "{} desk", "{} floor", "{} board", "{} surface", "{} planks", "{} counter"),
    "marble": ("{} table", "{} table", "{} counter", "{} countertop", "{} slab", "{} surface", "{} floor", "{}"),
    "concrete": ("{} concrete floor", "{} concrete surface", "{} concrete table", "{} cement floor", "{} concrete"),
    "linen": ("{} linen", "{} linen cloth", "{} tablecloth", "{} fabric", "{} textile", "{} linen tablecloth"),
    "terrazzo": ("{} terrazzo", "{} terrazzo floor", "{} terrazzo table", "{} terrazzo counter"),
    "tiles": ("{} tiled floor", "{} tiles", "{} tiled counter", "{} tile floor"),
    "gloss": ("{} table", "{} glossy table", "{} table", "{} surface", "{} desk", "{} counter"),
    "paint": ("{}",),
    "slate": ("slate", "slate slab", "dark stone", "stone slab", "slate table", "dark stone surface"),
    "sand": ("sand", "sandy beach", "beach", "beach sand", "golden sand"),
    "grass": ("grass", "green grass", "lawn", "meadow", "green lawn"),
}
LIGHTS: dict[str, tuple[str, ...]] = {
    "soft": ("soft light", "studio light", "soft shadow", "even light", "natural light", "diffuse light", "soft lighting"),
    "window": ("window light", "light from a window", "window shadows", "sunlight through a window", "morning light from a window"),
    "leaves": ("leaf shadows", "dappled light", "plant shadows", "shadows of leaves", "palm shadow"),
    "sun": ("hard sunlight", "hard shadows", "direct sun", "strong sunlight"),
    "spot": ("spotlight", "spot light", "pool of light"),
    "dark": ("moody", "dark mood", "dim light", "low key", "dramatic light", "dark and moody"),
    "bright": ("bright", "bright light", "high key", "airy", "bright and airy"),
}
WARMTHS = {"warm": ("warm light", "warm", "golden hour", "warm tones"), "cool": ("cool light", "cool tones", "cold light")}
PAPERS = (
    "{} paper backdrop", "seamless {} paper", "{} background", "plain {} background", "{} studio backdrop", "{} backdrop", "{} paper",
    "solid {} background", "{} seamless backdrop", "{}",
)  # fmt: skip
GRADIENTS = (
    "gradient from {} to {}",
    "{} to {} gradient",
    "{} and {} gradient",
    "{} and {} gradient background",
    "smooth gradient of {} and {}",
)
PODIUMS = ("{} podium", "{} plinth", "{} pedestal", "{} podium", "{} stand", "{} platform", "{} display podium")
FLATS = (
    "flat lay on {}",
    "top view of {}",
    "{} from above",
    "{} background",
    "{} texture",
    "on {}",
    "lying on {}",
    "{}",
    "overhead view on {}",
)
ROOMS = (
    "{surface}, {wall}", "{wall}, {surface}", "on a {surface} in front of a {wall}", "{surface} and {wall}", "on a {surface}, {wall}",
    "standing on a {surface} with a {wall} behind", "{surface} with {wall}", "{wall} behind a {surface}", "on {surface} against a {wall}",
    "{surface} in front of {wall}", "on top of a {surface}, {wall} in the background",
)  # fmt: skip
ONLY_SURFACE = ("{}", "on a {}", "on {}", "standing on a {}", "placed on a {}")
ONLY_WALL = ("{}", "in front of a {}", "{} behind", "against a {}", "{} in the background")
BESIDE = ("{podium}, {wall}", "{wall}, {podium}", "on a {podium} in front of a {wall}", "{podium} and {wall}", "on a {podium}, {wall}")
OPENINGS = (
    "product photo", "product photography", "studio shot", "photo", "a photo of a {}", "{}", "a {}", "product photo of a {}", "the {}",
    "my {}", "advertising photo of a {}", "picture of a {}", "packshot", "a {} standing",
)  # fmt: skip
ENDINGS = ("high quality", "professional", "photorealistic", "minimal", "elegant", "clean", "beautiful", "4k", "sharp focus", "realistic")
PRODUCTS = (
    "coffee cup", "cup", "mug", "bottle", "wine bottle", "perfume", "perfume bottle", "vase", "shoe", "sneaker", "watch", "lamp",
    "chair", "bag", "handbag", "backpack", "box", "package", "jar", "can", "candle", "cream", "cosmetic", "lipstick", "soap", "phone",
    "camera", "laptop", "headphones", "speaker", "toy", "car", "cat", "dog", "plant", "flower", "pot", "teapot", "kettle", "glass",
    "bowl", "plate", "cake", "bread", "fruit", "apple", "burger", "pizza", "drink", "beer", "juice", "tea", "chocolate bar", "knife",
    "pan", "book", "pen", "clock", "ring", "necklace", "sunglasses", "hat", "shirt", "boots", "helmet", "bicycle", "guitar", "ball",
    "doll", "robot", "rocket", "machine", "tool", "drill", "battery", "tube", "spray", "product", "object", "item", "person", "woman",
    "man", "statue", "figurine", "skin care", "serum", "lotion",
)  # fmt: skip
_FRAMES = (WALLS, SURFACES, LIGHTS, WARMTHS, WOOD_TONES, MARBLE_TONES, BRICK_TONES, SHADES, SYNONYMS)
_LISTS = (PAPERS, GRADIENTS, PODIUMS, FLATS, ROOMS, ONLY_SURFACE, ONLY_WALL, BESIDE, OPENINGS, ENDINGS, PRODUCTS, tuple(NAMED))
_MORE = (
    "an", "and", "at", "by", "for", "from", "in", "is", "it", "its", "near", "next", "of", "on", "over", "some", "that", "the", "this",
    "to", "under", "with", "without", "very", "its", "background", "scene",
)  # fmt: skip
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def words() -> list[str]:
    """Every word that a caption can hold, sorted; pseudo-words apart."""
    texts = [
        *_MORE,
        *(text for table in _LISTS for text in table),
        *(text for table in _FRAMES for texts in table.values() for text in texts),
    ]
    found = {word for text in texts for word in re.findall(r"[a-z]+", re.sub(r"\{\w*\}", " ", text.lower()))}
    # "{} bricks" is written as "{}s": the plurals of what goes in there.
    return sorted(found | {"bricks"})


def caption(rng: Rng, facts: Facts, *, complete: bool = False) -> str:
    """One of the many ways to ask for a scene like this. A ``complete`` one names every wall, surface, colour and light, and nothing unknown."""
    plain = {"paper": _paper, "gradient": _gradient}.get(facts.kind)
    varied = {"podium": _podium, "room": _room, "flat": _flat}
    core = plain(rng, facts) if plain else varied[facts.kind](rng, facts, complete=complete)
    parts = [core, *_moods(rng, facts, complete=complete)]
    if rng.random() < 0.25:
        rng.shuffle(parts)
    if rng.random() < 0.35:
        parts.insert(0, _one(rng, OPENINGS).format(_one(rng, PRODUCTS)))
    if rng.random() < 0.12:
        parts.append(_one(rng, ENDINGS))
    text = (", " if rng.random() < 0.75 else " ").join(parts)
    if rng.random() < 0.10 and not complete:
        text = _with_strangers(rng, text)
    return text.replace(",", "") if rng.random() < 0.15 else text


def _paper(rng: Rng, facts: Facts) -> str:
    return _one(rng, PAPERS).format(_colour(rng, facts.wall))


def _gradient(rng: Rng, facts: Facts) -> str:
    first, second = _colour(rng, facts.wall), _colour(rng, facts.surface)
    if rng.random() < 0.3:
        first, second = second, first
    return _one(rng, GRADIENTS).format(first, second)


def _podium(rng: Rng, facts: Facts, *, complete: bool) -> str:
    stone = "concrete" if facts.surface and facts.surface.material == "concrete" else ""
    podium = " ".join(_one(rng, PODIUMS).format(f"{_tone(rng, facts.surface, complete=complete)} {stone}").split())
    if rng.random() < 0.15 and not complete:
        return _one(rng, ONLY_SURFACE).format(podium)
    return _one(rng, BESIDE).format(podium=podium, wall=_paper(rng, facts))


def _room(rng: Rng, facts: Facts, *, complete: bool) -> str:
    wall = _named(rng, WALLS, facts.wall, complete=complete)
    surface = _named(rng, SURFACES, facts.surface, complete=complete)
    draw = 1.0 if complete else rng.random()
    if draw < 0.12:
        return _one(rng, ONLY_SURFACE).format(surface)
    if draw < 0.22:
        return _one(rng, ONLY_WALL).format(wall)
    return _one(rng, ROOMS).format(surface=surface, wall=wall)


def _flat(rng: Rng, facts: Facts, *, complete: bool) -> str:
    return _one(rng, FLATS).format(_named(rng, SURFACES, facts.surface, complete=complete))


def _moods(rng: Rng, facts: Facts, *, complete: bool) -> Iterator[str]:
    often = 1.0 if complete else 0.7
    if rng.random() < (0.2 if facts.light == "soft" else often):
        yield _one(rng, LIGHTS[facts.light])
    if facts.warmth and rng.random() < often:
        yield _one(rng, WARMTHS[facts.warmth])


def _named(rng: Rng, table: dict[str, tuple[str, ...]], part: Part | None, *, complete: bool) -> str:
    if part is None:
        return ""
    return " ".join(_one(rng, table[part.material]).format(_tone(rng, part, complete=complete)).split())


def _tone(rng: Rng, part: Part | None, *, complete: bool) -> str:
    """The tone of a material in words; now and then without it, unless ``complete``."""
    if part is None:
        return ""
    tones = {"wood": WOOD_TONES, "marble": MARBLE_TONES, "brick": BRICK_TONES}.get(part.material)
    plain = rng.random() < 0.1 and not complete
    if tones is not None:
        return {"wood": "wooden", "marble": "marble", "brick": "brick"}[part.material] if plain else _one(rng, tones[part.tone])
    if plain and part.material in ("concrete", "terrazzo", "linen", "tiles", "curtain"):
        return ""
    return _colour(rng, part)


def _colour(rng: Rng, part: Part | None) -> str:
    if part is None or not part.tone:
        return ""
    names = SYNONYMS.get(part.tone, ())
    name = _one(rng, names) if names and rng.random() < 0.35 else part.tone
    return f"{_one(rng, SHADES[part.shade])} {name}" if part.shade else name


def _with_strangers(rng: Rng, text: str) -> str:
    """``text`` with one or two words that mean nothing, so that the model learns to read past what it does not know."""
    parts = text.split(" ")
    for _ in range(int(rng.integers(1, 3))):
        syllables = int(rng.integers(1, 4))
        stranger = "".join(_CONSONANTS[int(rng.integers(18))] + _VOWELS[int(rng.integers(5))] for _ in range(syllables))
        if rng.random() < 0.5:
            stranger += _CONSONANTS[int(rng.integers(18))]
        parts.insert(int(rng.integers(len(parts) + 1)), stranger)
    return " ".join(parts)


def _one(rng: Rng, options: Iterable[Any]) -> str:
    choices = list(options)
    return str(choices[int(rng.integers(len(choices)))])
