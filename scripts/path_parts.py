"""Seconds of CPU that each part of a job takes, in this process: the second table of ``make bench-path``."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, cast
from unittest import mock

import numpy as np
from PIL import Image

from api_schemas.jobs import InputRef, JobSpec, new_id, utc_now
from api_schemas.models import BACKDROP, EXEMPLAR, ModelCard
from api_schemas.requests import job_request
from core.settings import Settings
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import Backdrop, PaintRequest, Pixels, Sampling, begin
from worker.engines.cards import read_card
from worker.engines.exemplar import ExemplarEngine
from worker.engines.weights import EMBEDDED
from worker.images import codec
from worker.images.network import Network
from worker.images.subject import Segmenter
from worker.intake import prepare
from worker.outputs import encode_output
from worker.report import Examiner
from worker.rounds import Rounds

SEGMENTER = ("network", "find the product")
COLOUR = {"operation": "replace_background", "image": "file:image", "background": {"color": "#ffffff"}, "shadow": {}}
INPAINT = {"operation": "inpaint", "image": "file:image", "mask": "file:mask", "prompt": "teal wall", "model": "studio"}
ERASE = {"operation": "erase", "image": "file:image", "mask": "file:mask"}
"""Of a spot: next to nothing is painted, and no segmenter is asked."""
_STRENGTH = {"seed": 1, "steps": 20, "guidance_scale": 7.5, "strength": 1.0, "scheduler": "ddim"}
_ROUNDS = 3


class CpuClock:
    """Seconds of CPU of this process by part: a part within another is taken from it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._within: list[str] = []
        self._since = time.process_time()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done meanwhile."""
        self._charge()
        self._within.append(name)
        try:
            yield
        finally:
            self._charge()
            self._within.pop()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, counted as a part."""

        def counted(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return call(*arguments, **options)

        return counted

    def _charge(self) -> None:
        now = time.process_time()
        if self._within:
            self.seconds[self._within[-1]] += now - self._since  # type: ignore[assignment]  # a Counter may hold floats
        self._since = now


@dataclass(frozen=True)
class Sample:
    """A job, its files and its model."""

    request: Mapping[str, Any]
    card: ModelCard
    blobs: Mapping[str, bytes]
    megapixels: float

    @property
    def others(self) -> tuple[str, ...]:
        """Parts that are the segmenter's or a model's."""
        return SEGMENTER if self.card is BACKDROP else (*SEGMENTER, "paint")


def sample(request: Mapping[str, Any], width: int, height: int) -> Sample:
    """A job of the coffee cup at a size, as a JPEG; a mask marks a ninth of it."""
    with Image.open(io.BytesIO((files("skimage.data") / "coffee.png").read_bytes())) as image:
        photo = image.convert("RGB").crop((100, 0, 500, 400)).resize((width, height), Image.Resampling.LANCZOS)
    marked = np.zeros((height, width), np.uint8)
    down, across = (24, 24) if request is ERASE else (height // 3, width // 3)
    marked[height // 3 : height // 3 + down, width // 3 : width // 3 + across] = 255
    blobs = {"image": _file(photo, "JPEG", quality=92)} | ({"mask": _file(Image.fromarray(marked), "PNG")} if "mask" in request else {})
    cards = {"replace_background": BACKDROP, "erase": EXEMPLAR, "inpaint": read_card(EMBEDDED / "studio", "studio")}
    return Sample(request, cards[request["operation"]], blobs, width * height / 1e6)


def parts_of(given: Sample, settings: Settings) -> dict[str, float]:
    """Seconds of CPU of each part of a job, the least of some; what is not told is ``plan`` before painting and ``compose`` after it."""
    found = [parts_once(given, settings) for _ in range(_ROUNDS + 1)][1:]
    return {name: min(seconds[name] for seconds in found) for name in found[0]}


def parts_once(given: Sample, settings: Settings) -> dict[str, float]:
    """Seconds of CPU of each part of one job."""
    clock, spec = CpuClock(), spec_of(given)
    network = Network(settings.models.store / "u2netp.onnx")
    decoder = mock.Mock(spec=codec)
    for name in ("decode", "decode_mask", "decode_product_mask"):
        setattr(decoder, name, clock.timed("decode", getattr(codec, name)))
    with (
        mock.patch.object(network, "answer", clock.timed("network", network.answer)),
        mock.patch.object(Segmenter, "find", clock.timed("find the product", Segmenter.find)),
        mock.patch.object(Examiner, "report", clock.timed("measure", Examiner.report)),
        mock.patch("worker.rounds.encode_output", clock.timed("encode", encode_output)),
    ):
        segmenter = Segmenter(network)
        with clock.part("plan"):
            plan = prepare(spec, given.card, given.blobs.__getitem__, segmenter, max_pixels=10**8, decoder=cast("Any", decoder))
            planned = Rounds(spec, plan, Examiner(segmenter, settings.quality))
        while planned.requests:
            with clock.part("paint"):
                painted = _paint(planned.requests)
            with clock.part("compose"):
                planned.take(painted)
    if not planned.rendered:
        raise RuntimeError("nothing was made")
    return dict(clock.seconds)


def _paint(requests: tuple[PaintRequest, ...]) -> list[Pixels]:
    """Backdrops and spots as ever; a model's pictures are a wall of one colour with grain."""
    if not any(isinstance(request.recipe, Sampling) for request in requests):
        engine = BackdropEngine() if isinstance(requests[0].recipe, Backdrop) else ExemplarEngine()
        slots = begin(engine, requests)
        engine.step(slots)
        return engine.finish(slots)
    random = np.random.default_rng(1)
    painted = [random.integers(90, 110, request.image.shape, np.uint8) for request in requests]
    return [np.where(request.mask[..., None] > 0, fill, request.image) for request, fill in zip(requests, painted, strict=True)]


def spec_of(given: Sample) -> JobSpec:
    """The job as a worker would get it."""
    reference = partial(InputRef, key="k", width=1, height=1, bytes=1, sha256="0")
    extra = _STRENGTH if given.request is INPAINT else {}
    return JobSpec(
        id=new_id("job"),
        tenant="bench",
        model=given.card.id,
        model_revision="1",
        request=job_request.validate_python({**given.request, **extra}),
        inputs={name: reference(format="jpeg" if name == "image" else "png") for name in given.blobs},
        created_at=utc_now(),
    )


def _file(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
