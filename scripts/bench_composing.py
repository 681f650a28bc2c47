"""Composing, of this commit against another: how much longer it takes to put what a model painted into its picture.

    python -m scripts.bench_composing --against TREE [--photos N] [--rounds N]

TREE is a worktree of the other commit (``git worktree add TREE COMMIT``). Each commit's ``worker`` runs in a process of its own, with its own
planted painters, on one thread; the two take turns, photo by photo, and the one that goes first alternates. Processor seconds are compared, so that
what else the machine does hardly matters. build/bench/composing.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import cv2
from rich.console import Console

from scripts import photos
from scripts.figures import exit_status, figure, figure_table, write_figures
from scripts.planted.grades import delivered
from scripts.planted.painters import painters
from scripts.planted.scenes import scenes

LIMIT = 1.1
PAINTERS = ("truth", "shifted, offset")
"""Their pictures of the truth: these are the same for every commit, whatever new content its painters may be asked for."""
_TURN = """
import sys
sys.path.insert(0, sys.argv[1])
from scripts.bench_composing import serve
serve()
"""


def main() -> int:
    """Time, print, write; 1 if this commit takes more than ``LIMIT`` times as long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="a worktree of the other commit")
    parser.add_argument("--photos", type=int, default=8, help="so many, spread over all that there are")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    here = Path(__file__).parent.parent
    count = len(photos.load())
    numbers = sorted({number * count // options.photos for number in range(options.photos)})
    with _turns(here) as ours, _turns(options.against.resolve()) as theirs:
        sides = {"ours": ours, "theirs": theirs}
        seconds: dict[str, dict[int, list[float]]] = {side: {number: [] for number in numbers} for side in sides}
        for turn in range(options.rounds + 1):  # the first warms up
            for number in numbers:
                for side in sorted(sides, reverse=bool((turn + number) % 2)):
                    seconds[side][number].append(sides[side].ask(number))
    ratios = [statistics.median(seconds["ours"][number][1:]) / statistics.median(seconds["theirs"][number][1:]) for number in numbers]
    totals = {side: sum(statistics.median(values[1:]) for values in by_photo.values()) for side, by_photo in seconds.items()}
    figures = {"composing_over_the_other": figure(totals["ours"] / totals["theirs"], LIMIT)}
    console = Console(width=150)
    console.print(f"{totals['ours']:.2f} s against {totals['theirs']:.2f} s; by photo {min(ratios):.2f} to {max(ratios):.2f}")
    console.print(figure_table(figures))
    write_figures("composing", figures)
    return exit_status(figures)


class _Side:
    """A process with one commit's worker."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        self._questions, self._answers = questions, answers

    def ask(self, number: int) -> float:
        """Processor seconds of composing all edits of one photo."""
        self._questions.write(f"{number}\n")
        self._questions.flush()
        return float(self._answers.readline())


@contextmanager
def _turns(tree: Path) -> Iterator[_Side]:
    here = Path(__file__).parent.parent
    command = [sys.executable, "-c", _TURN, str(tree)]
    with subprocess.Popen(command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - a fixed command
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        yield _Side(process.stdin, process.stdout)
        process.stdin.close()


def serve() -> None:
    """Answer the number of a photo with the processor seconds of composing its edits, line by line."""
    cv2.setNumThreads(1)
    pictures = list(photos.load().items())
    for line in sys.stdin:
        number = int(line)
        name, picture = pictures[number]
        seconds = sum(
            delivered(scene, painter, clock=time.process_time, graded=False).seconds
            for scene in scenes(name, picture, number)
            for painter in painters(scene.kind, number)
            if painter.name in PAINTERS and painter.fill == "truth"
        )
        print(seconds, flush=True)


if __name__ == "__main__":
    sys.exit(main())
