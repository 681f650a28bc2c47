"""Jobs that arrive without Redis: they go through the worker's own intake, painter and composition."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image

from api_schemas.errors import OutfillError
from api_schemas.jobs import InputRef, JobSpec, new_id, utc_now
from api_schemas.requests import Scheduler, job_request
from core.settings import Quality
from worker import intake
from worker.claims import Lease
from worker.engines.base import Engine, PaintRequest, Pixels, Prepared, Reading, Slot, WarmUp
from worker.engines.diffusion.engine import DiffusionEngine
from worker.images.subject import Segmenter
from worker.metrics import WorkerMetrics
from worker.paint import POOL, quiet_pool
from worker.painter import Ends, Painter
from worker.report import Examiner
from worker.rounds import Rounds
from worker.work import Work

SAMPLERS = (Scheduler.DPMPP_2M_KARRAS, Scheduler.EULER_A, Scheduler.UNIPC)
SHAPES = ((512, 512), (768, 384), (384, 768), (1024, 256))
"""Of what is edited, in 512ths of the photo's height: so the crops have different shapes."""
POLL_S = 0.02


@dataclass(frozen=True)
class Load:
    """Jobs, and the time in which they arrive."""

    jobs: int = 40
    seconds: float = 45.0
    photo: tuple[int, int] = (4000, 3000)
    steps: int = 50


@dataclass(eq=False)
class TimedEngine:
    """An engine whose calls are timed, those of its thread."""

    engine: DiffusionEngine
    steps: list[tuple[int, float]] = field(default_factory=list)
    """Slots and seconds of each step."""
    others_s: list[float] = field(default_factory=list)
    """Seconds of each ``start`` and ``finish``."""

    def __post_init__(self) -> None:
        self.card, self.dtype, self.calls = self.engine.card, self.engine.dtype, self.engine.calls
        self.reentrant = self.engine.reentrant
        self.max_rows, self.budget = self.engine.max_rows, self.engine.budget

    def clear(self) -> None:
        """Forget all times."""
        self.steps.clear()
        self.others_s.clear()

    def warm_up(self) -> WarmUp:
        """Not timed."""
        return self.engine.warm_up()

    def read(self, prompt: str, *, names_product: bool) -> Reading:
        """As the engine does."""
        return self.engine.read(prompt, names_product=names_product)

    def prepare(self, request: PaintRequest) -> Prepared:
        """Not timed: it is not the thread's."""
        return self.engine.prepare(request)

    def start(self, prepared: Sequence[Prepared]) -> list[Slot]:
        """Timed."""
        return cast("list[Slot]", self._timed(partial(self.engine.start, prepared), self.others_s.append))

    def step(self, slots: Sequence[Slot]) -> None:
        """Timed, with the number of slots."""
        self._timed(partial(self.engine.step, slots), lambda seconds: self.steps.append((len(slots), seconds)))

    def finish(self, slots: Sequence[Slot]) -> list[Pixels]:
        """Timed."""
        return cast("list[Pixels]", self._timed(partial(self.engine.finish, slots), self.others_s.append))

    def preview(self, slot: Slot) -> Pixels | None:
        """Not timed: no job asks for one."""
        return self.engine.preview(slot)

    def _timed(self, call: Callable[[], object], note: Callable[[float], object]) -> object:
        began = time.perf_counter()
        try:
            return call()
        finally:
            note(time.perf_counter() - began)


