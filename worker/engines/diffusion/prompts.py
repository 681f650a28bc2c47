"""Prompt embeddings, kept for the texts used last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from worker.engines.diffusion.chunks import Chunk, Text
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

    def __init__(self, parts: Parts, *, capacity: int = 256) -> None:
        """Keep texts of up to ``capacity`` chunks in all; one takes 236 kB of Stable Diffusion 1.5 in fp32, 631 kB of SDXL."""
        self._parts = parts
        self._capacity = capacity
        self._held = 0
        """Chunks that are kept."""
        self._kept: OrderedDict[tuple[str, LoraUses], PromptEmbeds] = OrderedDict()

    def encode(self, texts: Iterable[Text], loras: LoraUses = ()) -> dict[str, PromptEmbeds]:
        """The embeddings of ``texts`` by their prompts; those that are not remembered are encoded together.

        ``loras`` are those that are active, by which the text encoders differ.
        """
        found, new = {}, dict[str, Text]()
        for text in texts:
            kept = self._kept.get((text.prompt, loras))
            if kept is None:
                new[text.prompt] = text
            else:
                self._kept.move_to_end((text.prompt, loras))
                found[text.prompt] = kept
        encoded = dict(zip(new, self._encode(list(new.values())), strict=True))
        self._kept |= {(prompt, loras): embeds for prompt, embeds in encoded.items()}
        self._held += sum(map(self._chunks, encoded.values()))
        while self._held > self._capacity and len(self._kept) > 1:
            self._held -= self._chunks(self._kept.popitem(last=False)[1])
        return found | encoded

    def negative(self, prompt: str, embeds: PromptEmbeds) -> PromptEmbeds:
        """``embeds`` of a negative ``prompt``. An empty one is what the stock pipeline takes where none is given."""
        if prompt or not self._parts.zeros_for_empty_prompt or embeds.pooled is None:
            return embeds
        return PromptEmbeds(torch.zeros_like(embeds.embeds), torch.zeros_like(embeds.pooled))

    def _chunks(self, embeds: PromptEmbeds) -> int:
        return embeds.tokens // int(self._parts.tokenizers[0].model_max_length)

    def _encode(self, texts: Sequence[Text]) -> list[PromptEmbeds]:
        joined: list[list[torch.Tensor]] = [[] for _ in texts]
        pooled: list[torch.Tensor | None] = [None for _ in texts]
        encoders = self._parts.text_encoders.values()
        with torch.inference_mode():
            for number, (tokenizer, encoder) in enumerate(zip(self._parts.tokenizers, encoders, strict=True)):
                of_texts = [text.chunks[number] for text in texts]
                run = _Run(tokenizer, encoder, penultimate=self._parts.family.penultimate_layer)
                run.read(view for chunks in of_texts for chunk in chunks for view in _views(chunk))
                for at, chunks in enumerate(of_texts):
                    embeds = [run.weighed(chunk) for chunk in chunks]
                    joined[at].append(torch.cat([each for each, _ in embeds], dim=1))
                    pooled[at] = embeds[0][1]
        return [PromptEmbeds(torch.cat(parts, dim=-1), pooled[at]) for at, parts in enumerate(joined)]


_View = tuple[tuple[int, ...], tuple[int, ...]]
"""The ids of a chunk's tokens, and the places of those that no token attends to."""
_ROWS = 16
"""Of an encoder's call, at most."""


def _views(chunk: Chunk) -> list[_View]:
    """All that an encoder is asked about ``chunk``."""
    weights = {token.weight for token in chunk} - {1.0}
    return [_view(chunk), *(_view(chunk, weight) for weight in weights if weight < 1), *([_view(())] if weights else [])]


def _view(chunk: Chunk, unseen: float | None = None) -> _View:
    return tuple(token.id for token in chunk), _places(chunk, unseen)


def _places(chunk: Chunk, weight: float | None) -> tuple[int, ...]:
    """Where the tokens of ``weight`` are, behind the start."""
    return tuple(index for index, token in enumerate(chunk, start=1) if token.weight == weight)


class _Run:
    """Calls of one text encoder for some texts."""

    def __init__(self, tokenizer: Any, encoder: Any, *, penultimate: bool) -> None:
        """``penultimate``: the last layer but one is taken, and what the encoder pools."""
        self._tokenizer, self._encoder, self._penultimate = tokenizer, encoder, penultimate
        self._states: dict[_View, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def read(self, views: Iterable[_View]) -> None:
        """Run the encoder on ``views``, as many together as may be."""
        masks_padding = getattr(self._encoder.config, "use_attention_mask", False) and not self._penultimate
        views = list(dict.fromkeys(views))
        for masked in (False, True):
            alike = [view for view in views if bool(masks_padding or view[1]) is masked]
            for start in range(0, len(alike), _ROWS):
                batch = alike[start : start + _ROWS]
                self._states |= zip(batch, self._called(batch, masks_padding=masks_padding, masked=masked), strict=True)

    def weighed(self, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``(1, tokens, channels)`` of a chunk, and ``(1, channels)`` of what is pooled.

        As compel weighs (github.com/damian0815/compel): less than 1 blends towards the text as it is where nothing sees those words, so
        that what the end of the text has gathered of them goes too; more than 1 moves their own states away from those of no text.
        """
        embeds, pooled = self._states[_view(chunk)]
        weights = {token.weight for token in chunk} - {1.0}
        if not weights:
            return embeds, pooled
        empty, plain = self._states[_view(())][0], embeds
        for weight in sorted(weights):
            places = list(_places(chunk, weight))
            if weight < 1:
                without = self._states[_view(chunk, weight)][0].clone()
                without[:, places] = empty[:, places]
                embeds = embeds - (1 - weight) * (plain - without)
            else:
                embeds = embeds.clone()
                embeds[:, places] += (weight - 1) * (plain - empty)[:, places]
        return embeds, pooled

    def _called(self, views: Sequence[_View], *, masks_padding: bool, masked: bool) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        tokenizer, device, length = self._tokenizer, self._encoder.device, int(self._tokenizer.model_max_length)
        ids = torch.full((len(views), length), tokenizer.pad_token_id)
        mask = torch.full((len(views), length), int(not masks_padding))
        for row, (tokens, unseen) in enumerate(views):
            read = torch.tensor([tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id])
            ids[row, : len(read)], mask[row, : len(read)] = read, 1
            mask[row, list(unseen)] = 0
        output = self._encoder(ids.to(device), attention_mask=mask.to(device) if masked else None, output_hidden_states=self._penultimate)
        states = (output.hidden_states[-2] if self._penultimate else output[0]).to(self._encoder.dtype)
        pooled = output[0] if self._penultimate else None
        return [(states[row : row + 1], None if pooled is None else pooled[row : row + 1].clone()) for row in range(len(views))]
