"""What differs between the kinds of Stable Diffusion: a description that the card and the engine read, without torch.

Whether a checkpoint is an inpainting model is told by its UNet's input channels, not by the family: nine take the mask and the masked
picture beside the latents; four take the latents alone, and what is kept is blended in after every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One kind of Stable Diffusion."""

    description: str
    """Where ``outfill.json`` has none."""
    text_encoders: Mapping[str, str]
    """Folder and class of each, in the order in which their embeddings are joined."""
    tokenizers: tuple[str, ...]
    """Folder of each, in the same order."""
    strength: float
    """Default of a request, where ``outfill.json`` is silent."""
    addition_embed_types: tuple[str | None, ...] = (None, "text")
    """What the UNet may add to the time: ``text`` is the prompt, which it pools itself, ``text_time`` what it is told besides, the pooled text and the
    picture's sizes (``time_ids``)."""
    penultimate_layer: bool = False
    """Whether the text is read from the layer before the last, and pooled by the last encoder."""
    upcasts_vae: bool = False
    """Whether the VAE overflows in half precision where its ``force_upcast`` says so. The older families' files never meant it."""
    sampler_corrections: Mapping[str, Any] = field(default_factory=dict)
    """By which the stock pipeline mends old scheduler files."""


SD = Family(
    description="Stable Diffusion inpainting.",
    text_encoders={"text_encoder": "CLIPTextModel"},
    tokenizers=("tokenizer",),
    strength=1.0,
    sampler_corrections={"steps_offset": 1},
)
SDXL = Family(
    description="Stable Diffusion XL inpainting.",
    text_encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"},
    tokenizers=("tokenizer", "tokenizer_2"),
    strength=0.99,  # the model card of stable-diffusion-xl-1.0-inpainting-0.1: at 1.0 the picture degrades
    addition_embed_types=("text_time",),
    penultimate_layer=True,
    upcasts_vae=True,
)
PIPELINES: Mapping[str, Family] = {
    "StableDiffusionInpaintPipeline": SD,
    "StableDiffusionPipeline": SD,
    "StableDiffusionXLInpaintPipeline": SDXL,
    "StableDiffusionXLPipeline": SDXL,
}
"""By the ``_class_name`` of ``model_index.json``."""
