"""The fastest attention kernel for each shape that a UNet has, found by measuring them.

None is the fastest everywhere: torch itself prefers cuDNN on Hopper and flash attention elsewhere, and short or narrow calls differ again.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from worker.engines.diffusion.kernels import only, preferring

CANDIDATES = ("flash", "cudnn", "efficient")
ROUNDS = 3
"""Of all candidates in turn; the shortest time of each counts."""
CALLS = 10
"""Timed together."""
LEAST_SAVING = 0.05
"""The share of its time that a kernel of its own must save a shape: to switch costs some 20 µs of each layer's call."""
Timer = Callable[[Callable[[], object]], float]
"""Runs a call often enough and returns its seconds."""


@dataclass(frozen=True)
class AttentionShape:
    """The sizes of one attention: ``q (rows, heads, queries, width)``; ``k`` and ``v`` have ``keys`` in place of ``queries``."""

    rows: int
    heads: int
    queries: int
    keys: int
    width: int


@dataclass(frozen=True)
class FastestAttention:
    """The order in which a UNet prefers kernels, and the shapes for which another one is faster than the first."""

    order: tuple[str, ...] = ()
    """By the time that they take over a whole call, the fastest first; empty: torch's own order."""
    by_shape: Mapping[tuple[int, int, int], str] = field(default_factory=dict)
    """The kernel of every measured shape, by queries, keys and width."""
    _unmeasured: dict[tuple[int, int, int], str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def has_exceptions(self) -> bool:
        """Whether a shape has a kernel of its own."""
        return any(kernel != self.order[0] for kernel in self.by_shape.values())

    def context(self) -> AbstractContextManager[None]:
        """Return the context for a call of the UNet."""
        return preferring(self.order) if self.order else nullcontext()

    def exception(self, queries: int, keys: int, width: int) -> AbstractContextManager[None] | None:
        """Return the context for a layer whose shape has a kernel of its own, or is nearest to one that has; else ``None``.

        ``keys`` and ``width`` tell the kind of layer: pictures of other sizes differ in ``queries``.
        """
        asked = (queries, keys, width)
        measured = self.by_shape.get(asked)
        if measured is not None:
            return None if measured == self.order[0] else only(measured)
        if asked not in self._unmeasured:
            self._unmeasured[asked] = self._nearest(*asked)
        kernel = self._unmeasured[asked]  # which may not take this very shape
        return None if kernel == self.order[0] else preferring((kernel, *self.order))

    def _nearest(self, queries: int, keys: int, width: int) -> str:
        alike = [shape for shape in self.by_shape if shape[2] == width and (shape[0] == shape[1]) == (queries == keys)]
        if not alike:
            return self.order[0]
        return self.by_shape[min(alike, key=lambda shape: abs(math.log(shape[0] / queries)))]


class FastestAttnProcessor(AttnProcessor2_0):  # type: ignore[misc]  # it has no types
    """The stock processor, which switches kernels for the shapes that have one of their own."""

    def __init__(self, fastest: FastestAttention) -> None:
        super().__init__()
        self._fastest = fastest

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, *others: Any, **options: Any
    ) -> Any:
        """Attend, as every attention processor of diffusers does: ``(N, tokens, channels)`` to the same."""
        queries = hidden_states.shape[1]
        keys = queries if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        exception = self._fastest.exception(queries, keys, attn.inner_dim // attn.heads)
        if exception is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, *others, **options)
        with exception:
            return super().__call__(attn, hidden_states, encoder_hidden_states, *others, **options)


def measure_attention(
    call: Callable[[], object],
    *,
    device: torch.device,
    dtype: torch.dtype,
    timer: Timer | None = None,
    candidates: Sequence[str] = CANDIDATES,
) -> FastestAttention:
    """Time ``candidates`` on every shape of attention that ``call`` has, with random numbers in ``dtype`` on ``device``.

    A kernel that cannot compute a shape is left out for it. Where none can compute any, torch's own order stays.
    """
    shapes = attention_shapes(call)
    times = {shape: _times(shape, device, dtype, timer or timer_for(device), candidates) for shape in shapes}
    times = {shape: by_kernel for shape, by_kernel in times.items() if by_kernel}
    known = {kernel for by_kernel in times.values() for kernel in by_kernel}

    def total(kernel: str) -> tuple[int, float]:
        missing = sum(kernel not in by_kernel for by_kernel in times.values())
        return missing, sum(shapes[shape] * by_kernel.get(kernel, 0.0) for shape, by_kernel in times.items())

    order = tuple(sorted(known, key=total))
    by_shape = {(shape.queries, shape.keys, shape.width): _fastest(by_kernel, order[0]) for shape, by_kernel in times.items()}
    return FastestAttention(order, by_shape)


def attention_shapes(call: Callable[[], object]) -> Counter[AttentionShape]:
    """Run ``call`` and count the shapes that it gives to torch's attention."""
    recorder = _Recorder()
    with recorder:
        call()
    return recorder.shapes


def timer_for(device: torch.device) -> Timer:
    """Return the timer of a device: events on CUDA, whose calls return before they are done."""
    return _cuda_seconds if device.type == "cuda" else _cpu_seconds


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[AttentionShape] = Counter()

    def __torch_function__(self, function: Any, _types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is scaled_dot_product_attention:
            (rows, heads, queries, width), keys = arguments[0].shape, arguments[1].shape[2]
            self.shapes[AttentionShape(rows, heads, queries, keys, width)] += 1
        return function(*arguments, **(options or {}))


def _times(shape: AttentionShape, device: torch.device, dtype: torch.dtype, timer: Timer, candidates: Sequence[str]) -> dict[str, float]:
    def draw(tokens: int) -> torch.Tensor:  # laid out as a projection's result is
        return torch.randn(shape.rows, tokens, shape.heads, shape.width, device=device, dtype=dtype).transpose(1, 2)

    query, key, value = draw(shape.queries), draw(shape.keys), draw(shape.keys)

    def seconds(kernel: str) -> float:
        with only(kernel):
            return timer(lambda: scaled_dot_product_attention(query, key, value))

    able = [kernel for kernel in candidates if _is_able(seconds, kernel)]
    rounds = [{kernel: seconds(kernel) for kernel in able} for _ in range(ROUNDS)]
    return {kernel: min(each[kernel] for each in rounds) for kernel in able}


def _is_able(seconds: Callable[[str], float], kernel: str) -> bool:
    """Try a kernel; the first call also builds its plans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of each reason why a kernel takes no such shape
        try:
            seconds(kernel)
        except torch.AcceleratorError:  # the device is broken
            raise
        except RuntimeError:
            return False
    return True


def _fastest(by_kernel: Mapping[str, float], default: str) -> str:
    best = min(by_kernel, key=by_kernel.__getitem__)
    return default if default in by_kernel and by_kernel[best] > (1 - LEAST_SAVING) * by_kernel[default] else best


def _cuda_seconds(call: Callable[[], object]) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    began.record()
    for _ in range(CALLS):
        call()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000 / CALLS


def _cpu_seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - began) / CALLS
