"""The file of a run: one JSON object a line, written and flushed as it comes.

The first line is the header. An item has a line when it begins (``"answer": "begun"``) and one when it is answered; the second is what
counts. An item that began twice and was never answered has ended its process twice, and is not begun again. One that the budget of a run
cut short (``"answer": "cut"``) keeps what it has found until another run has done it again.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BEGUN, CUT = "begun", "cut"
MOST_BEGINNINGS = 2
SAME = ("card", "torch", "commit", "rehearsal")
"""Names that a file's header and the run that goes on with it must have in common."""


class AnswersError(ValueError):
    """The file cannot be gone on with, or read; the message names it."""


class Answers:
    """The answers in one file. Thread-safe: the first answer of an item that is not ``CUT`` is the one that stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.header: dict[str, Any] = {}
        self.by_item: dict[int, dict[str, Any]] = {}
        self._beginnings: Counter[int] = Counter()
        for line in _lines(path) if path.exists() else ():
            self._take(line)

    def open(self, header: Mapping[str, Any]) -> None:
        """Write the header, or go on under the one that is there. Raises ``AnswersError`` where that is of another run."""
        if not self.header:
            self.header = dict(header)
            self._write({"header": self.header})
        for name in SAME:
            ours, theirs = header.get(name), self.header.get(name)
            if ours != theirs:
                raise AnswersError(f"{self.path}: its {name} is {theirs!r} and this run's {ours!r}; name another file with --out")

    def has_answer(self, item: int) -> bool:
        """False too for an item that was cut short."""
        return item in self.by_item and bool(self.by_item[item]["answer"] != CUT)

    def begin(self, item: int, name: str) -> bool:
        """Note that ``item`` begins. False, and answered as failed, where it has begun as often as it may."""
        if self._beginnings[item] >= MOST_BEGINNINGS:
            self.answer(item, name, "failed", {"reason": f"its process ended in it {MOST_BEGINNINGS} times"})
            return False
        self._beginnings[item] += 1
        self._write({"item": item, "name": name, "answer": BEGUN})
        return True

    def answer(self, item: int, name: str, answer: str, details: Mapping[str, Any]) -> bool:
        """Write the answer of ``item``; false where it has one already."""
        with self._lock:
            if self.has_answer(item):
                return False
            line = {"item": item, "name": name, "answer": answer, **details}
            self._take(line)
            self._write(line)
            return True

    def _take(self, line: Mapping[str, Any]) -> None:
        if "header" in line:
            self.header = line["header"]
        elif line["answer"] == BEGUN:
            self._beginnings[line["item"]] += 1
        elif not self.has_answer(line["item"]):
            self.by_item[line["item"]] = dict(line)
            self._beginnings[line["item"]] = 0  # its process has not ended in it

    def _write(self, line: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """All that can be read; a last line without an end was cut off by whatever ended the run, and is taken away."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise AnswersError(f"{path}, line {number}: no JSON: {error}") from error
        if not isinstance(entry, dict) or not ("header" in entry or {"item", "answer"} <= set(entry)):
            raise AnswersError(f"{path}, line {number}: neither a header nor an item's line")
        yield entry
