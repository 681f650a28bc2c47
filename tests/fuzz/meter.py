"""What a piece of work costs this process and its children: CPU, and memory at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

MIB = 2**20
_TICK = os.sysconf("SC_CLK_TCK")
_LIBC = ctypes.CDLL(None)
_TRIM_MIB = 16
_INTERPRETER_MIB = 10.0


@dataclass
class Meter:
    """Measures what is done while it is open; more than once adds up, and of memory the most counts."""

    cpu_s: float = 0.0
    memory_mib: float = 0.0
    """Above what was resident before: of this process, and of each child that it has or had."""
    _began_s: float = 0.0
    _resident: dict[int, float] = field(default_factory=dict)
    _largest_ended: float = 0.0

    def __enter__(self) -> Self:
        self._resident = {}
        for process in (os.getpid(), *_descendants(os.getpid())):
            with contextlib.suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")  # the peak is as of now
                self._resident[process] = _status_mib(process, "VmRSS")
        self._largest_ended = _largest_ended_mib()
        self._began_s = _cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s += _cpu_s() - self._began_s
        own = os.getpid()
        grown = _status_mib(own, "VmHWM") - self._resident[own]
        of_children = 0.0
        for process in _descendants(own):
            with contextlib.suppress(OSError):
                # One that is new began with the pages of its parent, which it shares.
                of_children += max(0.0, _status_mib(process, "VmHWM") - self._resident.get(process, self._resident[own]))
        if (largest := _largest_ended_mib()) > self._largest_ended:
            # Of one that was born and has ended: counted as a program of its own. What is smaller than this process is not told, as the kernel
            # takes the memory of a parent for its child's until the child runs its program.
            of_children = max(of_children, largest - _INTERPRETER_MIB)
        self.memory_mib = max(self.memory_mib, grown + of_children)
        if grown > _TRIM_MIB:
            _LIBC.malloc_trim(0)  # else the next file could use it unseen


def _cpu_s() -> float:
    """Seconds of this process, of its children that have ended, and of those that have not."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    for process in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / _TICK
    return total


_parents: dict[int, int] = {}
"""Parents of processes that were seen, so that each is asked for once: there may be hundreds that are none of ours."""


def _descendants(process: int) -> set[int]:
    """Its children, and theirs."""
    there = {int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()}
    for gone in _parents.keys() - there:
        del _parents[gone]
    for new in there - _parents.keys():
        with contextlib.suppress(OSError):
            _parents[new] = int(Path(f"/proc/{new}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1])
    found: set[int] = set()
    family = {process}
    while family:
        family = {child for child, parent in _parents.items() if parent in family} - found
        found |= family
    return found


def _status_mib(process: int, name: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    return 0.0  # it has ended and was not waited for


def _largest_ended_mib() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
