"""Prompts longer than the text encoder reads, and prompts with weights, on tiny pipelines with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from painting import SAMPLING, begun, relative_error, request_for, result_of

from api_schemas.models import STUDIO
from scripts.tiny_pipeline import build
from training.studio.vocabulary import load_tokenizer
from worker.engines.base import Reading
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.chunks import CHUNKS, PromptReader
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.prompts import PromptEmbeds
from worker.engines.vocabulary import Vocabulary
from worker.engines.weights import EMBEDDED

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]
TOKENS = 77
OPENING = "an award winning photo of a sofa in a room with a lamp and a rug and a plant, "
"""61 tokens of the tiny tokenizer, which has one for each letter; the comma is in the last quarter of a chunk."""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DiffusionEngine]:
    """The engine of a kind of pipeline, loaded once."""
    loaded: dict[str, DiffusionEngine] = {}

    def load(kind: str) -> DiffusionEngine:
        if kind not in loaded:
            directory = tmp_path_factory.mktemp("prompts") / kind
            build(directory, kind=kind)
            loaded[kind] = DiffusionEngine.load(directory, card_for(directory, kind))
        return loaded[kind]

    return load


def stock(engine: DiffusionEngine, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the stock pipelines make of ``text``: hidden states, and the last encoder's pooled ones."""
    parts, states = engine._parts, []
    with torch.inference_mode():
        for tokenizer, encoder in zip(parts.tokenizers, parts.text_encoders.values(), strict=True):
            ids = tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
            output = encoder(ids, output_hidden_states=True)
            states.append(output.hidden_states[-2] if parts.family.penultimate_layer else output[0])
    return torch.cat(states, dim=-1), output[0]


def encoded(engine: DiffusionEngine, text: str) -> PromptEmbeds:
    return engine._prompts.encode([engine._reader.text(text)])[text]


@pytest.mark.parametrize("kind", ["sd15-inpaint", "sdxl-inpaint"])
@pytest.mark.parametrize("text", ["", "A red  sofa, (oak) #1!", "x" * (TOKENS - 2)])
def test_a_prompt_that_fits_is_encoded_as_ever(load: Callable[[str], DiffusionEngine], kind: str, text: str) -> None:
    """Up to the encoder's own length the states are the stock pipeline's, bit for bit, the pooled ones too."""
    ours, (states, pooled) = encoded(load(kind), text), stock(load(kind), text)
    assert torch.equal(ours.embeds, states)
    assert ours.pooled is None or torch.equal(ours.pooled, pooled)


@pytest.mark.parametrize("kind", ["sd15-inpaint", "sdxl-inpaint"])
def test_a_longer_prompt_is_read_on_in_chunks(load: Callable[[str], DiffusionEngine], kind: str) -> None:
    """Each chunk is encoded by itself, the first up to its last comma, and the pooled states are the first one's."""
    engine = load(kind)
    ours, first = encoded(engine, OPENING + "a red carpet on the floor"), encoded(engine, OPENING.strip())
    assert ours.embeds.shape[1] == 2 * TOKENS
    # But for rounding: the chunks of a text are encoded together.
    torch.testing.assert_close(ours.embeds[:, :TOKENS], first.embeds, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.embeds[:, TOKENS:], encoded(engine, "a red carpet on the floor").embeds, atol=1e-6, rtol=1e-6)
    if ours.pooled is not None and first.pooled is not None:
        torch.testing.assert_close(ours.pooled, first.pooled, atol=1e-6, rtol=1e-6)


def test_a_chunk_ends_with_a_word_where_no_comma_is_near(load: Callable[[str], DiffusionEngine]) -> None:
    """A word is not torn in two while it is shorter than a chunk; a longer one is."""
    engine = load("sd15-inpaint")
    words = "sofa " * 20
    assert torch.equal(encoded(engine, words).embeds[:, :TOKENS], encoded(engine, "sofa " * 18).embeds)
    torn = encoded(engine, "s" * 80).embeds
    assert torch.equal(torn[:, TOKENS:], encoded(engine, "s" * 5).embeds)


