"""Writes docs/gpu.md from the files of answers in docs/gpu-facts: every estimate, and what was measured in its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from scripts.gpu_facts.answers import Answers, AnswersError
from scripts.gpu_facts.catalogue import ITEMS
from scripts.gpu_facts.estimates import ESTIMATES, H100, Estimate, Figures

FOLDER, DOCUMENT = Path("docs/gpu-facts"), Path("docs/gpu.md")
NOT_MEASURED = "not measured"
HEAD = """\
# Performance on GPUs

Written by `python -m scripts.gpu_facts report` from the files in docs/gpu-facts, which `python -m scripts.gpu_facts` writes on a machine with
a GPU; not by hand. What has no file is not measured. Estimates were made before any run, from counts of operators and published figures.
A card without estimates of its own stands beside those for an H100. Both sides have Stable Diffusion of true size with random weights, in
float16: 1.5 at 512×512, XL at 1024×1024, with guidance. The VAE is random too: its figures are of its time, and decide nothing about whether
the numbers of a real one stay in the range of a precision.
"""


@dataclass(frozen=True)
class Run:
    """One file of answers."""

    path: Path
    header: dict[str, Any]
    answers: dict[int, dict[str, Any]]

    @property
    def title(self) -> str:
        """Card and date."""
        return f"{self.header['card']}, {self.header['date']}"

    @property
    def figures(self) -> Figures:
        """Those of all items."""
        return {name: value for answer in self.answers.values() for name, value in answer.get("figures", {}).items()}

    def cell(self, estimate: Estimate) -> str:
        """The figure in place of ``estimate``."""
        if not is_about(estimate, self.header["card"]):
            return NOT_MEASURED
        try:
            return estimate.measured(self.figures).strip()
        except (KeyError, TypeError):
            return NOT_MEASURED


def is_about(estimate: Estimate, card: str) -> bool:
    """True where a run on ``card`` stands beside ``estimate``: those for an H100 take any card that has none of its own."""
    if estimate.card in card:
        return True
    own = any(other.what == estimate.what and other.card and other.card in card for other in ESTIMATES)
    return estimate.card == H100 and not own


def main() -> int:
    """Write the document."""
    DOCUMENT.write_text(document(read_runs(FOLDER)), encoding="utf-8")
    print(f"written: {DOCUMENT}")
    return 0


def read_runs(folder: Path) -> list[Run]:
    """Every file of ``folder``, by name. Raises ``AnswersError`` for one that is no run on a GPU."""
    return [read_run(path) for path in sorted(folder.glob("*.jsonl"))]


def read_run(path: Path) -> Run:
    """One file. Raises ``AnswersError`` where it is a rehearsal's or has no header."""
    answers = Answers(path)
    if not answers.header:
        raise AnswersError(f"{path}: it has no header")
    if answers.header.get("rehearsal"):
        raise AnswersError(f"{path}: it is a rehearsal's, which measures nothing")
    return Run(path, answers.header, answers.by_item)


def document(runs: Sequence[Run]) -> str:
    """docs/gpu.md."""
    if not runs:
        return "\n".join([HEAD, "No run has been committed: nothing below is measured.\n", *_table(runs), ""])
    return "\n".join([HEAD, *_runs(runs), "", *_table(runs), "", *_items(runs), ""])


def _runs(runs: Iterable[Run]) -> list[str]:
    rows = [
        f"| {run.title} | {run.header['driver']} | {run.header['torch']} | {run.header['cudnn']} | {run.header['commit']} | `{run.path.name}` |"
        for run in runs
    ]
    return ["| card and date | driver | torch | cuDNN | commit | file |", "| --- | --- | --- | --- | --- | --- |", *rows]


def _table(runs: Sequence[Run]) -> list[str]:
    """Every estimate; a column for each run, or one that says that there is none."""
    titles = [run.title for run in runs] or ["measured"]
    lines = []
    for group, estimates in groupby(ESTIMATES, key=lambda estimate: estimate.group):
        lines += [f"| {group} | item | for | estimate | {' | '.join(titles)} |", "| --- " * (4 + len(titles)) + "|"]
        for estimate in estimates:
            cells = [run.cell(estimate) for run in runs] or [NOT_MEASURED]
            items = ", ".join(map(str, estimate.items))
            lines.append(f"| {estimate.what} | {items} | {estimate.card or 'any'} | {estimate.expected} | {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]


def _items(runs: Sequence[Run]) -> list[str]:
    """The end of each item in each run, with the reason where nothing was measured."""
    lines = [f"| item | decides | {' | '.join(run.title for run in runs)} |", "| --- " * (2 + len(runs)) + "|"]
    for item in ITEMS:
        cells = [_ending(run.answers.get(item.number)) for run in runs]
        lines.append(f"| {item.number}. {item.name} | {item.decides} | {' | '.join(cells)} |")
    return lines


def _ending(answer: dict[str, Any] | None) -> str:
    if answer is None:
        return "not run"
    parts = [f"{name}: {why}" for kind in ("refused", "faults") for name, why in answer.get(kind, {}).items()]
    told = "; ".join([answer["reason"]] if "reason" in answer else parts).replace("|", "/")
    return f"{answer['answer']}{f' ({told})' if told else ''}"
