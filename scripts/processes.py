"""Seconds of CPU and memory of processes, their children included. Linux."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pids: Iterable[int]) -> Iterator[int]:
    """Those processes and all that descend from them."""
    for pid in pids:
        yield pid
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                yield from family(int(child) for child in (task / "children").read_text().split())


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of CPU so far, with those of children that have ended."""
    total = 0
    for pid in set(family(pids)):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def memory_mib(pids: Iterable[int]) -> float:
    """Proportional set size: pages that several share count once."""
    total = 0
    for pid in set(family(pids)):
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total / 1024
