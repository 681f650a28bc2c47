"""The words that a model knows, where it was trained on few: ``vocabulary.json`` in its directory.

A model like CLIP's has met every word; for one with a vocabulary of its own a stranger is noise. Such words are left out of what it is
given, and where a phrase of a prompt asks for something of which none is left, that can be told before anything is painted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from api_schemas.prompts import Span

FILE = "vocabulary.json"
_WORD = re.compile(r"[^\W_]+")
_LETTERS = re.compile(r"[^\W\d_]+")
_STOP = re.compile(r"[,.;:!?|/()\[\]\n]")
"""Punctuation that ends a phrase."""


class VocabularyError(ValueError):
    """The file does not say which words a model knows."""


@dataclass(frozen=True)
class Stray:
    """Words of a prompt that a model cannot paint."""

    unknown: tuple[str, ...] = ()
    """Words that mean nothing to the model, each once."""
    unheard: tuple[str, ...] = ()
    """Phrases that ask for something, and of which the model knows nothing."""


@dataclass
class _Phrase:
    """Words between two stops or joints."""

    words: tuple[str, ...]
    start: int
    """Of its first letter in the prompt."""
    before: str
    """The joint that it follows, or nothing."""
    after: str
    """The joint that follows it, or nothing."""


class Vocabulary(BaseModel):
    """The words that a model was taught, in lower case. A word may be in several lists but ``words``, which holds all that it was taught."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: frozenset[str]
    """Of its captions; all others are left out."""
    read_as: dict[str, str] = {}
    """Words that it was not taught, and what it is given in their place."""
    carriers: frozenset[str] = frozenset()
    """Words that a phrase may be about: it is heard by one of them, whatever else in it is not."""
    things: frozenset[str] = frozenset()
    """Words for products: it was taught to read past them."""
    idle: frozenset[str] = frozenset()
    """Words that ask for nothing that a picture could lack: photographers' talk, praise."""
    joints: frozenset[str] = frozenset()
    """Words that part phrases and ask for nothing: articles, prepositions."""
    places: frozenset[str] = frozenset()
    """Those joints that stand between a product and where it is."""
    negations: frozenset[str] = frozenset()
    """Those joints after which comes what is not wanted."""

    @classmethod
    def of(cls, directory: Path) -> Vocabulary | None:
        """The vocabulary of the model in ``directory``; ``None`` without one. Raises ``VocabularyError`` for a file that is none."""
        file = directory / FILE
        if not file.exists():
            return None
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise VocabularyError(f"{file}: {error}") from error

    def known(self, spans: Sequence[Span]) -> tuple[Span, ...]:
        """``spans`` of a prompt without the words that mean nothing, and with those in the place of which others are read."""
        text = "".join(span.text for span in spans)
        weights = [span.weight for span in spans for _ in span.text]
        parts: list[tuple[str, float]] = []
        gap, whole, end = "", True, 0
        for word in _WORD.finditer(text):
            gap, end = gap + text[end : word.start()], word.end()
            read = self._read(word[0])
            if read:
                parts.append((gap if whole else _mended(gap, first=not parts), weights[word.start()]))
                parts.append((read, weights[word.start()]))
            gap, whole = ("", True) if read else (gap, False)
        if whole:
            parts.append((gap + text[end:], 1.0))
        return tuple(Span("".join(each for each, _ in run), weight) for weight, run in groupby(parts, key=lambda part: part[1]))

    def stray(self, prompt: str, *, names_product: bool) -> Stray:
        """The words and phrases of ``prompt`` that are lost on the model.

        Where it ``names_product``, what stands before the first place (``a mug on …``), or is the whole of its first part, may be what
        is in the picture already; unless there is nothing else.
        """
        unknown = dict.fromkeys(word.casefold() for word in _WORD.findall(prompt) if self._is_stranger(word.casefold()))
        phrases = list(self._phrases(prompt))
        asking = [phrase for phrase in phrases if self._asks(phrase)]
        unheard = [phrase for phrase in asking if not self._is_heard(phrase)]
        if names_product and len(unheard) < len(asking):
            product = self._product_end(prompt, phrases)
            unheard = [phrase for phrase in unheard if phrase.start >= product]
        return Stray(tuple(unknown), tuple(dict.fromkeys(" ".join(phrase.words) for phrase in unheard)))

    def _read(self, word: str) -> str:
        """Return what the model is given for a word: itself, another one, or nothing."""
        letters = [each.casefold() for each in _LETTERS.findall(word)]
        if letters and all(each in self.words for each in letters):
            return word
        return self.read_as.get(word.casefold(), "")

    def _is_stranger(self, word: str) -> bool:
        """Tell whether a word has letters and is not read."""
        return _LETTERS.search(word) is not None and not self._read(word) and word not in self.joints

    def _phrases(self, prompt: str) -> Iterator[_Phrase]:
        words: list[re.Match[str]] = []
        before, end = "", 0
        for word in _WORD.finditer(prompt):
            stopped = _STOP.search(prompt, end, word.start()) is not None
            end = word.end()
            if stopped and words:
                yield _phrase(words, before, "")
                words = []
            before = "" if stopped else before
            if word[0].casefold() in self.joints:
                if words:
                    yield _phrase(words, before, word[0].casefold())
                if words or before not in self.negations:  # "without a plant" has its negation before the article
                    before = word[0].casefold()
                words = []
            else:
                words.append(word)
        if words:
            yield _phrase(words, before, "")

    def _asks(self, phrase: _Phrase) -> bool:
        asks = any(word not in self.idle and _LETTERS.search(word) for word in phrase.words)
        return asks and phrase.before not in self.negations

    def _is_heard(self, phrase: _Phrase) -> bool:
        asking = [word for word in phrase.words if word not in self.idle and _LETTERS.search(word)]
        if any(not self.carriers.isdisjoint(self._read(word).split()) for word in asking):
            return True
        return bool(asking) and all(self._read(word) and word not in self.things for word in asking)

    def _product_end(self, prompt: str, phrases: Sequence[_Phrase]) -> int:
        """Return the letter before which a product may be named."""
        stop = _STOP.search(prompt)
        first = [phrase for phrase in phrases if stop is None or phrase.start < stop.start()]
        for phrase, place in pairwise(first):
            if phrase.after in self.places and self._asks(place):
                return place.start
        return 0 if any(map(self._is_heard, first)) else len(prompt) if stop is None else stop.start()


def _phrase(words: Sequence[re.Match[str]], before: str, after: str) -> _Phrase:
    return _Phrase(tuple(word[0].casefold() for word in words), words[0].start(), before, after)


def _mended(gap: str, *, first: bool) -> str:
    """Return the separator of two words between which others were left out."""
    return "" if first else ", " if _STOP.search(gap) else " "
