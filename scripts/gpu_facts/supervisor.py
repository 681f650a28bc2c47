"""Runs items in processes of their own, so that one that breaks the device, or does not come back, costs itself alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from scripts.gpu_facts.catalogue import ITEMS
from scripts.gpu_facts.findings import Deadline
from scripts.gpu_facts.runner import GO_ON

PROCESSES = 2 * len(ITEMS)
"""That a run may take at most: each item can end two."""
COMMAND = (sys.executable, "-W", "ignore", "-m", "scripts.gpu_facts", "--one-process")


def supervise(arguments: Sequence[str], *, budget_s: float | None = None, command: Sequence[str] = COMMAND) -> int:
    """Run ``command`` with ``arguments``: again and again, as long as it asks for that or was ended by what it called; its last status.

    Each process is told what is left of the budget that all of them have.
    """
    budget = Deadline(budget_s) if budget_s is not None else None
    status = GO_ON
    for _ in range(PROCESSES):
        told = [] if budget is None else ["--budget-s", str(max(budget.left_s, 0.0))]
        status = subprocess.run([*command, *arguments, *told], check=False).returncode  # noqa: S603 - ourselves
        if status != GO_ON and status >= 0:
            return status
        print(f"the process ended with {status}; the next one goes on", flush=True)
    return status
