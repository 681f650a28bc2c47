"""Memory for pictures: jobs of a worker share it, and one that does not fit waits until others have left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from api_schemas.jobs import JobSpec
from api_schemas.sizes import output_size, painted_size

T = TypeVar("T", bound=Hashable)

BYTES_PER_PIXEL = 80
"""Of the largest picture of a job, from its decoding to its file: 77 were measured for an extension, 30 for a product on white."""
BYTES_PER_PIXEL_OF_ANOTHER = 12
"""Of each further picture that a job asks for."""


def memory_of(spec: JobSpec) -> int:
    """Bytes that a job takes while a worker holds it."""
    sizes = [(ref.width, ref.height) for ref in spec.inputs.values()] or [(1, 1)]
    image = spec.inputs.get("image")
    size = (image.width, image.height) if image is not None else sizes[0]
    pixels = max(width * height for width, height in (*sizes, painted_size(spec.request, size), output_size(spec.request.output, size)))
    others: int = (getattr(spec.request, "num_images", None) or 1) - 1
    return pixels * (BYTES_PER_PIXEL + BYTES_PER_PIXEL_OF_ANOTHER * others)


class PictureMemory(Generic[T]):
    """So many bytes for the pictures of all jobs. A job that needs more than all of them has them to itself. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0
        self._entered: dict[T, int] = {}
        self._waiting: dict[T, int] = {}
        self._lock = threading.Lock()

    def enter(self, job: T, need: int) -> list[T]:
        """Who may begin now: this job, or none, as it has to wait behind those that came before."""
        with self._lock:
            self._waiting[job] = min(need, self._most)
            return self._let_in()

    def leave(self, job: T) -> list[T]:
        """Who may begin now that this job is over."""
        with self._lock:
            self._taken -= self._entered.pop(job, 0)
            self._waiting.pop(job, None)
            return self._let_in()

    def give_up(self, is_over: Callable[[T], bool]) -> list[T]:
        """Who waits and has nothing to wait for any more; they wait no longer."""
        with self._lock:
            found = [job for job in self._waiting if is_over(job)]
            for job in found:
                del self._waiting[job]
            return found

    def _let_in(self) -> list[T]:
        found: list[T] = []
        while self._waiting:
            job, need = next(iter(self._waiting.items()))
            if self._taken + need > self._most:
                break
            del self._waiting[job]
            self._entered[job], self._taken = need, self._taken + need
            found.append(job)
        return found
