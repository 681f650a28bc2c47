"""Weights in prompts: ``(teal wall:1.4)`` asks for it more, ``(teal wall:0.5)`` less."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from api_schemas.errors import Invalid

MAX_WEIGHT = 2.0
"""At 2 Studio's colours and grain begin to drift from what was asked; the other programs advise against more."""
MAX_WEIGHTED = 16
"""Parts of one prompt with a weight of their own: below 1 each costs a run of the text encoder."""
_ESCAPED = "()\\"
_SHOWN = 40
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_UNCLOSED = re.compile(r":\s*[-+]?[.\d]+\s*(?:,|$)")


@dataclass(frozen=True)
class Span:
    """A part of a prompt, and how much it counts: 1 is as it is."""

    text: str
    weight: float = 1.0


def weighed(prompt: str) -> tuple[Span, ...]:
    r"""``prompt`` in parts of one weight each, without the signs that weigh them; nested weights multiply.

    Parentheses that end in no ``:number`` are text, as are ``\(`` and ``\)`` (and ``\\`` is one backslash). Raises ``Invalid`` for a
    weight that is no number from 0 to ``MAX_WEIGHT``, that weighs nothing, or that is not closed, and for more than ``MAX_WEIGHTED``.
    """
    letters: list[str] = []
    weights: list[float] = []
    opened: list[int] = []
    for letter, is_sign in _letters(prompt):
        if is_sign and letter == ")" and opened:
            start = opened.pop()
            text, colon, number = "".join(letters[start + 1 :]).rpartition(":")
            if colon and _looks_a_number(number.strip()):
                _weigh(letters, weights, start, text, number.strip())
                continue
        elif is_sign and letter == "(":
            opened.append(len(letters))
        letters.append(letter)
        weights.append(1.0)
    if opened and _UNCLOSED.search("".join(letters[opened[0] :])):
        raise _fault("".join(letters[opened[0] :]), "the parenthesis is not closed")
    return _spans(letters, weights)


def _letters(prompt: str) -> Iterator[tuple[str, bool]]:
    """Letters, and whether each may be a sign rather than text."""
    letters = iter(prompt)
    for letter in letters:
        if letter != "\\":
            yield letter, True
            continue
        escaped = next(letters, "")
        yield from ((each, False) for each in (escaped if escaped and escaped in _ESCAPED else letter + escaped))


def _looks_a_number(text: str) -> bool:
    """Tell whether it is nothing, or one word that begins as a number does."""
    return not text or (text[0] in "+-.,0123456789" and not re.search(r"\s", text))


def _weigh(letters: list[str], weights: list[float], start: int, text: str, number: str) -> None:
    """Weigh ``text``, which stands behind the parenthesis at ``start``, and take the signs away."""
    written = f"({text}:{number})"
    if not _NUMBER.fullmatch(number) or float(number) > MAX_WEIGHT:
        raise _fault(written, f"a weight is a number from 0 to {MAX_WEIGHT:g}, not {number!r}")
    if not text.strip():
        raise _fault(written, "there is nothing that the weight could count for")
    inside = slice(start + 1, start + 1 + len(text))
    letters[start:] = letters[inside]
    weights[start:] = [weight * float(number) for weight in weights[inside]]
    if max(weights[start:]) > MAX_WEIGHT:
        raise _fault(written, f"nested weights multiply, to {MAX_WEIGHT:g} at most")


def _spans(letters: Sequence[str], weights: Sequence[float]) -> tuple[Span, ...]:
    parts = groupby(zip(letters, weights, strict=True), key=lambda each: each[1])
    spans = tuple(Span("".join(letter for letter, _ in part), weight) for weight, part in parts)
    weighted = sum(span.weight != 1.0 for span in spans)
    if weighted > MAX_WEIGHTED:
        raise Invalid(f"{weighted} parts have a weight of their own; {MAX_WEIGHTED} may")
    return spans


def _fault(text: str, message: str) -> Invalid:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return Invalid(rf"{shown!r}: {message}; write \( and \) for parentheses that are text")
