"""What may have been meant by a field that there is not: one of that name elsewhere in the request, or one of nearly that name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, get_args

from pydantic import BaseModel

_NEAR = 0.75
"""Similarity, 0..1, of names that differ by a slip of the finger or two."""
_PREFERRED = 0.01
"""What decides between names that are equally near."""
_LONGEST = 40
"""Letters that are looked at: comparing is quadratic, and no field has more."""


def meant(model: type[BaseModel], path: Sequence[str | int], others: Mapping[str | None, type[BaseModel]]) -> str:
    """A hint for the last name of ``path``, which ``model`` does not have there: the nearest field, which of the ``others`` have it, or all that there are."""
    *place, unknown = (str(part) for part in path if not isinstance(part, int))
    having = [] if place else [str(name) for name, other in others.items() if unknown in other.model_fields]
    elsewhere = f"{', '.join(having)} {'has' if len(having) == 1 else 'have'} it" if having else ""
    near = {path: _nearness(unknown, path) for path in _paths(model)}
    # Of names that are as near, one of the same object is meant rather than one elsewhere.
    near |= {path: value + _PREFERRED for path, value in near.items() if path.rpartition(".")[0] == ".".join(place)}
    if ".".join((*place, unknown)) in near:  # it is a field of another kind of this object
        return f" beside the others here; there are: {', '.join(_fields_at(model, place))}"
    best = max(near, key=near.__getitem__)
    if near[best] >= _NEAR:
        return f"; did you mean {best}?{f' ({elsewhere})' if elsewhere else ''}"
    siblings = _fields_at(model, place)
    return f"; {elsewhere}" if elsewhere else f"; there are: {', '.join(siblings)}" if siblings else ""


def _nearness(unknown: str, path: str) -> float:
    """How alike a name and a field are, 0..1: by its own name or with those above it. One that is a whole word of the other is near."""
    unknown, known = unknown[:_LONGEST].lower().replace("-", "_"), path.rpartition(".")[2]
    words = unknown.split("_")
    by_word = (unknown in known.split("_") or known in words) * _NEAR + (known == words[0]) * _PREFERRED
    alike = (SequenceMatcher(None, unknown.replace("_", ""), each.replace("_", "").replace(".", "")).ratio() for each in (known, path))
    return max(*alike, by_word)


def _fields_at(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    """The fields of the object at ``place``; of a union those of all its members."""
    models = [model]
    for name in place:
        models = [inner for each in models if name in each.model_fields for inner in _models(each.model_fields[name].annotation)]
    return list(dict.fromkeys(name for each in models for name in each.model_fields))


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All fields of ``model`` and of the objects in it, as dotted paths."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in _models(field.annotation):
            yield from _paths(inner, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