def test_what_is_beyond_the_last_chunk_is_told(load: Callable[[str], DiffusionEngine]) -> None:
    """No more than ``CHUNKS`` are read, three fill up to four with the empty one, and the reading has the words that are left."""
    engine = load("sd15-inpaint")
    three, many = "sofa " * 50, "sofa " * 18 * CHUNKS + "carpet, lamp"
    assert encoded(engine, three).embeds.shape[1] == CHUNKS * TOKENS
    assert torch.equal(encoded(engine, three).embeds[:, 3 * TOKENS :], encoded(engine, "").embeds)
    assert encoded(engine, many).embeds.shape[1] == CHUNKS * TOKENS
    assert engine.read(many, names_product=True) == Reading(unread="carpet, lamp")
    assert engine.read(three, names_product=True) == Reading()


def test_the_unread_end_is_what_was_sent() -> None:
    """It is cut from the prompt itself: with its case, its accents, its weights, and the words that were left out or replaced."""
    reader = PromptReader([load_tokenizer(EMBEDDED / STUDIO.id / "tokenizer")], Vocabulary.of(EMBEDDED / STUDIO.id))
    prompt = "zesty Lemons, timber table by Daylight; café \\(Ø 50%\\) " * 30 + "(teal Wall:1.2), PINK paper"
    unread = reader.read(prompt, names_product=True).unread
    assert unread is not None
    assert len(unread) > 0.2 * len(prompt)
    assert prompt.endswith(unread)
    assert reader.read(prompt.removesuffix(unread), names_product=True).unread is None
    assert reader.read(prompt.removesuffix(unread) + unread.split()[0], names_product=True).unread == unread.split()[0]


@pytest.mark.parametrize(("prompt", "unheard"), [("wooden table, (lemons:0)", ()), ("(teal wall:0)", ("(teal wall:0)",))])
def test_what_has_no_weight_is_not_asked_for(prompt: str, unheard: tuple[str, ...]) -> None:
    """Unknown words of weight 0 are no loss; a prompt of nothing else is one."""
    reader = PromptReader([load_tokenizer(EMBEDDED / STUDIO.id / "tokenizer")], Vocabulary.of(EMBEDDED / STUDIO.id))
    assert reader.read(prompt, names_product=True).unheard == unheard


def test_weights_that_an_accepted_job_has_wrong_are_text(load: Callable[[str], DiffusionEngine]) -> None:
    """A prompt that would be refused today is encoded as the stock pipeline does, signs and all, and fails nothing."""
    engine, old = load("sd15-inpaint"), "red (sofa:9)"
    assert torch.equal(encoded(engine, old).embeds, stock(engine, old)[0])
    assert engine.read(old, names_product=True) == Reading()


@pytest.mark.parametrize("kind", ["sd15-inpaint", "sdxl-inpaint"])
def test_the_end_of_a_long_prompt_is_heard(load: Callable[[str], DiffusionEngine], kind: str) -> None:
    """Two prompts that differ beyond the encoder's length alone give different pictures; so do two negative prompts."""
    engine = load(kind)
    one, other = OPENING * 2 + "red carpet", OPENING * 2 + "white tiles"
    for first, second in (
        (replace(SAMPLING, prompt=one), replace(SAMPLING, prompt=other)),
        (replace(SAMPLING, negative_prompt=one), replace(SAMPLING, negative_prompt=other)),
    ):
        assert relative_error(result_of(engine, request_for(first)), result_of(engine, request_for(second))) > 1e-3


