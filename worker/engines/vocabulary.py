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
_HYPHENS = "\u2010\u2011-"
_STOP = re.compile(rf"[^\w\s'\u2019{_HYPHENS}]|[_\n\r\u2028\u2029]|(?<![^\W\d_])[{_HYPHENS}]|[{_HYPHENS}](?![^\W\d_])")
"""An end of a phrase: all but letters, digits, spaces, apostrophes and a hyphen between two letters."""


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
    before: str
    """The joint that it follows, or nothing."""
    after: str
    """The joint that follows it, or nothing."""
    part: int
    """Number of the part between two stops that it is in."""


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
    exceptions: frozenset[str] = frozenset()
    """Those joints after which comes what is wanted, even behind a negation: nothing *but* …"""
    lights: frozenset[str] = frozenset()
    """Words for light and mood: a phrase of them, or that ends in one, says nothing of what is there."""
    backdrops: frozenset[str] = frozenset()
    """Idle words for what is behind a product: with a word that is read they say what is there, be that word for light or mood."""
    scenes: frozenset[str] = frozenset()
    """Words for rooms and landscapes: a phrase that is about one names no product."""

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
        letters = [(span.weight, place) for span in spans for place in span.places or range(len(span.text))]
        parts: list[tuple[str, float, Sequence[int]]] = []
        gap, left_out, stops, end = "", False, False, 0
        for word in _WORD.finditer(text):
            gap, stops = gap + text[end : word.start()], stops or _is_stopped(text, end, word.start())
            read, (weight, place) = self._read(word[0]), letters[word.start()]
            if read:
                gap = _mended(first=not parts, stops=stops) if left_out else gap
                parts.append((gap, weight, [place] * len(gap)))
                is_same = read == word[0]
                places = [each for _, each in letters[word.start() : word.end()]] if is_same else [place] * len(read)
                parts.append((read, weight, places))
                gap, stops = "", False
            left_out, end = not read, word.end()
        if not left_out:
            rest = text[end:]
            parts.append((gap + rest, 1.0, [place for _, place in letters[end:]]))
        return tuple(_joined(list(run)) for _, run in groupby(parts, key=lambda part: part[1]))

    def stray(self, prompt: str, *, names_product: bool) -> Stray:
        """The words and phrases of ``prompt`` that are lost on the model; all of it where it has no word that the model reads.

        Where it ``names_product``, what its first part says before the first place (``a mug on …``), or the whole of that part, may be what is
        in the picture already: where it has a word for a thing, or says elsewhere what is behind the product. Rooms and landscapes are none.
        """
        words = [word.casefold() for word in _WORD.findall(prompt)]
        unknown = tuple(dict.fromkeys(filter(self._is_stranger, words)))
        phrases = list(self._phrases(prompt))
        asking = [phrase for phrase in phrases if self._asks(phrase)]
        unheard = [phrase for phrase in asking if not self._is_heard(phrase)]
        if names_product and len(unheard) < len(asking):
            product = self._product(phrases, asking)
            unheard = [phrase for phrase in unheard if phrase not in product]
        if not unheard and not any(self._read(word) and word not in self.joints for word in words):
            return Stray(unknown, (prompt.strip(),))
        return Stray(unknown, tuple(dict.fromkeys(" ".join(phrase.words) for phrase in unheard)))

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
        words: list[str] = []
        before, part, end = "", 0, 0
        for found in _WORD.finditer(prompt):
            word, stopped = found[0].casefold(), _is_stopped(prompt, end, found.start())
            end = found.end()
            if stopped and words:
                yield _Phrase(tuple(words), before, "", part)
                words = []
            before, part = ("", part + 1) if stopped else (before, part)
            if word not in self.joints:
                words.append(word)
                continue
            if words:
                yield _Phrase(tuple(words), before, word, part)
            if words or before not in self.negations or word in self.exceptions:  # "without a plant" has its negation before the article
                before = word
            words = []
        if words:
            yield _Phrase(tuple(words), before, "", part)

    def _asking(self, phrase: _Phrase) -> list[str]:
        """Return its words that ask for something: neither idle nor a number, nor one with an idle unit (85mm)."""
        return [word for word in phrase.words if word not in self.idle and not self.idle.issuperset(_LETTERS.findall(word))]

    def _asks(self, phrase: _Phrase) -> bool:
        return bool(self._asking(phrase)) and phrase.before not in self.negations

    def _is_heard(self, phrase: _Phrase) -> bool:
        asking = self._asking(phrase)
        if any(not self.carriers.isdisjoint(self._read(word).split()) for word in asking):
            return True
        return bool(asking) and all(self._read(word) and word not in self.things for word in asking)

    def _is_ground(self, phrase: _Phrase) -> bool:
        """Tell whether it says what the product is in front of or stands on, which light and mood do not."""
        read = [each for word in self._asking(phrase) for each in self._read(word).split()]
        if not self._asks(phrase) or not self._is_heard(phrase):
            return False
        if not (self.carriers - self.lights).isdisjoint(read) or not self.backdrops.isdisjoint(phrase.words):
            return True
        return phrase.words[-1] not in self.lights and not self.lights.issuperset(read)

    def _product(self, phrases: Sequence[_Phrase], asking: Sequence[_Phrase]) -> list[_Phrase]:
        """Return the phrases that may name a product in the picture."""
        first = [phrase for phrase in phrases if phrase.part == asking[0].part]
        end = next((n for n, (each, place) in enumerate(pairwise(first), 1) if each.after in self.places and self._asks(place)), len(first))
        product = first[:end]
        if end == len(first) and any(map(self._is_ground, first)):
            return []
        names_thing = any(not self.things.isdisjoint(phrase.words) for phrase in product)
        if not names_thing and not any(self._is_ground(phrase) for phrase in asking if phrase not in product):
            return []
        return [phrase for phrase in product if self.scenes.isdisjoint(self._asking(phrase)[-1:])]


def _is_stopped(text: str, end: int, start: int) -> bool:
    """Tell whether a phrase ends between a word that ends at ``end`` and the one that starts at ``start``."""
    return _STOP.search(text, end, start + 1) is not None


def _joined(parts: Sequence[tuple[str, float, Sequence[int]]]) -> Span:
    """Return one span of parts that have one weight."""
    return Span("".join(text for text, _, _ in parts), parts[0][1], tuple(place for _, _, places in parts for place in places))


def _mended(*, first: bool, stops: bool) -> str:
    """Return the separator of two words between which others were left out."""
    return "" if first else ", " if stops else " "
