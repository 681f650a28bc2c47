"""``make fuzz-files``: many files at random against the readers of the API and of the worker, and a share of them through a running service.

python -m tests.fuzz.file_campaign --files 200000 --seed 1

Each file has bounds (``examined.py``): 1 s of CPU for the API's check and the worker's decoding together (a second for each 16 megapixels of a
larger picture), and 256 MiB beyond its pixels. One that is over them, raises what is none of our errors, or ends its process is kept in
build/fuzz-files with its figures. Prints what was found and writes build/bench/fuzz-files.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.figures import exit_status, figure, figure_table, write_figures

from .examined import CPU_S, MEMORY_MIB
from .file_stack import Answers, running, send_all
from .file_trials import KEPT, Trials, try_files


def main() -> int:
    """Run, print, write; 1 if anything is over its bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--http", type=int, default=2000, help="so many of the files go through a running service, too")
    parser.add_argument("--port", type=int, default=0, help="of the service; 0: any that is free")
    parser.add_argument("--keep", type=Path, help="run the service in this directory, and leave its logs there")
    options = parser.parse_args()
    result = try_files(options.seed, options.files, options.processes)
    answers = Answers()
    if options.http:
        numbers = range(0, options.files, max(1, options.files // options.http))
        with tempfile.TemporaryDirectory() as folder, running(options.keep or Path(folder), port=options.port) as stack:
            answers = send_all(stack, options.seed, numbers)
    return _report(options.files, result, answers)


def _report(wanted: int, result: Trials, answers: Answers) -> int:
    console = Console(width=160)
    for tried in result.findings:
        console.print(f"{tried.number} {tried.kind} as {tried.role}: {tried.why}", markup=False)
    for line in (*answers.server_errors, *answers.jobs_at_fault, *answers.stuck):
        console.print(line, markup=False)
    console.print(f"kinds: {_counts(result.kinds)}\nverdicts: {_counts(result.verdicts)}", markup=False)
    console.print(f"answers: {_counts(answers.statuses)}\njobs: {_counts(answers.ends)}", markup=False)
    if result.findings:
        console.print(f"the files are in {KEPT}")
    figures = _figures(wanted, result, answers)
    console.print(figure_table(figures))
    write_figures("fuzz-files", figures)
    return exit_status(figures)


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{number} × {name}" for name, number in sorted(counted.items()))


def _figures(wanted: int, result: Trials, answers: Answers) -> dict[str, dict[str, Any]]:
    died = sum(tried.cost is None for tried in result.findings)
    faults = sum(tried.cost is not None and bool(tried.cost.fault) for tried in result.findings)
    return {
        "files": {"value": result.tried, "limit": wanted, "holds": result.tried >= wanted},
        "worst_cpu_s": figure(result.worst_cpu * CPU_S, CPU_S),
        "worst_mib_beyond_pixels": figure(result.worst_mib, MEMORY_MIB),
        "ended_their_process": figure(died, 0),
        "errors_of_no_name": figure(faults, 0),
        "findings": figure(len(result.findings), 0),
        "server_errors": figure(len(answers.server_errors), 0),
        "jobs_at_fault": figure(len(answers.jobs_at_fault), 0),
        "jobs_stuck": figure(len(answers.stuck), 0),
        "parts_that_died": figure(answers.restarts, 0),
    }


if __name__ == "__main__":
    sys.exit(main())
