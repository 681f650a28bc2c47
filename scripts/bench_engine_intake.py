"""What the engine's step costs while intake and output work goes on beside it, as a ratio to a step alone.

    python -m scripts.bench_engine_intake

A tiny UNet is stepped on two torch threads, in turns alone and beside as many pool threads as a worker has, which decode, plan, compose and
encode a photo of 1500×1000 pixels without a pause. The turns are short, each is compared with the one before it, and the median of the
rounds counts: so what else the machine does weighs on both alike.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from api_schemas.jobs import InputRef, JobSpec, new_id, utc_now
from api_schemas.models import BACKDROP, EXEMPLAR, U2NETP, ModelCard
from api_schemas.requests import Scheduler, job_request
from core.settings import Quality, Settings
from scripts.tiny_pipeline import build
from worker.engines.base import Engine, PaintRequest, Sampling, begin
from worker.engines.registry import build_engine, discover
from worker.images.subject import Segmenter
from worker.intake import prepare
from worker.paint import POOL, quiet_pool
from worker.report import Examiner
from worker.rounds import Rounds

THREADS = 2 * POOL
SIDE, ROWS = 256, 4
ROUNDS, STEPS = 10, 10
PHOTO = (1500, 1000)
LIMIT = 1.10
REQUESTS: tuple[tuple[ModelCard, dict[str, Any]], ...] = (
    (EXEMPLAR, {"operation": "erase", "mask": "mask", "seed": 1}),
    (EXEMPLAR, {"operation": "erase", "mask": "mask", "seed": 1, "output": {"format": "jpeg", "layers": True}}),
    (BACKDROP, {"operation": "replace_background", "background": {"color": "#ffffff"}, "shadow": {}, "output": {"format": "webp"}}),
    (U2NETP, {"operation": "remove_background"}),
)


def measure() -> float:
    """How many times as long a step takes beside the work as alone; 1 is undisturbed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder))
            card = discover({"tiny": Path(folder)})[0]
            step = _stepper(build_engine(card, path=Path(folder)))
            with _Work() as work:
                return statistics.median(_rounds(step, work))
    finally:
        torch.set_num_threads(threads)


def _stepper(engine: Engine) -> Callable[[], None]:
    """Steps a batch of guided slots, for ever: slots at their end are replaced by what they began as."""
    recipe = Sampling("a", "", steps=150, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DDIM)
    picture, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE), 255, np.uint8)
    slots = begin(engine, (PaintRequest(picture, mask, seed, recipe) for seed in range(ROWS)))

    def step() -> None:
        if slots[0].done:
            for slot in slots:
                slot.position = 0
        engine.step(slots)

    return step


def _rounds(step: Callable[[], None], work: _Work) -> Iterator[float]:
    """For each round the median of its steps beside the work over that of its steps alone."""
    for _ in range(ROUNDS):
        step()  # warm: caches are full of the work's pixels
        alone = _median_s(step)
        work.go()
        yield _median_s(step) / alone
        work.pause()


def _median_s(step: Callable[[], None]) -> float:
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


class _Work:
    """Pool threads that work between ``go`` and ``pause``. Begins paused."""

    def __init__(self) -> None:
        self._segmenter = Segmenter(Settings().models.store / "u2netp.onnx")
        self._inputs = _inputs()
        self._changed = threading.Condition()
        self._going = self._ended = False
        self._parked = 0

    def __enter__(self) -> Self:
        self._pool = quiet_pool("bench", THREADS)
        self._loops = [self._pool.submit(self._loop, number) for number in range(THREADS)]
        self.pause()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self.go()
        self._pool.shutdown()
        for loop in self._loops:
            loop.result()

    def go(self) -> None:
        """Work."""
        with self._changed:
            self._going = True
            self._changed.notify_all()

    def pause(self) -> None:
        """Stop working; return when all threads have."""
        with self._changed:
            self._going = False
            self._changed.wait_for(lambda: self._parked == THREADS)

    def _loop(self, number: int) -> None:
        turn = number % len(REQUESTS)
        for card, request in cycle(REQUESTS[turn:] + REQUESTS[:turn]):
            for _ in _job(card, request, self._inputs, self._segmenter):
                self._park()
                if self._ended:
                    return

    def _park(self) -> None:
        with self._changed:
            self._parked += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._going)
            self._parked -= 1


def _job(card: ModelCard, request: dict[str, Any], inputs: dict[str, bytes], segmenter: Segmenter) -> Iterator[None]:
    """One job in three parts."""
    yield
    ref = InputRef(key="k", format="jpeg", width=PHOTO[0], height=PHOTO[1], bytes=1, sha256="0")
    spec = JobSpec(
        id=new_id("job"),
        tenant="bench",
        model=card.id,
        model_revision="1",
        request=job_request.validate_python({"image": "image", **request}),
        inputs=dict.fromkeys(inputs, ref),
        created_at=utc_now(),
    )
    plan = prepare(spec, card, inputs.__getitem__, segmenter, max_pixels=10**8)
    yield
    rounds = Rounds(spec, plan, Examiner(segmenter, Quality()))
    rounds.take([each.image for each in rounds.requests])
    yield


def _inputs() -> dict[str, bytes]:
    """A photo of a product on a table, and a mask of a tenth of it."""
    with Image.open(BytesIO((files("skimage.data") / "coffee.png").read_bytes())) as photo:
        picture = photo.convert("RGB").resize(PHOTO, Image.Resampling.BICUBIC)
    mask = np.zeros(PHOTO[::-1], np.uint8)
    mask[300:700, 400:800] = 255
    image, drawn = BytesIO(), BytesIO()
    picture.save(image, "JPEG", quality=92)
    Image.fromarray(mask).save(drawn, "PNG")
    return {"image": image.getvalue(), "mask": drawn.getvalue()}


if __name__ == "__main__":
    ratio = measure()
    print(f"A step beside {THREADS} busy pool threads takes {ratio:.3f} times one alone (limit {LIMIT:.2f}).")
    sys.exit(ratio > LIMIT)
