"""Prompts in pieces that a text encoder can read: as many tokens as it was trained on, each piece between a start and an end of its own.

CLIP reads 77 tokens. What is longer is read on in chunks, and the UNet attends to all of them, as in the programs that people write their
prompts for (A1111's ``sd_hijack_clip``, ComfyUI's ``SDTokenizer``, InvokeAI's compel).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api_schemas.prompts import Span, weighed_or_text
from worker.engines.base import Reading
from worker.engines.vocabulary import Vocabulary

CHUNKS = 4
"""As many at most: 300 tokens of CLIP. A cross-attention costs its chunks times as much, and the report tells what is left unread."""
_LOOK_BACK = 4
"""A chunk ends at the last comma, if that is in its last quarter (A1111 looks back over 20 of 75 tokens)."""
_ENDS_WORD = "</w>"
_COMMAS = {f"{mark}{_ENDS_WORD}" for mark in ",.;"}


@dataclass(frozen=True)
class Token:
    """A token of a text, and how much it counts."""

    id: int
    weight: float
    ends_word: bool
    ends_phrase: bool
    place: int
    """Where the prompt has its first letter."""


Chunk = tuple[Token, ...]
"""Without its start, end and padding."""


@dataclass(frozen=True)
class Text:
    """A prompt, cut into what the encoders of a model read."""

    prompt: str
    chunks: tuple[tuple[Chunk, ...], ...]
    """For each encoder as many."""


class PromptReader:
    """Tokenises prompts for a model. Safe in several threads."""

    def __init__(self, tokenizers: Sequence[Any], vocabulary: Vocabulary | None) -> None:
        """Read for ``tokenizers``, one for each text encoder; words outside of ``vocabulary``, if there is one, are left out."""
        self._tokenizers, self._vocabulary = tokenizers, vocabulary
        self._lock = threading.Lock()
        """A tokenizer is changed by the padding that others ask of it."""

    def text(self, prompt: str) -> Text:
        """Cut ``prompt`` for each tokenizer: 1, 2 or 4 chunks for all, the empty chunk behind those that it fills.

        Contexts of such lengths can be repeated to each other's. Malformed weights are text.
        """
        spans = self._spans(prompt)
        cut = [_cut(self._tokens(tokenizer, spans), _room(tokenizer))[:CHUNKS] for tokenizer in self._tokenizers]
        count = 1 << (max(map(len, cut)) - 1).bit_length()
        return Text(prompt, tuple((*chunks, *((),) * (count - len(chunks))) for chunks in cut))

    def read(self, prompt: str, *, names_product: bool) -> Reading:
        """Tell what the model does not read of ``prompt``; see ``Vocabulary.stray`` and ``Engine.read``."""
        tokens = self._tokens(self._tokenizers[0], self._spans(prompt))
        unread = [token.place for chunk in _cut(tokens, _room(self._tokenizers[0]))[CHUNKS:] for token in chunk]
        rest = prompt[unread[0] :].strip() if unread else None
        if self._vocabulary is None:
            return Reading(unread=rest)
        wanted = "".join(span.text for span in weighed_or_text(prompt) if span.weight)
        stray = self._vocabulary.stray(wanted, names_product=names_product)
        return Reading(stray.unknown, stray.unheard if wanted.strip() else (prompt,), rest)

    def _spans(self, prompt: str) -> tuple[Span, ...]:
        spans = weighed_or_text(prompt)
        return spans if self._vocabulary is None else self._vocabulary.known(spans)

    def _tokens(self, tokenizer: Any, spans: Sequence[Span]) -> list[Token]:
        tokens: list[Token] = []
        for span in spans:
            with self._lock:
                read = tokenizer(span.text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
                pieces = tokenizer.convert_ids_to_tokens(read.input_ids)
            tokens += [
                Token(token, span.weight, piece.endswith(_ENDS_WORD), piece in _COMMAS, span.places[start])
                for token, piece, (start, _) in zip(read.input_ids, pieces, read.offset_mapping, strict=True)
            ]
        return tokens


def _room(tokenizer: Any) -> int:
    """Tokens between start and end."""
    return int(tokenizer.model_max_length) - 2


def _cut(tokens: Sequence[Token], room: int) -> list[Chunk]:
    """Cut ``tokens`` into chunks of at most ``room``, each but the last up to a comma, else a word's end; one empty chunk for none."""
    chunks: list[Chunk] = []
    start = 0
    while len(tokens) - start > room:
        end = _end(tokens[start : start + room])
        chunks.append(tuple(tokens[start : start + end]))
        start += end
    chunks.append(tuple(tokens[start:]))
    return chunks


def _end(tokens: Sequence[Token]) -> int:
    """Return the length of a full chunk, in tokens."""
    late = len(tokens) - len(tokens) // _LOOK_BACK
    commas = [index + 1 for index, token in enumerate(tokens) if token.ends_phrase and index + 1 > late]
    words = [index + 1 for index, token in enumerate(tokens) if token.ends_word and index + 1 > late]
    return (commas or words or [len(tokens)])[-1]
