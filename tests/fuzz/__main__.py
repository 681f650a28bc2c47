"""``make fuzz``: many requests made from the OpenAPI document. Prints what was answered and what was wrong, and writes build/bench/fuzz.json.

python -m tests.fuzz --requests 20000 --seed 1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.figures import exit_status, figure, write_figures
from scripts.tiny_pipeline import build

from .campaign import Result, running

CLASSES = ("2xx", "4xx", "5xx", "none")
EXAMPLES = 40


def main() -> int:
    """Run, print, write; 1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="run in this directory, and leave the logs there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "tiny")
        with running(arguments.keep or Path(folder), Path(folder) / "tiny") as campaign:
            result = campaign.run(arguments.requests, arguments.seed, examples=EXAMPLES, coverage=True, patience_s=600)
    return _report(arguments.seed, arguments.requests, result)


def _report(seed: int, wanted: int, result: Result) -> int:
    console = Console(width=140)
    console.print(_table(result))
    for (operation, check), told in result.told.items():
        console.print(f"{result.failures[operation, check]} × {operation}: {check}\n{told}\n", markup=False)
    for line in result.broken:
        console.print(line, markup=False)
    figures = _figures(wanted, result)
    table = Table("figure", "value", "limit", "holds")
    for name, entry in figures.items():
        table.add_row(name, f"{entry['value']:g}", f"{entry['limit']:g}", "yes" if entry["holds"] else "NO")
    console.print("answers: " + ", ".join(f"{number} × {status}" for status, number in sorted(result.statuses.items())))
    console.print(f"seed {seed}: {result.requests} requests, {len(result.accepted)} jobs accepted, {result.seconds:.0f} s")
    console.print(table)
    write_figures("fuzz", figures)
    return exit_status(figures)


def _table(result: Result) -> Table:
    table = Table("operation", "requests", *CLASSES, "failures")
    for operation, answers in sorted(result.answers.items()):
        failures = sum(number for (label, _), number in result.failures.items() if label == operation)
        table.add_row(operation, str(answers.total()), *(str(answers[name]) for name in CLASSES), str(failures))
    return table


def _figures(wanted: int, result: Result) -> dict[str, dict[str, Any]]:
    without_success = [operation for operation, answers in result.answers.items() if not answers["2xx"]]
    return {
        "requests": {"value": result.requests, "limit": wanted, "holds": result.requests >= wanted},
        "server_errors": figure(result.server_errors, 0),
        "schema_violations": figure(result.failures.total(), 0),
        "operations_without_2xx": figure(len(without_success), 0),
        "untested": figure(len(result.broken), 0),
        "jobs_stuck": figure(len(result.stuck), 0),
    }


if __name__ == "__main__":
    sys.exit(main())
