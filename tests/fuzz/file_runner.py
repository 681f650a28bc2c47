"""A process that tries files one by one and tells what each cost: what hangs or takes all memory ends it, and nothing else.

python -m tests.fuzz.file_runner reads lines of ``{"seed", "first", "last"}`` and writes a line for each file;
``{"name", "role", "first": 0, "last": 1}`` is one of ``tests/hostile_files.py``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict

from hostile_files import hostile_files, hostile_forms

from .examined import examine, warm_up
from .files import Fuzzed, Role, made
from .meter import MIB

HANG_CPU_S, HANG_S = 5.0, 60.0
"""After so much the kernel ends the process, whatever library it is in."""
MEMORY_MIB = 4096
"""Of data, of each process: beyond it the file cannot have more."""


def main() -> None:
    """Serve until the input ends."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MIB * MIB, MEMORY_MIB * MIB))
    answers = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries and logs write to them
        os.dup2(silence, stream)
    warm_up()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        for number in range(asked["first"], asked["last"]):
            file = _hostile(asked["name"], asked["role"]) if "name" in asked else made(asked["seed"], number)
            _alarm(HANG_CPU_S, HANG_S)
            cost = examine(file.data, file.role, file.content_type)
            _alarm(0, 0)
            told = {"number": number, "kind": file.kind, "role": file.role, "bytes": len(file.data), **asdict(cost)}
            print(json.dumps(told), file=answers, flush=True)


def _hostile(name: str, role: Role) -> Fuzzed:
    if role == "form":
        content_type, data = hostile_forms()[name]
        return Fuzzed(0, name, role, data, content_type)
    return Fuzzed(0, name, role, hostile_files()[name].data)


def _alarm(cpu_s: float, seconds: float) -> None:
    # Their default is to end the process, also amid a call into C.
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    main()
