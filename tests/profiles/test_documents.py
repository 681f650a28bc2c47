"""docs/profiles.md tells what the data files say."""

from __future__ import annotations

import json
from pathlib import Path

from api_schemas.profiles import UncheckedRule
from profiles.catalogue import profiles

DOCUMENT = Path(__file__).parents[2] / "docs" / "profiles.md"


def expected_tables() -> str:
    """The part of docs/profiles.md that is made from the data: a section for each profile."""
    sections = []
    for profile in profiles().values():
        lines = [f"### `{profile.name}`", "", f"{profile.title}. Read on {profile.read}; look for changes at <{profile.source}>.", ""]
        lines += [f"- `{operation}`: `{json.dumps(fields)}`" for operation, fields in profile.request.items()]
        lines += ["", "| rule | level | asks | known | of |", "| --- | --- | --- | --- | --- |"]
        for rule in profile.rules:
            asks = f"{rule.text} *Unchecked: {rule.reason}.*" if isinstance(rule, UncheckedRule) else rule.text
            host = rule.source.split("/")[2].removeprefix("www.")
            lines.append(f"| `{rule.id}` | {rule.level} | {asks} | {rule.certainty}, [{host}]({rule.source}) | {rule.date} |")
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def test_the_document_has_every_rule_with_its_source() -> None:
    """Each profile's request and rules are in the document as they are in the data, with source, date and certainty."""
    assert expected_tables() in DOCUMENT.read_text(), f"put this into docs/profiles.md:\n{expected_tables()}"
