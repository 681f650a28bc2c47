"""Runs planted painters over photos and prints what came of them: see ``scripts.planted``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console

from scripts import photos
from scripts.figures import exit_status, figure_table
from scripts.planted.figures import figures_of
from scripts.planted.grades import Case, cases
from scripts.planted.scenes import Kind
from scripts.planted.table import table

Array = npt.NDArray[np.uint8]


def main() -> int:
    """Run, print, and keep every case in build/bench/planted.json; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=None, help="only the first so many")
    parser.add_argument("--operations", default="", help="of these only, by the start of their names, separated by commas")
    parser.add_argument("--painters", default="", help="likewise")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    found = run(list(photos.load().items())[: options.photos], options.operations, options.painters, options.jobs)
    console, figures = Console(width=150), figures_of(found)
    console.print(table(found))
    console.print(figure_table(figures))
    target = Path("build/bench/planted.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps([asdict(case) for case in found], indent=1) + "\n")
    return exit_status(figures)


def run(pictures: Sequence[tuple[str, Array]], operations: str = "", painters: str = "", jobs: int = 1) -> list[Case]:
    """The cases of all ``pictures``, spread over processes."""
    work = partial(_of_one, operations, painters)
    numbered = [(number, name, picture) for number, (name, picture) in enumerate(pictures)]
    with ProcessPoolExecutor(jobs, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return [case for found in pool.map(work, numbered) for case in found]


def _of_one(operations: str, painters: str, numbered: tuple[int, str, Array]) -> list[Case]:
    number, name, picture = numbered
    wanted = _starts(operations)

    def kinds(kind: Kind) -> bool:
        return wanted(kind.name)

    return list(cases(name, picture, number, kinds=kinds, named=_starts(painters)))


def _starts(words: str) -> Callable[[str], bool]:
    beginnings = tuple(words.split(",")) if words else ("",)
    return lambda name: name.startswith(beginnings)


if __name__ == "__main__":
    sys.exit(main())
