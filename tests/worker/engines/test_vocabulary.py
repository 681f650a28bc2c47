"""What a model with few words reads of a prompt, and what it says that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from api_schemas.prompts import weighed
from scripts.tiny_pipeline import build
from worker.engines.diffusion.card import card_for
from worker.engines.notes import UnsupportedModelError
from worker.engines.vocabulary import FILE, Stray, Vocabulary

WORDS = Vocabulary(
    words=frozenset({"a", "on", "with", "red", "wooden", "table", "wall", "mug", "photo", "curtain", "k", "soft", "light"}),
    read_as={"curtains": "curtain", "tables": "wooden table"},
    carriers=frozenset({"table", "wall", "curtain", "wooden", "light"}),
    things=frozenset({"mug"}),
    idle=frozenset({"photo", "sharp", "mm", "background"}),
    joints=frozenset({"a", "and", "on", "of", "with", "without", "the", "in", "nothing", "but"}),
    places=frozenset({"on", "in"}),
    negations=frozenset({"without", "nothing"}),
    exceptions=frozenset({"but"}),
    lights=frozenset({"soft", "light"}),
    backdrops=frozenset({"background"}),
    scenes=frozenset({"villa"}),
)


def read(prompt: str) -> str:
    return "".join(span.text for span in WORDS.known(weighed(prompt)))


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("A Red wall.  Wooden table!", "A Red wall.  Wooden table!"),
        ("a red velvet wall", "a red wall"),
        ("Hasselblad, ultra-sharp, red wall", "red wall"),
        ("red wall, Hasselblad, wooden table", "red wall, wooden table"),
        ("red wall, f/1.8 85mm", "red wall"),
        ("4k, red curtains", "4k, red curtain"),
        ("tables", "wooden table"),
        ("rote Wand", ""),
        ("", ""),
    ],
)
def test_words_that_mean_nothing_are_left_out(prompt: str, left: str) -> None:
    """Known words keep their order and their letters, and where none was left out between two, what stands between."""
    assert read(prompt) == left


def test_a_weight_stays_with_its_word() -> None:
    """Leaving words out moves no weight to another word."""
    spans = WORDS.known(weighed("velvet (red shiny:1.5) wall (silk:0.5)"))
    assert {word: span.weight for span in spans for word in span.text.split()} == {"red": 1.5, "wall": 1.0}


@pytest.mark.parametrize(
    ("prompt", "unknown", "unheard"),
    [
        ("wooden table, red wall", (), ()),
        ("sharp photo of a wooden table with lemons", ("sharp", "lemons"), ("lemons",)),
        ("wooden table, the Hasselblad", ("hasselblad",), ("hasselblad",)),
        ("shiny wooden table", ("shiny",), ()),
        ("red baubles, wooden table with red ribbons", ("baubles", "ribbons"), ("red ribbons",)),
        ("leather wallet on a wooden table", ("leather", "wallet"), ()),
        ("photo of a wallet, red wall", ("wallet",), ()),
        ("wooden table, wallet", ("wallet",), ("wallet",)),
        ("wooden table with a mug", (), ("mug",)),
        ("wooden table without a plant", ("plant",), ()),
        ("villa", ("villa",), ("villa",)),
        ("wooden table 85 12 85mm", ("85mm",), ()),
        ("wallet, soft light", ("wallet",), ("wallet",)),
        ("mug, soft light", (), ()),
        ("wallet, soft background", ("wallet", "background"), ()),
        ("villa, red wall", ("villa",), ("villa",)),
        ("red villa on a wooden table", ("villa",), ("red villa",)),
        ("villa mug on a wooden table", ("villa",), ()),
        ("wooden table, nothing on a wallet", ("wallet",), ()),
        ("wooden table, nothing but a wallet", ("wallet",), ("wallet",)),
        *(
            (f"wooden table{stop}wallet", ("wallet",), ("wallet",))
            for stop in [" - ", " – ", "—", " & ", " + ", "•", "…", "、", "\n", "_", "(", " -"]
        ),
        ("wooden t-shirt, red wall's end", ("t", "shirt", "s", "end"), ()),
        ("2024", (), ("2024",)),
        (" ,, ", (), (",,",)),
        ("\U0001f600", (), ("\U0001f600",)),
        ("sharp", ("sharp",), ("sharp",)),
    ],
)
def test_a_phrase_of_which_nothing_is_known_is_unheard(prompt: str, unknown: tuple[str, ...], unheard: tuple[str, ...]) -> None:
    """Phrases end at signs and joints; the product's own name, idle words and what is not wanted are no loss, a prompt without words is."""
    assert WORDS.stray(prompt, names_product=True) == Stray(unknown, unheard)


def test_where_there_is_no_product_its_name_is_asked_for() -> None:
    """What a prompt names first is unheard too where the prompt says what to fill a hole with."""
    assert WORDS.stray("mug on a wooden table", names_product=False).unheard == ("mug",)


def test_a_file_that_is_no_vocabulary_makes_the_model_unsupported(tmp_path: Path) -> None:
    """A model's directory with a malformed ``vocabulary.json`` is refused with the file's name rather than run without one."""
    build(tmp_path)
    card_for(tmp_path, "tiny")
    (tmp_path / FILE).write_text('{"word": []}')
    with pytest.raises(UnsupportedModelError, match=FILE):
        card_for(tmp_path, "tiny")
