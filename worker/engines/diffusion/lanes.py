"""Lanes: threads among which a CPU divides the rows of a UNet call.

Inside one call all threads meet after every operation, some seven hundred times, and wait for the slowest; small operations run on one alone. In lanes
each thread has pictures of its own and meets the others once: on two cores 12 to 20 % less time a row. A warm-up measures whether it is (decision 20).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch


@dataclass(frozen=True)
class Share:
    """The slots of a call that one lane has. A call has a row for each slot, the guided ones first, and then one more for each guided slot."""

    first: int
    last: int
    """The slot after its last."""
    slots: int
    """Of the whole call."""
    guided: int
    """Of the whole call."""

    @property
    def repeated(self) -> int:
        """Its guided slots."""
        return max(min(self.last, self.guided) - self.first, 0)

    def of(self, value: Any) -> Any:
        """Its rows of a tensor, or of all tensors in a dictionary; of anything else all."""
        if isinstance(value, dict):
            return {name: self.of(each) for name, each in value.items()}
        if not isinstance(value, torch.Tensor):
            return value
        own, again = value[self.first : self.last], self.slots + self.first
        return torch.cat([own, value[again : again + self.repeated]]) if self.repeated else own

    def put(self, rows: torch.Tensor, into: torch.Tensor) -> None:
        """Lay its ``rows`` into those of the whole call."""
        own, again = self.last - self.first, self.slots + self.first
        into[self.first : self.last] = rows[:own]
        into[again : again + self.repeated] = rows[own:]


def shares(rows: int, guided: int, lanes: int) -> list[Share]:
    """``rows``, of which the last ``guided`` repeat the first ones, in ``lanes`` shares of about as many rows, or fewer where slots are fewer."""
    slots = rows - guided
    before = [min(slot, guided) + slot for slot in range(slots + 1)]  # rows of the slots before each
    cuts = [min(range(slots + 1), key=lambda slot: abs(before[slot] - rows * lane / lanes)) for lane in range(lanes + 1)]
    return [Share(first, last, slots, guided) for first, last in pairwise(cuts) if last > first]


class Lanes:
    """Threads with an equal part of torch's threads each."""

    def __init__(self, count: int) -> None:
        """Start ``count`` of them; the thread that calls keeps torch's threads as they are."""
        threads, ready = torch.get_num_threads(), threading.Barrier(count + 1)

        def begin() -> None:
            torch.get_num_threads()  # else the thread's first operation takes what another thread has set since
            torch.set_num_threads(max(threads // count, 1))
            ready.wait()

        self.count = count
        self._pool = ThreadPoolExecutor(count, "engine-lane")
        for _ in range(count):
            self._pool.submit(begin)
        ready.wait()
        torch.set_num_threads(threads)  # of each thread to come, too: torch gives them what was set last

    def map(self, call: Callable[[Share], torch.Tensor], each: Sequence[Share]) -> list[torch.Tensor]:
        """Call for each share in a lane, in the caller's inference mode. Raises what the first of them raised, once all have ended."""
        inference = torch.is_inference_mode_enabled()

        def run(share: Share) -> torch.Tensor:
            with torch.inference_mode(inference):
                return call(share)

        futures = [self._pool.submit(run, share) for share in each]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
