"""docs/structure.md matches the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("api_schemas", "core", "imagefiles", "profiles", "service", "worker")


def modules() -> dict[str, str]:
    """Every module with the first sentence of its docstring."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text()))
            assert docstring, f"{path} has no docstring"
            found[str(path.relative_to(ROOT))] = re.split(r"(?<=\.)\s|\n\n", docstring, maxsplit=1)[0].replace("\n", " ").rstrip(":")
    return found


def expected_list() -> str:
    """The list that docs/structure.md must hold: one line a module."""
    return "\n".join(f"- `{path}`: {line}" for path, line in modules().items())


def test_every_module_has_its_line() -> None:
    """The list of modules is that of the tree, with what each says of itself."""
    text = (ROOT / "docs" / "structure.md").read_text()
    assert expected_list() in text, f"put this list into docs/structure.md:\n{expected_list()}"


def test_every_file_that_the_documents_name_exists() -> None:
    """No document sends a reader to a file that is not there."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for name in re.findall(
            r"`((?:api_schemas|core|imagefiles|profiles|service|worker|tests|scripts|docs|deploy)/[\w./-]+\.\w+)`", document.read_text()
        ):
            assert (ROOT / name).exists(), f"{document.name} names {name}"
        for name in re.findall(r"\]\(([\w./-]+)\)", document.read_text()):
            assert (document.parent / name).exists(), f"{document.name} links {name}"


def test_core_stays_small() -> None:
    """The core has at most eight modules, and no module is called utils or helpers."""
    assert len([path for path in (ROOT / "core").glob("*.py") if path.name != "__init__.py"]) <= 8
    assert not [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.stem in ("utils", "helpers", "common")]
