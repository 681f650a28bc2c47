"""The scenes, masks and captions that Studio learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from training.studio.captions import BRICK_TONES, MARBLE_TONES, WOOD_TONES, caption, words
from training.studio.facts import Facts
from training.studio.masks import draw_mask
from training.studio.recipe import Recipe
from training.studio.scene import draw_scene
from training.studio.vocabulary import load_tokenizer, write_tokenizer

SCENES = 24


@pytest.fixture(scope="module")
def facts() -> list[Facts]:
    return [draw_scene(2, index).facts for index in range(SCENES)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, Recipe.tokens)
    return load_tokenizer(directory)


def test_a_scene_is_drawn_from_its_two_numbers_alone() -> None:
    first, again, other = draw_scene(7, 3), draw_scene(7, 3), draw_scene(7, 4)
    assert np.array_equal(first.rgb, again.rgb)
    assert np.array_equal(first.subject, again.subject)
    assert first.facts == again.facts
    assert not np.array_equal(first.rgb, other.rgb)


def test_facts_survive_their_way_through_json(facts: list[Facts]) -> None:
    assert [Facts.from_dict(each.to_dict()) for each in facts] == facts


def test_a_mask_paints_something_and_never_the_inside_of_the_object() -> None:
    for index in range(SCENES):
        subject = draw_scene(2, index).subject
        inside = subject > 250
        inside[3:, 3:] &= inside[:-3, :-3]
        for draw in range(10):
            painted = draw_mask(np.random.default_rng([index, draw]), subject)
            assert painted.shape == subject.shape
            assert np.count_nonzero(painted) >= 0.01 * painted.size
            assert not subject.any() or np.count_nonzero(painted & inside) < 0.2 * np.count_nonzero(inside)


def test_every_word_of_a_caption_is_one_token(tokenizer: Any) -> None:
    assert [word for word in words() if len(tokenizer(word).input_ids) != 3] == []


def test_captions_fit_the_model_and_hold_nothing_unknown(facts: list[Facts], tokenizer: Any) -> None:
    rng = np.random.default_rng(0)
    for each in facts * 20:
        text = caption(rng, each)
        ids = tokenizer(text).input_ids
        assert len(ids) <= Recipe.tokens, text
        assert tokenizer.eos_token_id not in ids[1:-1], text
        assert text == " ".join(text.split()), text


def test_a_word_that_was_never_seen_falls_apart_into_known_pieces(tokenizer: Any) -> None:
    ids = tokenizer("Käsespätzle 日本").input_ids
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert len(ids) > 4


def test_the_tokenizer_is_made_the_same_every_time(tokenizer: Any, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, Recipe.tokens)
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_a_complete_caption_names_every_part(facts: list[Facts]) -> None:
    """What is asked for in the evaluation names the material of every wall and surface, so that it can be judged."""
    rng = np.random.default_rng(0)
    materials = {"wood", "marble", "brick", "concrete", "terrazzo"}
    for each in facts * 5:
        text = caption(rng, each, complete=True)
        for part in (each.wall, each.surface):
            if part is not None and part.material in materials and each.kind != "podium":
                tones = {"wood": WOOD_TONES, "marble": MARBLE_TONES, "brick": BRICK_TONES}.get(part.material)
                words = tones[part.tone] if tones else (part.material, "cement")
                assert any(word in text for word in words), (text, part)
