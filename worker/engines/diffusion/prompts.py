"""Prompt embeddings, kept for the texts used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from worker.engines.diffusion.chunks import Chunk, PromptReader
from worker.engines.diffusion.lora import LoraUses
from worker.engines.diffusion.parts import Parts


@dataclass(frozen=True, eq=False)
class PromptEmbeds:
    """What the UNet is told of a text. Shared between slots: not to be written to."""

    embeds: torch.Tensor
    """``(1, tokens, channels)``; the encoders' channels joined, the chunks one after another."""
    pooled: torch.Tensor | None
    """``(1, channels)`` of the last encoder and the first chunk, for a UNet that takes it."""

    @property
    def tokens(self) -> int:
        """The length of the context."""
        return int(self.embeds.shape[1])

    def repeated(self, tokens: int) -> torch.Tensor:
        """``embeds`` again and again up to ``tokens``, a multiple of its own.

        Attention over keys of which each is there equally often is attention over each once, so that rows of any length share a call and
        none is changed by it (ComfyUI's ``CONDCrossAttn`` does the same).
        """
        return self.embeds if tokens == self.tokens else self.embeds.repeat(1, tokens // self.tokens, 1)


class PromptEncoder:
    """CLIP's hidden states for a text: for one of up to 77 tokens those of the stock pipeline's ``encode_prompt``."""

    def __init__(self, parts: Parts, reader: PromptReader, *, capacity: int = 256) -> None:
        """Keep texts of up to ``capacity`` chunks in all; one takes 236 kB of Stable Diffusion 1.5 in fp32, 631 kB of SDXL."""
        self._parts, self._reader = parts, reader
        self._capacity = capacity
        self._held = 0
        """Chunks that are kept."""
        self._kept: OrderedDict[tuple[str, LoraUses], PromptEmbeds] = OrderedDict()

    def encode(self, text: str, loras: LoraUses = ()) -> PromptEmbeds:
        """The embeddings of ``text``. ``loras`` are those that are active, by which the text encoders differ."""
        key = (text, loras)
        embeds = self._kept.get(key)
        if embeds is None:
            embeds = self._kept[key] = self._encode(text)
            self._held += self._chunks(embeds)
            while self._held > self._capacity and len(self._kept) > 1:
                self._held -= self._chunks(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(key)
        return embeds

    def encode_negative(self, text: str, loras: LoraUses = ()) -> PromptEmbeds:
        """The embeddings of a negative prompt. An empty one is what the stock pipeline takes where none is given."""
        embeds = self.encode(text, loras)
        if text or not self._parts.zeros_for_empty_prompt or embeds.pooled is None:
            return embeds
        return PromptEmbeds(torch.zeros_like(embeds.embeds), torch.zeros_like(embeds.pooled))

    def _chunks(self, embeds: PromptEmbeds) -> int:
        return embeds.tokens // int(self._parts.tokenizers[0].model_max_length)

    def _encode(self, text: str) -> PromptEmbeds:
        joined, pooled = [], None
        encoders = self._parts.text_encoders.values()
        with torch.inference_mode():
            for tokenizer, encoder, chunks in zip(self._parts.tokenizers, encoders, self._reader.chunks(text), strict=True):
                run = _Run(tokenizer, encoder, penultimate=self._parts.family.penultimate_layer)
                embeds = [run.weighed(chunk) for chunk in chunks]
                joined.append(torch.cat([each for each, _ in embeds], dim=1))
                pooled = embeds[0][1]
        return PromptEmbeds(torch.cat(joined, dim=-1), pooled)


@dataclass
class _Run:
    """Calls of one text encoder for one text."""

    tokenizer: Any
    encoder: Any
    penultimate: bool
    """Whether its last layer but one is taken, and what it pools."""

    def weighed(self, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``(1, tokens, channels)`` of a chunk, and ``(1, channels)`` of what is pooled.

        As compel weighs (github.com/damian0815/compel): less than 1 blends towards the text as it is where nothing sees those words, so
        that what the end of the text has gathered of them goes too; more than 1 moves their own states away from those of no text.
        """
        embeds, pooled = self._states(chunk)
        weights = {token.weight for token in chunk} - {1.0}
        if not weights:
            return embeds, pooled
        empty, plain = self._states(())[0], embeds
        for weight in sorted(weights):
            places = [index for index, token in enumerate(chunk, start=1) if token.weight == weight]  # behind the start
            if weight < 1:
                without = self._states(chunk, unseen=places)[0]
                without[:, places] = empty[:, places]
                embeds = embeds - (1 - weight) * (plain - without)
            else:
                embeds = embeds.clone()
                embeds[:, places] += (weight - 1) * (plain - empty)[:, places]
        return embeds, pooled

    def _states(self, chunk: Chunk, *, unseen: Iterable[int] = ()) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the encoder. No token attends to those at ``unseen``."""
        tokenizer, device, unseen = self.tokenizer, self.encoder.device, list(unseen)
        ids = [tokenizer.bos_token_id, *(token.id for token in chunk), tokenizer.eos_token_id]
        padding = int(tokenizer.model_max_length) - len(ids)
        masks_padding = getattr(self.encoder.config, "use_attention_mask", False) and not self.penultimate
        mask = torch.tensor([[1] * len(ids) + [int(not masks_padding)] * padding])
        mask[:, unseen] = 0
        output = self.encoder(
            torch.tensor([ids + [tokenizer.pad_token_id] * padding], device=device),
            attention_mask=mask.to(device) if masks_padding or unseen else None,
            output_hidden_states=self.penultimate,
        )
        states = output.hidden_states[-2] if self.penultimate else output[0]
        return states.to(self.encoder.dtype), output[0] if self.penultimate else None
