"""The finished pipeline directory: what ``StableDiffusionInpaintPipeline`` and Outfill load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from training.studio import checkpoint, decoder, latents, sampling, text
from training.studio.captions import words
from training.studio.diffusion import SIDE, Learner
from training.studio.recipe import Recipe
from training.studio.wordlist import write_vocabulary

_VERSION = "0.42.1"
_INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionInpaintPipeline",
    "_diffusers_version": _VERSION,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}
_NOTES = {
    "revision": "5",
    "description": "Studio: small text-guided model for product backdrops, 256 pixels, trained on rendered scenes. It ships with Outfill.",
    "licence": {"id": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0", "commercial_use": True},
    "native_size": SIDE,
    "sampling": {"steps": 20, "guidance_scale": sampling.GUIDANCE, "strength": 1.0, "outpaint_strength": 0.7, "scheduler": "ddim"},
}
_CARD = """---
license: apache-2.0
pipeline_tag: text-to-image
---

# Studio

A small latent-diffusion inpainting model for one thing: backdrops for products. It ships with Outfill, so that a first run shows
text-guided background replacement without a download or a GPU.

- {parameters:.1f} M parameters: UNet {unet:.1f} M, text encoder {text_encoder:.1f} M, autoencoder {vae:.1f} M. Native size {side}×{side}.
- v-prediction, zero-terminal-SNR betas, trailing timesteps. Guidance 2 to 4.
- English prompts of up to {tokens} tokens; every word of its vocabulary of {words} words is one token.

## Data

{scenes:,} scenes drawn by this repository's own renderer (`training/studio`), seed {seed}: no photograph, no scraped text, no other model's
output. `python -m training.studio all` trains such a model from nothing.

## What it knows

Seamless paper, gradients, plinths, painted, brick, wooden, concrete, marble and tiled walls, curtains, a blurred garden, lights at night, the
sea; tables and floors of wood, marble, concrete, linen, terrazzo, tiles and slate; sand, grass; 28 colours; window light, leaf shadows, a
spotlight, dark and bright moods.

## Limits

- It draws backdrops and nothing else: no people, animals, text or things. A word that it does not know is read past; Outfill leaves out
  what is not in `vocabulary.json`, and says so.
- English only.
- It is for surroundings. In a small region amid a photo it goes on with what is around, whatever the prompt says.
- Fine structure, such as grain and veins, is suggested and not exact.

## Training

{vae_steps:,} steps of the autoencoder and {decoder_steps:,} more of its decoder, {text_steps:,} of the text encoder alone, and of UNet and text encoder
together {phases}.
{remarks}

## Licence

Apache-2.0.
"""


def export(recipe: Recipe, work: Path, directory: Path) -> Path:
    """Write the newest averaged weights as a pipeline directory, the UNet in half precision; replace what was there.

    Raises ``FileNotFoundError`` if nothing has been trained yet.
    """
    tokenizer = text.tokenizer_for(recipe, work)
    learner = Learner(recipe, tokenizer)
    learner.restore(checkpoint.of_stage(work, "unet"))
    networks = learner.averaged()
    parts = {"unet": networks["unet"], "text_encoder": networks["text_encoder"], "vae": decoder.load(recipe, work)}
    parts["vae"].register_to_config(scaling_factor=latents.scaling_factor(work))
    millions = {name: sum(each.numel() for each in part.parameters()) / 1e6 for name, part in parts.items()}
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, part in parts.items():
        # The UNet is most of it. transformers loads in the precision that was stored, diffusers in float32: what is small stays float32.
        part.to(torch.float16 if name == "unet" else torch.float32).save_pretrained(partial / name, safe_serialization=True)
    shutil.copytree(work / "tokenizer", partial / "tokenizer")
    _write_json(
        partial / "scheduler" / "scheduler_config.json",
        {"_class_name": "DDIMScheduler", "_diffusers_version": _VERSION, **sampling.SCHEDULER},
    )
    _write_json(partial / "model_index.json", _INDEX)
    _write_json(partial / "outfill.json", _NOTES)
    write_vocabulary(partial)
    card = _CARD.format(
        parameters=sum(millions.values()), **millions, side=SIDE, tokens=recipe.tokens, words=len(words()), scenes=recipe.scenes,
        seed=recipe.seed, vae_steps=recipe.vae_steps, decoder_steps=recipe.decoder_steps, text_steps=recipe.text_steps,
        remarks=recipe.remarks, phases=", then ".join(f"{phase.steps:,} at batch {phase.batch}" for phase in recipe.phases),
    )  # fmt: skip
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return directory


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
