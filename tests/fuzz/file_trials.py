"""Many files through processes of their own, and what was found."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from .examined import Cost
from .files import Role, made

ROOT = Path(__file__).parent.parent.parent
KEPT = Path("build/fuzz-files")
BATCH = 100
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Tried:
    """A file and what it cost; of one that ended its process only how."""

    number: int
    kind: str
    role: str
    cost: Cost | None
    ended: str = ""

    @property
    def is_bounded(self) -> bool:
        """Whether it holds to all bounds and is answered."""
        return self.is_within(1.0)

    def is_within(self, cpu_share: float) -> bool:
        """Whether it is answered and holds to all bounds, CPU to so many times its own."""
        return self.cost is not None and self.cost.is_within(cpu_share) and not (self.role == "form" and self.cost.verdict.startswith("5"))

    @property
    def why(self) -> str:
        """What is to be said of it, in one line."""
        if self.cost is None:
            return f"ended its process: {self.ended}"
        return self.cost.fault.strip().splitlines()[-1] if self.cost.fault else self.cost.told()


class Runner:
    """A process that tries files; it is started again after one that ended it."""

    def __init__(self) -> None:
        self._process = _start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _stop(self._process)

    def hostile(self, name: str, role: Role) -> Tried:
        """Try one of the hostile files."""
        return next(self._asked({"name": name, "role": role, "first": 0, "last": 1}, lambda _: (name, role)))

    def files(self, seed: int, first: int, last: int) -> Iterator[Tried]:
        """Try those of a seed, from ``first`` up to ``last``."""

        def described(number: int) -> tuple[str, Role]:
            file = made(seed, number)
            return file.kind, file.role

        while first < last:
            for tried in self._asked({"seed": seed, "first": first, "last": last}, described):
                first = tried.number + 1
                yield tried

    def _asked(self, question: dict[str, Any], described: Callable[[int], tuple[str, Role]]) -> Iterator[Tried]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the process has no pipes")
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
        for number in range(question["first"], question["last"]):
            line = stdout.readline()
            if not line.endswith("\n"):
                code = _stop(self._process)
                self._process = _start()
                yield Tried(number, *described(number), None, signal.Signals(-code).name if code < 0 else str(code))
                return
            told = json.loads(line)
            cost = Cost(**{name: told[name] for name in ("cpu_s", "memory_mib", "pixels", "verdict", "fault")})
            yield Tried(number, told["kind"], told["role"], cost)


@dataclass
class Trials:
    """What many files cost."""

    tried: int = 0
    worst_cpu: float = 0.0
    """As a share of what the file may take."""
    worst_mib: float = 0.0
    """Beyond its pixels."""
    cpu_s: float = 0.0
    """Of all."""
    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    findings: list[Tried] = field(default_factory=list)

    def take(self, tried: Tried) -> None:
        """Count one more."""
        self.tried += 1
        self.kinds[tried.kind] += 1
        if tried.cost is not None:
            self.cpu_s += tried.cost.cpu_s
            self.worst_cpu = max(self.worst_cpu, tried.cost.cpu_share)
            self.worst_mib = max(self.worst_mib, tried.cost.beyond_mib)
        self.verdicts["ended its process" if tried.cost is None else tried.cost.verdict or "fault"] += 1
        if not tried.is_bounded:
            self.findings.append(tried)


def try_files(seed: int, files: int, processes: int = 1, *, keep: Path | None = KEPT, say: Callable[[str], None] = print) -> Trials:
    """Try so many files of a seed; those that are over the bounds are kept with their figures."""
    batches: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for first in range(0, files, BATCH):
        batches.put((first, min(first + BATCH, files)))
    result, lock = Trials(), threading.Lock()

    def work() -> None:
        with Runner() as runner:
            while True:
                try:
                    first, last = batches.get_nowait()
                except queue.Empty:
                    return
                for tried in runner.files(seed, first, last):
                    with lock:
                        result.take(tried)
                        if not tried.is_bounded:
                            say(f"{tried.number} {tried.kind} as {tried.role}: {tried.why}")
                            _keep(keep, seed, tried)
                        if result.tried % 10_000 == 0:
                            say(f"{result.tried} files, {len(result.findings)} findings, {result.cpu_s:.0f} s of CPU")

    threads = [threading.Thread(target=work) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return result


def _keep(folder: Path | None, seed: int, tried: Tried) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = made(seed, tried.number)
    base = folder / f"{seed}-{tried.number}-{tried.kind}"
    base.with_suffix(".bin").write_bytes(file.data)
    told = {"seed": seed, "role": tried.role, "content_type": file.content_type, "why": tried.why}
    base.with_suffix(".json").write_text(json.dumps(told | (vars(tried.cost) if tried.cost else {}), indent=1) + "\n")


def _start() -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.file_runner"]
    runner = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **_ONE_THREAD},
    )
    if runner.stdout is None or runner.stdout.readline() != "ready\n":
        raise RuntimeError("the process that tries files did not start")
    return runner


def _stop(runner: subprocess.Popen[str]) -> int:
    """End it and its children; what it ended with by itself."""
    if runner.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            runner.stdin.close()
    code = runner.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(runner.pid, signal.SIGKILL)  # children that it left
    if runner.stdout is not None:
        runner.stdout.close()
    return code
