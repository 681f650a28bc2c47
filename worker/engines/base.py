"""One call shape for all engines.

    prepared = engine.prepare(request)      # the host's work: any thread does it
    slot, = engine.start([prepared, ...])   # encode texts and images, all in a few model calls
    while not slot.done:
        engine.step([slot, ...])            # advance each slot by one step, in one model call
    pixels, = engine.finish([slot, ...])    # decode

The scheduler decides which slots step together; an engine never sees the queue. An engine without steps is done after one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from api_schemas.models import ModelCard
from api_schemas.requests import Background, Scheduler, Shadow

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]


class OutOfMemory(Exception):
    """The device had no room; the slots are as they were."""


class DeviceBroken(BaseException):
    """The device answers no call of this process any more. No ``Exception``: it is no job's failure, and the process must end."""


@dataclass(frozen=True)
class Sampling:
    """How a diffusion model paints. All values are resolved: no ``None`` is left to a default."""

    prompt: str
    negative_prompt: str
    steps: int
    guidance_scale: float
    strength: float
    scheduler: Scheduler
    loras: tuple[tuple[str, float], ...] = ()
    """Names and weights of the adapters that are added to the model."""


@dataclass(frozen=True)
class Backdrop:
    """What the backdrop engine puts behind the product."""

    background: Background
    shadow: Shadow | None
    picture: Pixels | None = None
    """The decoded background picture, any size, where ``background`` names one."""


@dataclass(frozen=True, eq=False)
class PaintRequest:
    """One picture to paint, already cropped and scaled for the model.

    ``image`` is ``uint8 (H, W, 3)`` RGB; ``mask`` is ``uint8 (H, W)``, 255 = paint, 0 = keep, and may be soft. The engine answers
    with pixels of the same size; what it returns where ``mask`` is 0 is not used.
    """

    image: Pixels
    mask: Mask
    seed: int
    recipe: Sampling | Backdrop | None = None
    """What this engine needs besides pixels; ``None`` for engines that need nothing."""
    things: Mask | None = None
    """``uint8 (H, W)``, above 0 on what must not be shown a second time, 255 on the product; ``None`` where nothing is known of such things."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture that is ready for its engine. Engines subclass it to hold what they made of the request, on the host."""

    request: PaintRequest


@dataclass(eq=False)
class Slot:
    """One picture being painted. Engines subclass it to hold their own state."""

    request: PaintRequest
    steps: int
    """Denoising steps that this slot will run (at least 1)."""
    batch_key: Hashable = ()
    """Slots with equal keys may share one model call (same model, adapters and latent shape)."""
    cost: float = 1.0
    """What one step of it takes of the engine's budget: more for a larger picture, and for guidance, which doubles the rows."""
    position: int = 0
    """Steps already run."""
    error: Exception | None = field(default=None)
    """Set by the engine when this row alone failed; the slot is then done."""

    @property
    def done(self) -> bool:
        """Whether no step is left to run."""
        return self.error is not None or self.position >= self.steps


@dataclass(frozen=True)
class Reading:
    """The parts of a prompt that a model does not read."""

    unknown: tuple[str, ...] = ()
    """Words that mean nothing to it."""
    unheard: tuple[str, ...] = ()
    """Phrases that ask for something, and of which it knows nothing."""
    unread: str | None = None
    """The end of the prompt, beyond what it reads at all."""


@dataclass(frozen=True)
class WarmUp:
    """The findings of a warm-up."""

    kernels: tuple[str, ...] = ()
    """The attention kernels that really ran, as the profiler names them."""
    kernels_by_shape: Mapping[str, str] = field(default_factory=dict)
    """The attention kernel that was measured as the fastest, by queries × keys × width; empty where none was measured."""
    compiled: bool = False
    """Whether calls at the native size run compiled."""
    compile_failure: str | None = None
    """The reason why a compilation failed."""
    row_s: float | None = None
    """Seconds for a row of native size in a call of ``Engine.budget``; ``None`` where none was measured."""


class Engine(Protocol):
    """A resident model. Called from one thread only, but for ``read`` and ``prepare``, and where it is ``reentrant``.

    ``start``, ``step`` and ``finish`` raise ``OutOfMemory`` where the device has no room; the same call with less may then succeed.
    """

    card: ModelCard
    reentrant: bool
    """Whether threads may call it at once, each with slots of its own: it has no device, and its steps share nothing. Its ``step`` looks at
    ``worker.images.checkpoint`` where it takes long.
    """
    dtype: str | None
    """The precision that the model computes in; ``None`` where that is no choice."""
    max_rows: int
    """Slots at native size that one ``step`` takes well: how many jobs are worth holding."""
    budget: float
    """The sum of costs that one ``step`` may take, as measured. A single slot above it may be stepped alone."""

    @property
    def calls(self) -> Counter[str]:
        """Model calls so far by mode: ``compiled`` or ``eager``. Read by other threads."""
        ...

    def warm_up(self) -> WarmUp:
        """Run once before the first job, in the thread of all calls after it: compile, and measure ``budget`` and ``max_rows``.

        Raises ``OutOfMemory`` where the device has no room for one picture.
        """
        ...

    def read(self, prompt: str, *, names_product: bool) -> Reading:
        """Tell what it does not read of ``prompt``, which may name what is in the picture already. Called from any thread.

        Malformed weights are text: the job was accepted.
        """
        ...

    def prepare(self, request: PaintRequest) -> Prepared:
        """Do all that needs no device: read the prompt, make tensors, draw noise. Called from any thread. Raises on a request that it cannot paint."""
        ...

    def start(self, prepared: Sequence[Prepared]) -> list[Slot]:
        """Encode texts and images of all, in few model calls; a slot for each. Where it raises, no slot was made."""
        ...

    def step(self, slots: Sequence[Slot]) -> None:
        """Advance every slot by one step, in one model call. All have the same ``batch_key``; a failing row sets ``slot.error``."""
        ...

    def finish(self, slots: Sequence[Slot]) -> list[Pixels]:
        """Decode slots that are done and have no error: ``uint8 (H, W, 3)`` each, at the size of its request.

        A row that cannot be decoded gets ``slot.error`` and pixels without meaning.
        """
        ...

    def preview(self, slot: Slot) -> Pixels | None:
        """A small picture of what ``slot`` looks like so far, ``uint8 (h, w, 3)``, at little cost; ``None`` where there is none."""
        ...


def begin(engine: Engine, requests: Iterable[PaintRequest]) -> list[Slot]:
    """Prepare and start ``requests`` in this thread; a slot for each."""
    return engine.start([engine.prepare(request) for request in requests])