@pytest.mark.parametrize("kind", ["sd15-inpaint", "sdxl-inpaint", "zero-snr"])
def test_prompts_of_any_length_share_a_batch(load: Callable[[str], DiffusionEngine], kind: str) -> None:
    """Slots with prompts of one, two and four chunks end as each does alone, in the same UNet calls where the UNet does not pool."""
    engine = load(kind)
    samplings = [SAMPLING, replace(SAMPLING, prompt=OPENING * 2), replace(SAMPLING, negative_prompt=OPENING * 4)]
    alone = [result_of(engine, request_for(sampling, seed=seed)) for seed, sampling in enumerate(samplings)]
    slots = [begun(engine, request_for(sampling, seed=seed)) for seed, sampling in enumerate(samplings)]
    by_key: dict[Any, list[Any]] = {}
    for slot in slots:
        by_key.setdefault(slot.batch_key, []).append(slot)
    assert len(by_key) == (3 if kind == "zero-snr" else 1)
    for batch in by_key.values():
        before = engine.calls.total()
        while not batch[0].done:
            engine.step(batch)
        assert engine.calls.total() - before == SAMPLING.steps
    assert max(relative_error(slot.latents, latents) for slot, latents in zip(slots, alone, strict=True)) <= 1e-5


def test_a_long_prompt_stays_out_of_compiled_calls(load: Callable[[str], DiffusionEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the UNet is compiled, jobs with a long prompt have a batch of their own: in one call they would take its graph from all."""
    engine = load("sd15-inpaint")
    monkeypatch.setattr(engine._unet, "_warmed", {(2, 9, 8, 8, TOKENS)})
    short, other, long = (begun(engine, request_for(replace(SAMPLING, prompt=prompt))) for prompt in ("a sofa", "a rug", OPENING * 2))
    assert short.batch_key == other.batch_key != long.batch_key


# Weights


def test_a_weight_of_one_changes_nothing(load: Callable[[str], DiffusionEngine]) -> None:
    """``(sofa:1)`` is encoded as ``sofa`` is, bit for bit."""
    engine = load("sd15-inpaint")
    assert torch.equal(encoded(engine, "a (red:1) sofa").embeds, encoded(engine, "a red sofa").embeds)


@pytest.mark.parametrize("kind", ["sd15-inpaint", "sdxl-inpaint"])
def test_a_weight_of_zero_is_not_heard_at_all(load: Callable[[str], DiffusionEngine], kind: str) -> None:
    """Other words of as many letters in its place make no difference, at any token, to the end of the text."""
    red, tan = (encoded(load(kind), f"a ({word}:0) sofa").embeds for word in ("red", "tan"))
    assert torch.allclose(red, tan, atol=1e-5)
    assert not torch.allclose(red, encoded(load(kind), "a red sofa").embeds, atol=1e-2)


def test_weights_below_one_lie_between(load: Callable[[str], DiffusionEngine]) -> None:
    """Half a weight is half of the way from the text without those words to the text with them."""
    none, half, full = (encoded(load("sd15-inpaint"), f"a (red:{weight}) sofa").embeds for weight in (0, 0.5, 1))
    assert torch.allclose(half, (none + full) / 2, atol=1e-5)


def test_weights_above_one_lead_away_from_the_empty_text(load: Callable[[str], DiffusionEngine]) -> None:
    """The states of those words, and no others, go on in the direction from the empty text's states to theirs."""
    engine = load("sd15-inpaint")
    empty, plain, more = (encoded(engine, text).embeds for text in ("", "a red sofa", "a (red:1.5) sofa"))
    red = slice(2, 5)  # behind the start and "a"
    expected = plain.clone()
    expected[:, red] += 0.5 * (plain - empty)[:, red]
    assert torch.allclose(more, expected, atol=1e-5)


def test_a_weight_counts_in_every_chunk(load: Callable[[str], DiffusionEngine]) -> None:
    """Words of the second chunk are weighed as they would be in a text of their own."""
    engine = load("sd15-inpaint")
    long = encoded(engine, OPENING + "a (red:0.3) carpet on the floor").embeds
    assert torch.allclose(long[:, TOKENS:], encoded(engine, "a (red:0.3) carpet on the floor").embeds, atol=1e-6)
    assert torch.equal(long[:, :TOKENS], encoded(engine, OPENING.strip()).embeds)
