"""Weights in prompts: which are read, which are text, which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from api_schemas.errors import Invalid
from api_schemas.models import EMBEDDED_MODELS, ModelInfo
from api_schemas.prompts import MAX_WEIGHT, MAX_WEIGHTED, Span, weighed
from api_schemas.requests import job_request
from service.resolve import resolve

MODELS = [ModelInfo(card=card, workers=("w",)) for card in EMBEDDED_MODELS]


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ("teal wall", [Span("teal wall")]),
        ("table, (teal wall:1.6)", [Span("table, "), Span("teal wall", 1.6)]),
        ("(teal: .5) wall", [Span("teal", 0.5), Span(" wall")]),
        ("(a (b:0.5) c:1.5) d", [Span("a ", 1.5), Span("b", 0.75), Span(" c", 1.5), Span(" d")]),
        ("((a:0.5):0)", [Span("a", 0.0)]),
    ],
)
def test_a_weight_counts_for_what_stands_in_its_parentheses(prompt: str, spans: list[Span]) -> None:
    """The signs are taken away, the rest keeps its letters, and nested weights multiply."""
    assert list(weighed(prompt)) == spans


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("table (oak), wall", "table (oak), wall"),
        ("(note: oak)", "(note: oak)"),
        ("(16:9 frame)", "(16:9 frame)"),
        (r"\(teal:1.6\)", "(teal:1.6)"),
        ("a) b (c", "a) b (c"),
        ("C:\\", "C:\\"),
        ("", ""),
        ("photo ratio (16:9)", "photo ratio (16:9)"),
        ("at (10:30)", "at (10:30)"),
        ("(scale 1:1)", "(scale 1:1)"),
        ("(3:2) crop", "(3:2) crop"),
        ("mug (size: 12oz)", "mug (size: 12oz)"),
        ("mug (seats: 2)", "mug (seats: 2)"),
        ("(http://x:80)", "(http://x:80)"),
        ("(summer:2024)", "(summer:2024)"),
        ("nice :( ratio 16:9", "nice :( ratio 16:9"),
        ("(hello :)", "(hello :)"),
        ("(:1.2)", "(:1.2)"),
    ],
)
def test_other_parentheses_are_text(prompt: str, text: str) -> None:
    """Where no weight can be meant, or with a backslash, a parenthesis is a letter like others."""
    assert "".join(span.text for span in weighed(prompt)) == text
    assert {span.weight for span in weighed(prompt)} <= {1.0}


@pytest.mark.parametrize("prompt", [" ", "\t\n", "\u00a0"])
def test_a_blank_prompt_is_refused(prompt: str) -> None:
    """A prompt of spaces asks for nothing: an error of ``prompt``."""
    with pytest.raises(Invalid) as caught:
        resolve(job_request.validate_python({"operation": "replace_background", "image": "a", "prompt": prompt}), MODELS)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("prompt", ["(teal wall:9)", " "])
def test_a_repeated_job_keeps_its_prompt(prompt: str) -> None:
    """A prompt that an earlier release accepted is no reason to refuse a repetition, which cannot change it."""
    request = job_request.validate_python({"operation": "replace_background", "image": "a", "prompt": prompt})
    assert resolve(request, MODELS, is_repeat=True)[0].prompt == prompt  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("(teal:2.1)", "from 0 to 2, not '2.1'"),
        ("(teal:-1)", "not '-1'"),
        ("(teal:1,5)", "not '1,5'"),
        ("(teal:1.2.3)", "not '1.2.3'"),
        ("(teal wall:9)", "not '9'"),
        ("wall, (teal:1.2, table", "not closed"),
        ("((teal:1.5):1.5)", "multiply"),
        ("(a:1.1) " * (MAX_WEIGHTED + 1), f"{MAX_WEIGHTED} may"),
        ("(" * 70 + "a" + ":1)" * 70, "more than 64 weights"),
    ],
)
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_malformed_weight_is_refused_with_its_field(prompt: str, reason: str, field: str) -> None:
    """What is meant as a weight and is none from 0 to ``MAX_WEIGHT`` is an error of the field that has it, and says what is wrong."""
    fields: dict[str, Any] = {"operation": "replace_background", "image": "a", "prompt": "teal wall", field: prompt}
    with pytest.raises(Invalid) as caught:
        resolve(job_request.validate_python(fields), MODELS)
    assert caught.value.field == field
    assert reason in caught.value.detail
    assert MAX_WEIGHT == 2
