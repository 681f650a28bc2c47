"""Callers that post cheap jobs of several kinds, and again under the same idempotency key until each is accepted."""

from __future__ import annotations

import io
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np
from PIL import Image
from ulid import ULID

from .points import POISON

_SIZE = (64, 96)
_THREADS = 4
_GIVE_UP_S = 600.0
_TERMINAL = ["job.succeeded", "job.failed", "job.canceled", "job.expired"]


@dataclass(frozen=True)
class Asked:
    """A job that got its 202."""

    id: str
    kind: str
    hears_of_starts: bool
    """Whether its webhooks tell of each start too."""


class Caller:
    """One tenant."""

    def __init__(self, url: str, key: str, webhook_url: str, seed: int) -> None:
        self.accepted: list[Asked] = []
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=90)
        self._webhook_url, self._random = webhook_url, random.Random(seed)
        self._pool = ThreadPoolExecutor(_THREADS, "caller")

    def close(self) -> None:
        """Post no more."""
        self._pool.shutdown()
        self._http.close()

    def post(self, count: int, *, kind: str | None = None) -> list[Asked]:
        """Post jobs, several at a time; returns when all are accepted."""
        kinds = [kind or self._random.choices(("erase", "cutout", "colour"), (5, 2, 3))[0] for _ in range(count)]
        asked = list(self._pool.map(self._post, kinds, [self._random.randrange(2**32) for _ in kinds]))
        self.accepted += asked
        return asked

    def status(self, job: Asked) -> str:
        """What the API says of a job; ``unknown`` while it does not answer."""
        try:
            answer = self._http.get(f"/v1/jobs/{job.id}")
        except httpx.HTTPError:
            return "unknown"
        return str(answer.json()["status"]) if answer.status_code == 200 else "unknown"

    def _post(self, kind: str, seed: int) -> Asked:
        request, files = _request(kind, seed)
        hears_of_starts = seed % 3 == 0
        events = [*_TERMINAL, *(["job.started"] if hears_of_starts else [])]
        body = json.dumps(request | {"webhook": {"url": self._webhook_url, "events": events}})
        headers, deadline = {"Idempotency-Key": str(ULID())}, time.monotonic() + _GIVE_UP_S
        while True:
            try:
                answer = self._http.post("/v1/jobs", data={"request": body}, files=files, headers=headers)
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code == 202:
                return Asked(answer.json()["id"], kind, hears_of_starts)
            if answer is not None and answer.status_code not in (409, 503):
                raise AssertionError(f"a {kind} job was refused: {answer.status_code} {answer.text}")
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"a {kind} job was not accepted in {_GIVE_UP_S} s: {answer.text if answer is not None else 'no answer'}"
                )
            time.sleep(0.5)


def _request(kind: str, seed: int) -> tuple[dict[str, object], dict[str, bytes]]:
    """A request and its files: a bright disc before noise."""
    chance = np.random.default_rng(seed)
    pixels = chance.integers(0, 90, (*_SIZE, 3), dtype=np.uint8)
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    disc = np.hypot(y - _SIZE[0] / 2, x - _SIZE[1] / 2) < 16
    pixels[disc] = 230
    photo, mask = _png(pixels), _png(np.where(disc, 255, 0).astype(np.uint8))
    match kind:
        case "erase":
            return {"operation": "erase", "image": "file:photo", "mask": "file:mask"}, {"photo": photo, "mask": mask}
        case "cutout":
            return {"operation": "remove_background", "image": "file:photo"}, {"photo": photo}
        case "colour":
            background = _png(np.where(disc, 0, 255).astype(np.uint8))
            request: dict[str, object] = {
                "operation": "replace_background",
                "image": "file:photo",
                "mask": "file:mask",
                "background": {"color": "#fafafa"},
            }
            return request, {"photo": photo, "mask": background}
        case _:
            request = {"operation": "erase", "image": "file:photo", "mask": "file:mask", "metadata": {POISON: True}}
            return request, {"photo": photo, "mask": mask}


def _png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
