"""Prompt embeddings, kept for the texts used last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch


class PromptEncoder:
    """CLIP's last hidden state for a text, as ``StableDiffusionInpaintPipeline.encode_prompt``: what exceeds 77 tokens is cut off."""

    def __init__(self, tokenizer: Any, text_encoder: Any, *, capacity: int = 256) -> None:
        """Keep up to ``capacity`` embeddings; one of Stable Diffusion 1.5 takes 236 kB in fp32."""
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._capacity = capacity
        self._embeds: OrderedDict[str, torch.Tensor] = OrderedDict()

    def encode(self, text: str) -> torch.Tensor:
        """The embeddings of ``text``, ``(1, tokens, channels)``. Shared between slots: not to be written to."""
        embeds = self._embeds.get(text)
        if embeds is None:
            embeds = self._embeds[text] = self._encode(text)
            if len(self._embeds) > self._capacity:
                self._embeds.popitem(last=False)
        self._embeds.move_to_end(text)
        return embeds

    def _encode(self, text: str) -> torch.Tensor:
        length = self._tokenizer.model_max_length
        tokens = self._tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        device = self._text_encoder.device
        uses_mask = getattr(self._text_encoder.config, "use_attention_mask", False)
        attention_mask = tokens.attention_mask.to(device) if uses_mask else None
        with torch.inference_mode():
            embeds: torch.Tensor = self._text_encoder(tokens.input_ids.to(device), attention_mask=attention_mask)[0]
        return embeds.to(self._text_encoder.dtype)
