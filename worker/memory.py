"""Memory for pictures: jobs of a worker share it, and one that does not fit waits until others have left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from api_schemas.jobs import JobSpec
from api_schemas.requests import JobRequest, OutpaintRequest
from api_schemas.sizes import output_size, painted_size

T = TypeVar("T", bound=Hashable)

EXTENDED, FOUND, MASKED = 80, 64, 40
"""Bytes for each pixel of the largest picture of a job, from its decoding to its file, where it is extended, where its product is found, and where a mask says
all. 77, 66, and 32 were measured, of 6 megapixels.
"""
BYTES_PER_PIXEL_OF_ANOTHER = 12
"""Of each further picture that a job asks for."""
PATIENCE_S = 30.0


def memory_of(spec: JobSpec) -> int:
    """Bytes that a job takes while a worker holds it."""
    sizes = [(ref.width, ref.height) for ref in spec.inputs.values()] or [(1, 1)]
    image = spec.inputs.get("image")
    size = (image.width, image.height) if image is not None else sizes[0]
    pixels = max(width * height for width, height in (*sizes, painted_size(spec.request, size), output_size(spec.request.output, size)))
    others: int = (getattr(spec.request, "num_images", None) or 1) - 1
    return pixels * (_bytes_per_pixel(spec.request) + BYTES_PER_PIXEL_OF_ANOTHER * others)


def _bytes_per_pixel(request: JobRequest) -> int:
    if isinstance(request, OutpaintRequest):
        return EXTENDED
    masks = (getattr(request, name, None) for name in ("mask", "product_mask"))
    return MASKED if any(mask is not None for mask in masks) else FOUND


class PictureMemory(Generic[T]):
    """So many bytes for the pictures of all jobs. A job that needs more than all of them has them to itself. Thread-safe.

    An eighth is for small jobs of tenants that have none, and those of tenants that have none go first. A job that does not fit waits, and its tenant's next
    behind it; other tenants' pass it meanwhile: after ``patience_s`` only those that have none inside either.
    """

    def __init__(self, most: int, *, patience_s: float = PATIENCE_S) -> None:
        self._most, self._taken, self._patience_s = most, 0, patience_s
        self._entered: dict[T, _Wish] = {}
        self._waiting: dict[T, _Wish] = {}
        self._turns, self._last_turn = 0, dict[str, int]()
        self._lock = threading.Lock()

    def enter(self, job: T, tenant: str, need: int) -> list[T]:
        """Who may begin now: this job, or none, as it has to wait."""
        with self._lock:
            self._waiting[job] = _Wish(tenant, min(need, self._most), time.monotonic())
            return self._let_in()

    def leave(self, job: T) -> list[T]:
        """Who may begin now that this job is over."""
        with self._lock:
            if (left := self._entered.pop(job, None)) is not None:
                self._taken -= left.need
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
        """Those of tenants that have none inside go first, and then those whose last turn is longest ago."""
        found: list[T] = []
        while (job := self._next()) is not None:
            wish = self._waiting.pop(job)
            self._entered[job], self._taken = wish, self._taken + wish.need
            self._turns += 1
            self._last_turn[wish.tenant] = self._turns
            found.append(job)
        return found

    def _next(self) -> T | None:
        inside = {wish.tenant for wish in self._entered.values()}
        behind: set[str] = set()
        for job, wish in sorted(self._waiting.items(), key=lambda each: self._rank(each[1].tenant, inside)):
            if wish.tenant in behind:
                continue
            spare = self._most // 8 if wish.tenant in inside or wish.need > self._most // 8 else 0
            if self._taken + wish.need <= self._most - spare or not self._taken:
                return job
            behind.add(wish.tenant)
            if wish.tenant not in inside and time.monotonic() - wish.since > self._patience_s:
                behind |= inside  # they have had their turn, and leave
        return None

    def _rank(self, tenant: str, inside: set[str]) -> tuple[bool, int]:
        return tenant in inside, self._last_turn.get(tenant, 0)


@dataclass(frozen=True)
class _Wish:
    tenant: str
    need: int
    since: float
