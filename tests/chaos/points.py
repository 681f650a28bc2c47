"""Named points at which a process of the stack can be made to end, and how the harness says so.

A fault that waits is a file ``armed/{point}.{action}.{number}``: a file and not a key, as Redis is among what fails. The process that
reaches the point first takes the file away, writes down that it was hit, and gets the signal.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

WORKER_POINTS = ("claim", "adopt", "paint", "put", "commit", "transaction")
POINTS = (*WORKER_POINTS, "outbox")
"""After a claim; after its lease was taken and the job begun; after painting; after the outputs were put; after the commit, before RQ's
bookkeeping; between MULTI and EXEC; and in a steward, after a webhook was accepted and before that is written down."""
ACTIONS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
DIRECTORY, CLOCK = "CHAOS_DIRECTORY", "CHAOS_CLOCK_S"
"""How a process is told where faults wait, and by how much its clock is wrong."""
POISON = "poison"
"""The metadata of a job that kills its worker each time it is painted."""


@dataclass(frozen=True)
class Hit:
    """A process that was hit."""

    point: str
    action: str
    subject: str
    """The job, or the webhook, that was in its hands."""
    pid: int
    at: float
    """Unix time."""


class Faults:
    """A directory in which faults wait. Both sides have one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._armed, self._log, self._clock = directory / "armed", directory / "hits.jsonl", directory / "clock"
        self._numbers = count(1)
        self._armed.mkdir(parents=True, exist_ok=True)

    def arm(self, point: str, action: str) -> None:
        """The next process that reaches ``point`` suffers ``action``."""
        (self._armed / f"{point}.{action}.{next(self._numbers)}").touch()

    def disarm(self) -> int:
        """Take away what waits still; how many those were."""
        waiting = list(self._armed.iterdir())
        for path in waiting:
            path.unlink(missing_ok=True)
        return len(waiting)

    def step_clocks(self, seconds: float) -> None:
        """From now on the clocks of all workers are wrong by so much more than they were at first."""
        new = self._clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._clock)

    def clock_step_s(self) -> float:
        """How far the clocks of workers have jumped."""
        return float(self._clock.read_text()) if self._clock.exists() else 0.0

    def waiting(self) -> int:
        """How many faults nobody has run into yet."""
        return sum(1 for _ in self._armed.iterdir())

    def hits(self) -> list[Hit]:
        """Everything that was hit, in order."""
        return [Hit(**json.loads(line)) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def reached(self, point: str, subject: str) -> None:
        """This process is at ``point``: it may be its end."""
        for path in sorted(self._armed.glob(f"{point}.*")):
            if self.take(path):
                self.strike(point, path.name.split(".")[1], subject)
                return

    def take(self, path: Path) -> bool:
        """Whether the fault is ours: of those that see it, one takes it away."""
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def armed(self, point: str) -> Path | None:
        """A fault that waits at ``point``."""
        return next(iter(sorted(self._armed.glob(f"{point}.*"))), None)

    def strike(self, point: str, action: str, subject: str) -> None:
        """Write it down, then signal this process."""
        line = json.dumps(asdict(Hit(point, action, subject, os.getpid(), _real_time()))) + "\n"
        with self._log.open("a") as log:
            log.write(line)
        os.kill(os.getpid(), ACTIONS[action])


_real_time = time.time  # bound before a process shifts its clock
