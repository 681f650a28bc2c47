"""The word list that goes with Studio: it is the training's own, and it warns of what Studio cannot paint and of little else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from api_schemas.models import STUDIO
from api_schemas.prompts import weighed
from training.studio.captions import caption, words
from training.studio.scene import draw_scene
from training.studio.vocabulary import load_tokenizer
from training.studio.wordlist import vocabulary, write_vocabulary
from worker.engines.vocabulary import FILE, Vocabulary
from worker.engines.weights import EMBEDDED

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = EMBEDDED / STUDIO.id
HONEST = """
ceramic teapot on a light oak table, soft window light
stainless steel water bottle, white marble countertop, bright and airy
Product photo: wireless earbuds – black slate, dramatic light
plain white background, soft shadow under the product, shot on Canon EOS R5
headphones, solid navy background, 85mm lens, f/2.8, cinematic
a jar of honey on a rustic wooden board, warm light, copy space on the right
running shoe / grey concrete floor / hard shadows
sunscreen tube on golden sand with the sea behind, eye level
perfume bottle — pink podium — pink backdrop — studio light
handbag on white linen, leaf shadows, nothing else
beige paper backdrop & soft light
lipstick, gradient from pink to peach, negative space
watch on dark marble, low key, rim light, white balance 5500K
candle on a walnut table, white brick wall, cosy, golden hour
coffee bag, green terrazzo counter, mint wall, amazon listing style
(dark wooden table:1.3), (teal wall:1.2), 50mm
white tiled wall, wooden counter, no people
skincare bottle on a round white plinth, lavender background + diffuse light
leather boots on grass, blurred trees in the background, backlit
desk lamp on a white desk, light grey wall, Scandinavian minimalism
whiskey glass on a black glossy table, city lights bokeh at night
baby blue seamless paper, high key, e-commerce, 1:1
board game box, red curtain, spotlight, hero shot
garden chair on a green lawn, sunny day, natural colours
cutlery set on a grey tablecloth, top view, flat lay
"""
"""Prompts that Studio can paint, in the ways in which people write them; none was looked at when the word list was made."""
SCENES = """
beach house at sunset, warm light
modern office with a view, soft daylight
pine forest, morning light, moody
snowy street, bokeh
cozy bedroom with plants, soft window light
mountain lake, golden hour
Paris cafe terrace, bright
bathroom with a bathtub, white tiles
desert dunes, hard sunlight
industrial loft, dramatic light
a wooden table – oranges & lemons
oak table + flowers in a vase
marble counter • cinnamon sticks
temple ruins at dawn, stone floor
rooftop bar, city lights at night
volcano, dark and moody
old library, spotlight
space station interior, cool light
modern villa at dusk, soft window light
living room with a sofa, soft light
forest with snow, soft light
tropical jungle, green leaves
luxury villa at dusk, wooden floor
wooden table - lemons
wooden table、lemons
"""
LIST = Vocabulary.model_validate(vocabulary())


def unheard(prompt: str) -> tuple[str, ...]:
    return LIST.stray(prompt, names_product=True).unheard


def test_the_list_that_ships_is_the_one_that_training_writes(tmp_path: Path) -> None:
    """Studio's directory has the word list of the captions that it was trained on."""
    write_vocabulary(tmp_path)
    assert (tmp_path / FILE).read_bytes() == (DIRECTORY / FILE).read_bytes()


def test_what_is_read_in_place_of_another_word_was_taught() -> None:
    """Each word of a caption is one token of the tokenizer that ships, and no other word is given to the model."""
    tokenizer = load_tokenizer(DIRECTORY / "tokenizer")
    assert set(words()) == LIST.words
    assert [word for word in LIST.words if len(tokenizer(word).input_ids) != 3] == []
    assert {word for read in LIST.read_as.values() for word in read.split()} <= LIST.words
    assert LIST.words.isdisjoint(LIST.read_as)


def test_captions_of_its_training_warn_of_nothing() -> None:
    """Of 200 captions in which every part is named, in any order and with synonyms, at most 2 % have a phrase that is not heard."""
    scenes = [draw_scene(5, index).facts for index in range(8)]
    captions = [caption(np.random.default_rng([5, index]), scenes[index % len(scenes)], complete=True) for index in range(200)]
    assert len([text for text in captions if unheard(text)]) <= 4


def test_prompts_of_the_documentation_warn_of_nothing() -> None:
    """Every prompt for a backdrop that README and docs/models.md recommend is heard, phrase by phrase."""
    readme, models = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/models.md"))
    (block,) = re.findall(r"in which light:\n\n```\n(.*?)```", models, re.DOTALL)
    prompts = [*block.splitlines(), *(json.loads(f'"{text}"') for text in re.findall(r'"prompt": "([^"]*)"', readme))]
    assert len(prompts) >= 6
    assert {prompt: found for prompt in prompts if (found := unheard(prompt))} == {}


def test_of_honest_prompts_hardly_any_warns() -> None:
    """At most one in 25 prompts that Studio can paint has a phrase that is not heard."""
    texts = ["".join(span.text for span in weighed(prompt)) for prompt in HONEST.strip().splitlines()]
    assert len(texts) == 25
    assert len([text for text in texts if unheard(text)]) <= 1


@pytest.mark.parametrize("prompt", SCENES.strip().splitlines())
def test_a_scene_is_no_product(prompt: str) -> None:
    """A room, a landscape or a second thing is missed, whatever light, floor or dash stands beside it."""
    assert unheard(prompt) != ()


@pytest.mark.parametrize(
    "talk",
    ["85mm", "50mm lens", "shot with a 50mm lens", "shot on Canon EOS R5", "cinematic", "copy space", "negative space", "backlit", "eye level",
     "nothing on it", "amazon listing style", "white balance 5500K", "nothing else", "ISO 100", "1080px", "Sony A7 III"],
)  # fmt: skip
def test_what_photographers_say_asks_for_nothing(talk: str) -> None:
    """Lenses, cameras, numbers with a unit and framing are no phrase that is not heard."""
    assert unheard(f"wooden table, {talk}") == ()


@pytest.mark.parametrize(
    "prompt",
    [
        "Professional e-commerce product photograph, ultra sharp, 8k, award-winning, Hasselblad, shallow depth of field, teal wall",
        "leather wallet on a walnut desk, natural daylight, blurred background",
        "running shoes on a concrete floor, hard sunlight, high contrast",
        "luxury perfume bottle on a black marble slab, dramatic spotlight, ultra detailed",
        "pastel pink seamless background, minimalist product photography",
        "honey jar on rustic wooden tables, no people, without text",
    ],
)
def test_what_it_can_paint_warns_of_nothing(prompt: str) -> None:
    """Photographers' talk, the product's own name and other forms of known words are no phrase that is not heard."""
    assert unheard(prompt) == ()


@pytest.mark.parametrize(
    ("prompt", "missing"),
    [
        ("kitchen counter next to lemons and a plant", "lemons"),
        ("modern villa at dusk", "modern villa"),
        ("scandinavian living room", "scandinavian living room"),
        ("dunkler Holztisch, grüne Wand", "grüne wand"),
        ("white tiles, bathroom style", "bathroom style"),
        ("christmas decoration with red baubles", "red baubles"),
        ("wooden table with a laptop", "laptop"),
    ],
)
def test_what_it_cannot_paint_is_named(prompt: str, missing: str) -> None:
    """A thing, a place or another language in a prompt is a phrase that is not heard, though words around it are."""
    assert missing in unheard(prompt)
