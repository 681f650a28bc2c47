"""The command line: ``python -m scripts.gpu_facts [--half 1] [--items 3,6] [--rehearse] [--out FILE]``, ``… report``, ``… bench``."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from scripts.gpu_facts.catalogue import chosen
from scripts.gpu_facts.runner import GO_ON
from scripts.gpu_facts.supervisor import supervise

REHEARSAL = Path("build/gpu-facts/rehearsal.jsonl")


def main(arguments: list[str]) -> int:
    """Run, report or bench; the exit status: 2 for what cannot be meant."""
    options = _parser().parse_args(arguments)
    try:
        return _act(arguments, options)
    except (ValueError, OSError) as error:
        print(f"gpu_facts: {error}", file=sys.stderr)
        return 2


def _act(arguments: list[str], options: argparse.Namespace) -> int:
    if options.action != "run" and arguments != [options.action]:
        raise ValueError(f"{options.action} takes no options")
    chosen(options.half, options.items)
    match options.action:
        case "report":
            status: int = import_module("scripts.gpu_facts.report").main()
        case "bench":
            status = import_module("scripts.gpu_facts.bench").main()
        case _ if options.one_process:
            status = import_module("scripts.gpu_facts.process").main(options)
        case _:
            status = supervise([*arguments, *_rehearsal_out(options)], budget_s=options.budget_s)
    return status


def _rehearsal_out(options: argparse.Namespace) -> list[str]:
    """A rehearsal that names no file begins anew: it is run after each change of the code."""
    if not options.rehearse or options.out is not None:
        return []
    REHEARSAL.unlink(missing_ok=True)
    return ["--out", str(REHEARSAL)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.gpu_facts", description="What a real GPU says.")
    parser.add_argument("action", nargs="?", choices=("run", "report", "bench"), default="run", help="report writes docs/gpu.md")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--half", type=int, choices=(1, 2), help="items 1 to 7, or 8 to 13; without it all")
    which.add_argument("--items", metavar="3,6", help="only these")
    parser.add_argument("--out", type=Path, help="the file of answers; items that it answers are not run again")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with tiny weights; no figure is claimed")
    parser.add_argument("--budget-s", type=float, help="seconds for all; what does not fit is not begun")
    parser.add_argument("--commit", help="of the code, where there is no git")
    parser.add_argument("--one-process", action="store_true", help=f"run in this process; status {GO_ON}: run again, it goes on")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
