"""The loaded parts of a pipeline: the one place that reads weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from worker.engines.diffusion.card import family_of
from worker.engines.diffusion.families import Family
from worker.engines.diffusion.samplers import sampler_config
from worker.engines.notes import read_json
from worker.engines.vocabulary import Vocabulary
from worker.tuning import Dtype

CLASSES: dict[str, Any] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
}


@dataclass(frozen=True, eq=False)
class Parts:
    """A pipeline in memory, in evaluation mode."""

    family: Family
    unet: Any
    vae: Any
    """``AutoencoderKL``, or ``AutoencoderTiny``, whose latents are not drawn from a posterior."""
    text_encoders: dict[str, Any]
    """By folder, in the family's order."""
    tokenizers: tuple[Any, ...]
    zeros_for_empty_prompt: bool
    """Whether an empty negative prompt is all zeros rather than the embeddings of an empty text."""
    sampler_config: dict[str, Any]
    vocabulary: Vocabulary | None = None
    """``None`` for a model that has met every word."""


def load_parts(path: Path, *, dtype: Dtype, vae_dtype: Dtype) -> Parts:
    """Load the pipeline in directory ``path`` into main memory: safetensors only, nothing from the network, no code of the model's.

    Raises ``OSError`` where a file is missing; ``card_for`` is what explains an unsupported directory.
    """
    family, index = family_of(path), read_json(path / "model_index.json")

    def load(folder: str, model_class: Any, precision: Dtype = dtype) -> Any:
        options = {"use_safetensors": True, "local_files_only": True, "dtype": getattr(torch, precision)}
        return model_class.from_pretrained(path / folder, **options).eval()

    return Parts(
        family=family,
        unet=load("unet", UNet2DConditionModel),
        vae=load("vae", CLASSES[index["vae"][1]], vae_dtype),
        text_encoders={folder: load(folder, CLASSES[name]) for folder, name in family.text_encoders.items()},
        tokenizers=tuple(CLIPTokenizer.from_pretrained(path / folder, local_files_only=True) for folder in family.tokenizers),
        zeros_for_empty_prompt=family.penultimate_layer and index.get("force_zeros_for_empty_prompt", True),
        sampler_config=sampler_config(path, family.sampler_corrections),
        vocabulary=Vocabulary.of(path),
    )
