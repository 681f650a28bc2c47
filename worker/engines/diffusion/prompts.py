"""Prompt embeddings, kept for the texts used last."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

from worker.engines.diffusion.lora import LoraUses
from worker.engines.diffusion.parts import Parts


@dataclass(frozen=True, eq=False)
class PromptEmbeds:
    """What the UNet is told of a text. Shared between slots: not to be written to."""

    embeds: torch.Tensor
    """``(1, tokens, channels)``; the encoders' channels joined."""
    pooled: torch.Tensor | None
    """``(1, channels)`` of the last encoder, for a UNet that takes it."""


class PromptEncoder:
    """CLIP's hidden states for a text, as the stock pipeline's ``encode_prompt``: what exceeds 77 tokens is cut off."""

    def __init__(self, parts: Parts, *, capacity: int = 256) -> None:
        """Keep up to ``capacity`` texts; one of Stable Diffusion 1.5 takes 236 kB in fp32, one of SDXL 631 kB."""
        self._parts = parts
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, LoraUses], PromptEmbeds] = OrderedDict()

    def encode(self, text: str, loras: LoraUses = ()) -> PromptEmbeds:
        """The embeddings of ``text``. ``loras`` are those that are active, by which the text encoders differ."""
        key = (text, loras)
        embeds = self._kept.get(key)
        if embeds is None:
            embeds = self._kept[key] = self._encode(text)
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return embeds

    def encode_negative(self, text: str, loras: LoraUses = ()) -> PromptEmbeds:
        """The embeddings of a negative prompt. An empty one is what the stock pipeline takes where none is given."""
        embeds = self.encode(text, loras)
        if text or not self._parts.zeros_for_empty_prompt or embeds.pooled is None:
            return embeds
        return PromptEmbeds(torch.zeros_like(embeds.embeds), torch.zeros_like(embeds.pooled))

    def _encode(self, text: str) -> PromptEmbeds:
        penultimate = self._parts.family.penultimate_layer
        embeds, pooled = [], None
        with torch.inference_mode():
            for tokenizer, encoder in zip(self._parts.tokenizers, self._parts.text_encoders.values(), strict=True):
                tokens = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt")
                uses_mask = getattr(encoder.config, "use_attention_mask", False) and not penultimate
                output = encoder(
                    tokens.input_ids.to(encoder.device),
                    attention_mask=tokens.attention_mask.to(encoder.device) if uses_mask else None,
                    output_hidden_states=penultimate,
                )
                embeds.append((output.hidden_states[-2] if penultimate else output[0]).to(encoder.dtype))
                pooled = output[0] if penultimate else None
        return PromptEmbeds(torch.cat(embeds, dim=-1), pooled)