class Occupancy:
    """The time in which at least one job was somewhere. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs, self._since, self._seconds = 0, 0.0, 0.0

    def enter(self) -> None:
        """A job comes."""
        with self._lock:
            if self._jobs == 0:
                self._since = time.perf_counter()
            self._jobs += 1

    def leave(self) -> None:
        """A job goes."""
        with self._lock:
            self._jobs -= 1
            if self._jobs == 0:
                self._seconds += time.perf_counter() - self._since

    def seconds(self) -> float:
        """Until now."""
        with self._lock:
            return self._seconds + (time.perf_counter() - self._since if self._jobs else 0.0)


class Jobs:
    """Jobs on their way through intake, the painter and what composes; the pools are the worker's."""

    def __init__(self, engine: TimedEngine, model: str, load: Load) -> None:
        self._engine, self._model, self._load = engine, model, load
        self._inputs = [_inputs(load.photo, shape) for shape in SHAPES]
        self._examiner = Examiner(cast("Segmenter", None), Quality())  # what an inpainting is measured by needs none
        self._pools = {name: quiet_pool(name, POOL) for name in ("intake", "outputs")}
        ends = Ends(painted=self._painted, failed=self._failed, canceled=self._unwanted, given_back=self._unwanted)
        self.painter = Painter({model: cast("Engine", engine)}, ends, WorkerMetrics(), previewed=lambda _work, _pixels: None)
        self._changed = threading.Condition()
        self.done, self.failures = 0, list[str]()
        self.held, self.painting = Occupancy(), Occupancy()
        """From arrival to the end, and in the painter alone."""

    def arrive(self, number: int) -> None:
        """A job comes in."""
        self.held.enter()
        self._pools["intake"].submit(self._guarded, partial(self._prepare, number))

    def wait(self, until: Callable[[], bool], check: Callable[[], None]) -> None:
        """Until ``until`` holds; ``check`` is called again and again."""
        with self._changed:
            while not until():
                self._changed.wait(POLL_S)
                check()

    def close(self) -> None:
        """Wait for what is under way in the pools, and begin nothing more."""
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def _prepare(self, number: int) -> None:
        spec, inputs = self._spec(number), self._inputs[number % len(SHAPES)]
        plan = intake.prepare(spec, self._engine.card, inputs.__getitem__, cast("Segmenter", None), max_pixels=10**8)
        member = SimpleNamespace(composite_key=spec.id)
        work = Work(Lease(spec, 1, cast("Any", None), cast("Any", member)))
        work.rounds = Rounds(spec, plan, self._examiner)
        self._paint(work)

    def _paint(self, work: Work) -> None:
        work.prepared = tuple(map(self._engine.prepare, work.requests))
        self.painting.enter()
        self.painter.inbox.put(work)

    def _spec(self, number: int) -> JobSpec:
        reference = InputRef(key="k", format="jpeg", width=self._load.photo[0], height=self._load.photo[1], bytes=1, sha256="0")
        request = {
            "operation": "inpaint",
            "image": "image",
            "mask": "mask",
            "prompt": f"a red sofa, number {number}",
            "negative_prompt": "people",
            "model": self._model,
            "seed": number,
            "steps": self._load.steps,
            "guidance_scale": 7.5,
            "strength": 1.0,
            "scheduler": SAMPLERS[number % len(SAMPLERS)],
            "output": {"format": "jpeg"},
        }
        return JobSpec(
            id=new_id("job"),
            tenant="facts",
            model=self._model,
            model_revision="1",
            request=job_request.validate_python(request),
            inputs={"image": reference, "mask": reference},
            created_at=utc_now(),
        )

    def _painted(self, work: Work) -> None:
        self.painting.leave()
        self._pools["outputs"].submit(self._guarded, partial(self._compose, work))

    def _compose(self, work: Work) -> None:
        if work.rounds is None:
            raise ValueError("a job is planned before it is composed")
        work.rounds.take(work.take_painted())
        if work.requests:
            self._paint(work)
        else:
            self._end()

    def _failed(self, _work: Work, error: OutfillError) -> None:
        self.painting.leave()
        self.failures.append(f"{error.code}: {error}")
        self._end()

    def _unwanted(self, work: Work) -> None:
        raise ValueError(f"{work.key} was taken from the painter, and nobody asked for that")

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Exception as error:
            self.failures.append(repr(error))
            self._end()

    def _end(self) -> None:
        self.held.leave()
        with self._changed:
            self.done += 1
            self._changed.notify_all()


def _inputs(photo: tuple[int, int], shape: tuple[int, int]) -> dict[str, bytes]:
    """A photo of large soft blots, and a mask of ``shape`` in its middle."""
    width, height = photo
    coarse = np.random.default_rng(0).integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(photo, Image.Resampling.BICUBIC)
    mask = np.zeros((height, width), np.uint8)
    across, down = (side * height // 1536 for side in shape)
    mask[(height - down) // 2 : (height + down) // 2, (width - across) // 2 : (width + across) // 2] = 255
    image, drawn = io.BytesIO(), io.BytesIO()
    picture.save(image, "JPEG", quality=92)
    Image.fromarray(mask).save(drawn, "PNG")
    return {"image": image.getvalue(), "mask": drawn.getvalue()}
