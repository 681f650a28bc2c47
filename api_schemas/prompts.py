"""Weights in prompts: ``(teal wall:1.4)`` asks for it more, ``(teal wall:0.5)`` less."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from api_schemas.errors import Invalid

MAX_WEIGHT = 2.0
"""At 2 Studio's colours and grain begin to drift from what was asked; the other programs advise against more."""
MAX_WEIGHTED = 16
"""Parts of one prompt with a weight of their own: below 1 each costs a run of the text encoder."""
_MOST_WRITTEN = 4 * MAX_WEIGHTED
"""Weights of 1 and nested ones among them: each goes through all that is in its parentheses."""
_ESCAPED = "()\\"
_SHOWN = 40
_LONGEST = 64
"""Letters of a weight, with what space is around it."""
_VALID = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_NUMBER = re.compile(r"(\s*)[-+]?([0-9]{0,2})(?:[.,][.,0-9]*)?\s*")
"""A number as people write weights, right or wrong; one of three digits before the dot is a year, a room or a port."""
_UNCLOSED = re.compile(r":\s*[-+]?[.\d]+\s*(?=,|$)")


@dataclass(frozen=True)
class Span:
    """A part of a prompt, and how much it counts: 1 is as it is."""

    text: str
    weight: float = 1.0
    places: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """Where each letter of ``text`` comes from in the prompt."""


def weighed(prompt: str) -> tuple[Span, ...]:
    r"""``prompt`` in parts of one weight each, without the signs that weigh them; nested weights multiply.

    Parentheses that end in no ``:number`` are text, and so are those in which nothing with a letter stands before the colon, or a digit right
    before it (a ratio, a time), those with a whole number behind a colon and a space (``(seats: 4)``), addresses, ``\(`` and ``\)`` (and
    ``\\`` is one backslash). Raises ``Invalid`` for a weight that is no number from 0 to ``MAX_WEIGHT`` or that is not closed, and for more
    than ``MAX_WEIGHTED``.
    """
    letters: list[str] = []
    weights: list[float] = []
    places: list[int] = []
    opened: list[int] = []
    written = 0
    for letter, is_sign, place in _letters(prompt):
        if is_sign and letter == ")" and opened:
            start = opened.pop()
            # A glance first, as the whole is joined for each parenthesis.
            near = ":" in letters[max(start + 1, len(letters) - _LONGEST) :]
            text, _, number = "".join(letters[start + 1 :] if near else "").rpartition(":")
            if near and _is_weight(text, number):
                written += 1
                if written > _MOST_WRITTEN:
                    raise Invalid(f"more than {_MOST_WRITTEN} weights are written")
                _weigh(letters, weights, start, text, number.strip())
                places[start:] = places[start + 1 : start + 1 + len(text)]
                continue
        elif is_sign and letter == "(":
            opened.append(len(letters))
        letters.append(letter)
        weights.append(1.0)
        places.append(place)
    if opened:
        _check_closed("".join(letters[opened[0] :]))
    return _spans(letters, weights, places)


def weighed_or_text(prompt: str) -> tuple[Span, ...]:
    """``prompt`` as ``weighed`` has it; one that it refuses is text, as it was to a release that accepted it."""
    try:
        return weighed(prompt)
    except Invalid:
        return (Span(prompt, 1.0, tuple(range(len(prompt)))),)


def shortened(text: str) -> str:
    """As much of ``text`` as a message can show."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _letters(prompt: str) -> Iterator[tuple[str, bool, int]]:
    """Letters, whether each may be a sign rather than text, and where each stands."""
    letters = enumerate(prompt)
    for place, letter in letters:
        if letter != "\\":
            yield letter, True, place
            continue
        after, escaped = next(letters, (place, ""))
        if not escaped or escaped not in _ESCAPED:
            yield letter, False, place
        if escaped:
            yield escaped, False, after


def _is_weight(text: str, number: str) -> bool:
    """Tell whether ``number`` behind a colon is meant as the weight of ``text``, be it right or wrong."""
    before, written = text.rstrip(), _NUMBER.fullmatch(number)
    if written is None or not re.search("[0-9]", number) or "://" in text:
        return False
    is_counted = bool(written[1]) and number.strip().isdigit()
    return not is_counted and re.search(r"[^\W\d_]", before) is not None and not before[-1].isdigit()


def _weigh(letters: list[str], weights: list[float], start: int, text: str, number: str) -> None:
    """Weigh ``text``, which stands behind the parenthesis at ``start``, and take the signs away."""
    written = f"({text}:{number})"
    if not _VALID.fullmatch(number) or float(number) > MAX_WEIGHT:
        raise _fault(written, f"a weight is a number from 0 to {MAX_WEIGHT:g}, not {number!r}")
    inside = slice(start + 1, start + 1 + len(text))
    letters[start:] = letters[inside]
    weights[start:] = [weight * float(number) for weight in weights[inside]]
    if max(weights[start:]) > MAX_WEIGHT:
        raise _fault(written, f"nested weights multiply, to {MAX_WEIGHT:g} at most")


def _check_closed(rest: str) -> None:
    """Raise ``Invalid`` where the ``rest`` of a prompt, from a parenthesis that is not closed, has a weight."""
    for weight in _UNCLOSED.finditer(rest):
        if _is_weight(rest[1 : weight.start()], weight[0][1:]):
            raise _fault(rest, "the parenthesis is not closed")


def _spans(letters: Sequence[str], weights: Sequence[float], places: Sequence[int]) -> tuple[Span, ...]:
    parts = [list(part) for _, part in groupby(zip(letters, weights, places, strict=True), key=lambda each: each[1])]
    spans = tuple(Span("".join(each[0] for each in part), part[0][1], tuple(each[2] for each in part)) for part in parts)
    weighted = sum(span.weight != 1.0 for span in spans)
    if weighted > MAX_WEIGHTED:
        raise Invalid(f"{weighted} parts have a weight of their own; {MAX_WEIGHTED} may")
    return spans


def _fault(text: str, message: str) -> Invalid:
    return Invalid(rf"{shortened(text)!r}: {message}; write \( and \) for parentheses that are text")
