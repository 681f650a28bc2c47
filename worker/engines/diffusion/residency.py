"""Puts a loaded pipeline onto its device as its ``Tuning`` says, and measures how many rows one UNet call may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from worker.engines.device import free_bytes
from worker.engines.diffusion.card import family_of
from worker.engines.diffusion.cpu_kernels import use_cpu_kernels
from worker.engines.diffusion.lanes import Lanes
from worker.engines.diffusion.parts import Parts
from worker.engines.diffusion.unet_call import UnetCall
from worker.engines.notes import read_json
from worker.engines.out_of_memory import is_out_of_memory
from worker.engines.weights import half_precision_bytes
from worker.tuning import TILE, Dtype, ModelFacts, Tuning

MOST_ROWS: Mapping[str, int] = {"cpu": 32, "cuda": 64}
"""That a warm-up tries. On a CPU it is not memory that bounds them."""
MEMORY_SHARE = 0.9
"""Of the free memory, what the activations of one UNet call may take."""
LEAST_GAIN = 0.05
"""A larger batch must save this share of the time for one row."""
LEAST_GAIN_OF_LANES = 0.02
"""Lanes must save this share of the time for one row."""
TIMED_CALLS = 3
"""After one that is not timed; the shortest counts, as what else the machine does only adds. Fewer where they take long together."""
LONG_S = 1.0
CPU_PATIENCE_S = 10.0
"""On a CPU no larger call is begun once a warm-up has taken so long: with models of true size, more rows save nothing there."""


@dataclass(frozen=True)
class Measurement:
    """One UNet call of ``rows``: its shortest time, and its peak of device memory beyond what was held before (0 on a CPU)."""

    rows: int
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Measured:
    """What a warm-up found."""

    rows: int
    """Of one UNet call at the measured shape; a guided picture takes two."""
    table: tuple[Measurement, ...]

    @property
    def row_s(self) -> float:
        """Seconds for a row in a call of ``rows``, or of the most up to that which were measured."""
        chosen = max((each for each in self.table if each.rows <= self.rows), key=lambda each: each.rows)
        return chosen.seconds / chosen.rows


def model_facts(path: Path) -> ModelFacts:
    """The facts of the pipeline in directory ``path``, from its configurations and the headers of its weights."""
    family, unet, vae = family_of(path), read_json(path / "unet" / "config.json"), read_json(path / "vae" / "config.json")
    sides = unet.get("sample_size") or 64
    height, width = sides if isinstance(sides, list) else (sides, sides)

    def weight(folder: str) -> int:
        return half_precision_bytes((path / folder).glob("*.safetensors"))

    return ModelFacts(
        unet_bytes=weight("unet"),
        vae_bytes=weight("vae"),
        text_encoder_bytes=tuple(weight(folder) for folder in family.text_encoders),
        latent_area=height * width,
        vae_overflows=family.upcasts_vae and vae.get("force_upcast", True) and vae.get("_class_name") == "AutoencoderKL",
    )


def apply(parts: Parts, tuning: Tuning, device: str, *, backend: str | Callable[..., Any] = "inductor") -> Parts:
    """Cast, move and arrange the modules of ``parts``, in place; answer with the same parts, to be called.

    Where ``tuning`` offloads, they should come on the CPU. Adapters belong into the modules of ``parts`` itself. ``backend`` is what
    compiles (``torch.compile``).
    """
    memory_format = torch.channels_last if tuning.channels_last else torch.contiguous_format
    _cast(parts.vae, tuning.vae_dtype).to(device=device, memory_format=memory_format)
    _arrange_vae(parts.vae, tuning)
    _cast(parts.unet, tuning.dtype).to(memory_format=memory_format)
    parts.unet.requires_grad_(requires_grad=False)  # as adapters would, and compiled graphs are guarded by it
    _place_unet(parts.unet, tuning, torch.device(device))
    _set_attention(parts.unet, tuning)
    encoders = {folder: _cast(encoder, tuning.dtype) for folder, encoder in parts.text_encoders.items()}
    return replace(
        parts,
        unet=UnetCall(parts.unet, tuning, backend=backend),
        text_encoders={
            folder: encoder.to(device) if tuning.offload == "none" else ParkedModule(encoder, device)
            for folder, encoder in encoders.items()
        },
    )


class ParkedModule:
    """A module that waits on the CPU: ``with parked as module`` brings it to ``device`` and drops the copy afterwards.

    It may also be called as the module itself, which is then brought in for that call. The weights are not copied back, as nothing changes them meanwhile. Adapters that were added since come along. Before a CUDA device
    the waiting weights are pinned, which makes the transfer fast.
    """

    def __init__(self, module: Any, device: str) -> None:
        self._module = module.to("cpu")
        self.config, self.dtype, self.device = module.config, module.dtype, torch.device(device)
        self._waiting: list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor]] = []
        self._depth = 0

    def __enter__(self) -> Any:
        """Bring it in. May be nested."""
        if self._depth == 0:
            copies: dict[int, torch.Tensor] = {}  # weights that two modules share stay shared
            with torch.inference_mode(mode=False):
                for holder, name, tensor in _tensors(self._module):
                    if id(tensor) not in copies:
                        copies[id(tensor)] = self._copy(tensor)
                    holder[name] = copies[id(tensor)]
                    self._waiting.append((holder, name, tensor))
        self._depth += 1
        return self._module

    def __exit__(self, *_: object) -> None:
        """Let the copy go."""
        self._depth -= 1
        if self._depth == 0:
            for holder, name, tensor in self._waiting:
                holder[name] = tensor
            self._waiting.clear()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the module on its device."""
        with self as module:
            return module(*arguments, **options)

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda" and not tensor.is_pinned():
            tensor.data = tensor.data.pin_memory()
        copy = tensor.data.to(self.device, non_blocking=True)
        return torch.nn.Parameter(copy, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else copy


def warm_up(
    call: Callable[[int], object],
    device: str,
    *,
    first_rows: int = 1,
    most_rows: int | None = None,
    kept_bytes: int = 0,
    patience_s: float | None = None,
) -> Measured:
    """Call with 1, 2, 4, 8, … rows, ``first_rows`` at first, and find how many are worth their memory and time.

    It goes on while the next call should fit into memory beside ``kept_bytes`` and one of the last two saved time: one alone may have met a busy
    moment of the machine. On a CPU it goes on for ``patience_s``, else ``CPU_PATIENCE_S``. Two rows, one guided picture, are the least that it
    answers. Raises as the call does where they do not fit.
    """
    cuda = torch.device(device).type == "cuda"
    most, free = most_rows or MOST_ROWS["cuda" if cuda else "cpu"], free_bytes(device) - kept_bytes if cuda else None
    table: list[Measurement] = []
    began, rows = time.perf_counter(), first_rows
    with torch.inference_mode():
        while rows <= most:
            try:
                table.append(_measure(call, rows, device if cuda else None))
            except RuntimeError as error:
                if rows <= 2 or not is_out_of_memory(error):
                    raise
                break
            rows *= 2
            if not cuda and time.perf_counter() - began > (CPU_PATIENCE_S if patience_s is None else patience_s):
                break
            if len(table) > 1 and (2 * rows_from(table, free) < table[-1].rows or not _fits(expected_peak(table, rows), free)):
                break
    return Measured(rows_from(table, free), tuple(table))


def lanes_for(
    call: Callable[[int], object], divide: Callable[[Lanes | None], None], measured: Measured, *, most: int
) -> tuple[Lanes | None, Measured]:
    """Try 2, 4, … lanes, ``most`` at most, for as long as they take ``LEAST_GAIN_OF_LANES`` less time a row than what was ``measured`` before.

    Return the lanes that the calls are divided among then, and what their warm-up found.
    """
    best: Lanes | None = None
    count = 2
    while count <= most:
        lanes = Lanes(count)
        divide(lanes)
        tried = warm_up(call, "cpu", first_rows=max(measured.rows, 2 * count), patience_s=CPU_PATIENCE_S / 2)
        if tried.row_s > (1 - LEAST_GAIN_OF_LANES) * measured.row_s:
            divide(best)
            lanes.close()
            break
        if best is not None:
            best.close()
        best, measured, count = lanes, tried, 2 * count
    return best, measured


def rows_from(table: Sequence[Measurement], free: int | None) -> int:
    """The rows of the largest measured call that fits and saved ``LEAST_GAIN`` of the time for one row over each that did before; at least 2.

    ``table`` is in the order of rows; ``free`` is in bytes, ``None``: memory is no bound.
    """
    best = table[0]
    for measured in table[1:]:
        if not _fits(measured.peak_bytes, free):
            break
        if measured.seconds / measured.rows <= (1 - LEAST_GAIN) * best.seconds / best.rows:
            best = measured
    return max(best.rows, 2)


def expected_peak(table: Sequence[Measurement], rows: int) -> float:
    """The peak of a call of ``rows``, in bytes: the line through the last two measurements."""
    *_, before, last = table
    slope = (last.peak_bytes - before.peak_bytes) / (last.rows - before.rows)
    return last.peak_bytes + slope * (rows - last.rows)


def _measure(call: Callable[[int], object], rows: int, cuda: str | None) -> Measurement:
    call(rows)  # compiles, and lets libraries choose their kernels
    times: list[float] = []
    held = 0
    if cuda:
        torch.cuda.synchronize(cuda)
        torch.cuda.reset_peak_memory_stats(cuda)
        held = torch.cuda.memory_allocated(cuda)
    while len(times) < TIMED_CALLS and sum(times) < LONG_S:
        began = time.perf_counter()
        call(rows)
        if cuda:
            torch.cuda.synchronize(cuda)
        times.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(cuda) - held if cuda else 0
    return Measurement(rows, min(times), peak)


def _fits(peak_bytes: float, free: int | None) -> bool:
    return free is None or peak_bytes <= MEMORY_SHARE * free


def _cast(module: Any, dtype: Dtype) -> Any:
    """Only where it changes something: diffusers warns of every cast after loading."""
    wanted = getattr(torch, dtype)
    return module if module.dtype == wanted else module.to(dtype=wanted)


def _arrange_vae(vae: Any, tuning: Tuning) -> None:
    if tuning.vae_slicing:
        vae.enable_slicing()
    if tuning.vae_tiling:
        vae.enable_tiling()
        if vae.tile_sample_min_size > TILE:
            vae.tile_latent_min_size = vae.tile_latent_min_size * TILE // vae.tile_sample_min_size
            vae.tile_sample_min_size = TILE


def _place_unet(unet: Any, tuning: Tuning, device: torch.device) -> None:
    if tuning.offload != "group":
        unet.to(device)
        return
    unet.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )


def _set_attention(unet: Any, tuning: Tuning) -> None:
    match tuning.attention:
        case "xformers":
            unet.enable_xformers_memory_efficient_attention()
        case "chunked":
            use_cpu_kernels(unet)


def _tensors(module: Any) -> list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor]]:
    """Every weight and buffer: the table that holds it, its name there, and itself."""
    tables = [table for each in module.modules() for table in (each._parameters, each._buffers)]  # noqa: SLF001 - as torch's own ``to``
    return [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]
