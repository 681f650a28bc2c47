"""The text encoder learns to read before it learns to paint: from captions it tells the facts of the scene.

CLIP's text encoder comes to Stable Diffusion with language already in it. Without that the UNet would have to find out at once where things are and
which of the words speak of them: after 3,000 steps it painted the right colours, but 8 % of what distinguishes a wall from the table before it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from training.studio import checkpoint, loop
from training.studio.captions import caption
from training.studio.facts import Facts
from training.studio.precision import autocast
from training.studio.recipe import Recipe
from training.studio.store import Scenes
from training.studio.vocabulary import load_tokenizer, tokenize, write_tokenizer

STAGE = 5


def build(recipe: Recipe, tokenizer: Any) -> Any:
    """A new text encoder."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            num_attention_heads=max(1, recipe.text_width // 32),
            num_hidden_layers=recipe.text_layers,
            max_position_embeddings=recipe.tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenizer_for(recipe: Recipe, work: Path) -> Any:
    """The tokenizer in ``work``, made at the first call."""
    if not (work / "tokenizer" / "tokenizer_config.json").exists():
        write_tokenizer(work / "tokenizer", recipe.tokens)
    return load_tokenizer(work / "tokenizer")


def answers(facts: Facts) -> dict[str, str]:
    """What a reader of a caption should know, as a word for each question."""
    found = {"kind": facts.kind, "light": facts.light, "warmth": facts.warmth}
    for role, part in (("wall", facts.wall), ("surface", facts.surface)):
        found |= {f"{role} {name}": getattr(part, name) if part else "" for name in ("material", "tone", "shade")}
    return found


def train(recipe: Recipe, work: Path, log: Callable[[str], None]) -> bool:
    """Train to ``recipe.text_steps`` or go on from a checkpoint. False if it was told to stop."""
    tokenizer, facts = tokenizer_for(recipe, work), Scenes(work).facts
    torch.manual_seed(recipe.seed + STAGE)
    listed = [answers(each) for each in facts]
    classes = {question: sorted({each[question] for each in listed}) for question in listed[0]}
    encoder = build(recipe, tokenizer).train()
    encoder.set_attn_implementation("eager")
    heads = nn.ModuleDict({question: nn.Linear(recipe.text_width, len(words)) for question, words in classes.items()})
    model = nn.ModuleDict({"encoder": encoder, "heads": heads})
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.text_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def learn(step: int) -> dict[str, float]:
        rng, _ = checkpoint.step_rngs(recipe.seed, STAGE, step)
        chosen = [int(index) for index in rng.integers(len(facts), size=recipe.text_batch)]
        tokens = tokenize(tokenizer, [caption(rng, facts[index]) for index in chosen])
        with autocast():
            states = encoder(tokens)[0]
        # From the end of the text on, every token has read all of it: each is to know the answers.
        ended = (tokens == tokenizer.eos_token_id).cumsum(dim=1) > 0
        losses = []
        for question, words in classes.items():
            right = torch.tensor([words.index(listed[index][question]) for index in chosen]).repeat_interleave(ended.sum(dim=1))
            losses.append(functional.cross_entropy(heads[question](states[ended].float()), right))
        loss = torch.stack(losses).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return {"loss": float(loss.detach())}

    run = loop.Run("text", work / "text", model, optimiser, recipe.text_steps, recipe.text_rate, warm_up=100)
    return loop.train(run, recipe, log, learn)


def load(recipe: Recipe, work: Path) -> dict[str, torch.Tensor]:
    """The trained encoder's weights. Raises ``FileNotFoundError`` before there are any."""
    learned = checkpoint.of_stage(work, "text", recipe.text_steps)["model"]
    return {name.removeprefix("encoder."): value for name, value in learned.items() if name.startswith("encoder.")}
