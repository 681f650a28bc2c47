"""How a model is to run on this device: precision, kernels, compilation, and what leaves the device while it is not needed.

``choose_all`` is pure: facts and wishes in, a ``Tuning`` for each model out, with the reason for each value. A wish that the device cannot
grant is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

Dtype = Literal["float32", "float16", "bfloat16"]
Attention = Literal["sdpa", "fastest", "flash", "efficient", "cudnn", "math", "xformers", "chunked"]
"""``sdpa``: torch's own choice. ``fastest``: flash, cuDNN or efficient, for each shape the one that a warm-up measured as the fastest.
``chunked``: our own for CPUs, in bfloat16."""
Offload = Literal["none", "text_encoders", "group"]
"""``text_encoders``: they wait on the CPU. ``group``: the UNet's blocks do too, and come in one after another in every step."""

GIB = 2**30
ITEM_BYTES: Mapping[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
UNET_ROW_BYTES = 9 * 2**10
VAE_DECODE_BYTES = 52 * 2**10
"""Activations for one pixel of the latents and one byte of the dtype: of one UNet row, and of decoding. Peaks of the UNets and VAEs of
Stable Diffusion 1.5 and XL as torch's ``MemTracker`` counts them; workspaces of cuDNN are in ``RESERVE_BYTES``. Of decoding it counts 48 KiB, but XL's
workspaces are larger than the reserve: decoded whole, in float32 on an H200, 0.06 GB over both, of 4.1."""
GROUP_SHARE = 0.65
"""Of the UNet's weights, what group offload holds at once: a block and the next (XL's middle and first up block: 0.63)."""
RESERVE_BYTES = 6 * GIB // 10
TILE = 512
"""Side of a VAE tile in pixels. The VAE's own is its native size, so that a picture of that size would not be tiled at all."""
DECODED_TOGETHER = 8
FAST_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})


class TuningRefused(ValueError):
    """A setting asks for what this device does not have; the message names the setting."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a device is and can do. Memory in bytes; of a CUDA device what is left for this process."""

    kind: Literal["cpu", "cuda"]
    name: str
    total_bytes: int
    free_bytes: int
    threads: int = 1
    capability: tuple[int, int] = (0, 0)
    """CUDA's compute capability."""
    cpu_flags: frozenset[str] = frozenset()
    """Those of ``FAST_BFLOAT16`` that the CPU has."""
    compile_obstacle: str | None = None
    """The reason why ``torch.compile`` builds no kernel here; ``None``: it does, or no wish asked."""
    has_xformers: bool = False
    """The package is installed."""
    xformers_fault: str | None = None
    """The reason why its attention does not run here; ``None``: it does, or no wish asked."""

    @property
    def bfloat16(self) -> bool:
        """Whether it has instructions for bfloat16; elsewhere it is emulated."""
        return self.capability >= (8, 0) if self.kind == "cuda" else bool(self.cpu_flags & FAST_BFLOAT16)


@dataclass(frozen=True)
class ModelFacts:
    """What a pipeline weighs, in bytes at half precision."""

    unet_bytes: int
    vae_bytes: int
    text_encoder_bytes: tuple[int, ...]
    latent_area: int
    """Height times width of the latents at the native size."""
    vae_overflows: bool = False
    """Whether its VAE leaves the range of float16 (Stable Diffusion XL, unless its weights were rescaled)."""


@dataclass(frozen=True)
class Wishes:
    """The settings of the same names, ``OUTFILL_WORKER__…``."""

    dtype: Dtype | Literal["auto"] = "auto"
    attention: Literal["auto", "flash", "efficient", "cudnn", "math", "xformers"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    offload: Offload | Literal["auto"] = "auto"
    vae_tiling: Literal["auto", "on", "off"] = "auto"


@dataclass(frozen=True)
class Tuning:
    """How one model runs on one device."""

    dtype: Dtype
    vae_dtype: Dtype
    channels_last: bool
    attention: Attention
    compile: bool
    must_compile: bool
    """A compilation that fails ends the start; else the model runs uncompiled."""
    compile_fault: str | None
    """The reason why nothing can be compiled on a device where it would be; ``None`` also where it was not to be."""
    vae_slicing: bool
    vae_tiling: bool
    offload: Offload
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Why, by the name of the value. For the log."""


PLAIN = Tuning(
    dtype="float32",
    vae_dtype="float32",
    channels_last=False,
    attention="sdpa",
    compile=False,
    must_compile=False,
    compile_fault=None,
    vae_slicing=False,
    vae_tiling=False,
    offload="none",
)
"""As the stock pipelines run."""


@dataclass(frozen=True)
class _Placement:
    """One way to share a model between the device and main memory."""

    offload: Offload
    tiling: bool


_PLACEMENTS = (
    _Placement("none", tiling=False),
    _Placement("text_encoders", tiling=False),  # costs a transfer for a prompt that is not in the cache
    _Placement("none", tiling=True),  # costs tone: tiles can differ
    _Placement("text_encoders", tiling=True),
    _Placement("group", tiling=False),  # costs a transfer of the UNet in every step
    _Placement("group", tiling=True),
)
"""The cheapest first."""


def choose(device: DeviceFacts, model: ModelFacts, wishes: Wishes | None = None) -> Tuning:
    """Return the fastest way to run ``model`` alone on ``device`` that fits and that ``wishes`` allow. Raises ``TuningRefused``."""
    return choose_all(device, {"model": model}, wishes)["model"]


def choose_all(device: DeviceFacts, models: Mapping[str, ModelFacts], wishes: Wishes | None = None) -> dict[str, Tuning]:
    """Return the fastest way to run each of ``models`` so that all fit on ``device`` together, by name. Raises ``TuningRefused``.

    All stay loaded, and one of them runs at a time: their weights add up, and of their activations the largest counts.
    """
    wishes = wishes or Wishes()
    dtype, why_dtype = _dtype(device, wishes)
    attention, why_attention = _attention(device, dtype, wishes)
    vae_dtypes = {name: _vae_dtype(model, dtype) for name, model in models.items()}
    sizes = {name: _Sizes(model, dtype, vae_dtypes[name][0]) for name, model in models.items()}
    placements, why_placed = _place(device, sizes, wishes)
    held = sum(size.resident_bytes(placements[name]) for name, size in sizes.items())
    tunings: dict[str, Tuning] = {}
    for name, size in sizes.items():
        placement = placements[name]
        compiled, why_compile = _compile(device, attention, placement.offload, wishes)
        slicing, why_slicing = _vae_slicing(device, size, held)
        vae_dtype, why_vae_dtype = vae_dtypes[name]
        tunings[name] = Tuning(
            dtype=dtype,
            vae_dtype=vae_dtype,
            channels_last=True,
            attention=attention,
            compile=compiled,
            must_compile=wishes.compile == "on",
            compile_fault=None if wishes.compile == "off" or device.kind == "cpu" else device.compile_obstacle,
            vae_slicing=slicing,
            vae_tiling=placement.tiling,
            offload=placement.offload,
            reasons={
                "dtype": why_dtype,
                "vae_dtype": why_vae_dtype,
                "channels_last": "the order of the fast convolutions: 10 % less time a step even in float32 on a CPU",
                "attention": why_attention,
                "compile": why_compile,
                "must_compile": f"OUTFILL_WORKER__COMPILE={wishes.compile}",
                "compile_fault": "as a trial found",
                "vae_slicing": why_slicing,
                "vae_tiling": _asked(wishes.vae_tiling, why_placed),
                "offload": _asked(wishes.offload, why_placed),
            },
        )
    return tunings


def peak_bytes(model: ModelFacts, dtype: Dtype, vae_dtype: Dtype, *, offload: Offload, tiling: bool) -> int:
    """Estimate the device memory that one guided picture of the native size takes at most, weights included."""
    size, placement = _Sizes(model, dtype, vae_dtype), _Placement(offload, tiling)
    return size.resident_bytes(placement) + size.transient_bytes(placement)


@dataclass(frozen=True)
class _Sizes:
    """Estimates of the device memory that a model takes, by its placement."""

    model: ModelFacts
    dtype: Dtype
    vae_dtype: Dtype

    def resident_bytes(self, placement: _Placement) -> int:
        """Weights that stay on the device."""
        half, vae = ITEM_BYTES[self.dtype] / 2, self.model.vae_bytes * ITEM_BYTES[self.vae_dtype] / 2
        match placement.offload:
            case "none":
                return math.ceil(vae + half * (self.model.unet_bytes + sum(self.model.text_encoder_bytes)))
            case "text_encoders":
                return math.ceil(vae + half * self.model.unet_bytes)
            case "group":
                return math.ceil(vae)

    def transient_bytes(self, placement: _Placement) -> int:
        """Activations of one guided picture of the native size, and weights that are brought in for them, at their peak."""
        half, model = ITEM_BYTES[self.dtype] / 2, self.model
        denoise = 2 * model.latent_area * UNET_ROW_BYTES * ITEM_BYTES[self.dtype]
        decode = self.decode_bytes(tiling=placement.tiling)
        texts = [size * half for size in model.text_encoder_bytes]
        match placement.offload:
            case "none":
                return math.ceil(max(denoise, decode))
            case "text_encoders":
                return math.ceil(max(*texts, denoise, decode))
            case "group":
                return math.ceil(max(*texts, model.unet_bytes * half * GROUP_SHARE + denoise, decode))

    def decode_bytes(self, *, tiling: bool) -> int:
        """Activations of decoding one picture."""
        area = min(self.model.latent_area, (TILE // 8) ** 2) if tiling else self.model.latent_area
        return area * VAE_DECODE_BYTES * ITEM_BYTES[self.vae_dtype]


def _place(device: DeviceFacts, sizes: Mapping[str, _Sizes], wishes: Wishes) -> tuple[dict[str, _Placement], str]:
    """Choose a placement for each model, and tell the reason.

    While they do not fit, one of those that came down least goes a step further down, the one that thereby frees most; in the end
    whichever still fits higher up goes back.
    """
    if device.kind == "cpu":
        if wishes.offload in ("text_encoders", "group"):
            _refuse("offload", wishes.offload, "on a CPU there is nowhere to offload to")
        return dict.fromkeys(sizes, _Placement("none", tiling=wishes.vae_tiling == "on")), "main memory is enough"
    allowed = [
        placement
        for placement in _PLACEMENTS
        if wishes.offload in ("auto", placement.offload) and wishes.vae_tiling in ("auto", "on" if placement.tiling else "off")
    ]
    steps = dict.fromkeys(sizes, 0)
    while _needed(sizes, allowed, steps) > device.free_bytes and (left := [name for name in sizes if steps[name] + 1 < len(allowed)]):
        steps[min(left, key=lambda name: (steps[name], _needed(sizes, allowed, steps | {name: steps[name] + 1})))] += 1
    for name in sizes:
        fitting = (step for step in range(steps[name]) if _needed(sizes, allowed, steps | {name: step}) <= device.free_bytes)
        steps[name] = next(fitting, steps[name])
    need = _needed(sizes, allowed, steps)
    fits = "fits" if need <= device.free_bytes else "MAY NOT FIT"
    together = f"{len(sizes)} models together need" if len(sizes) > 1 else "needs"
    return {name: allowed[step] for name, step in steps.items()}, (
        f"{together} about {need / GIB:.1f} GiB, which {fits} in {device.free_bytes / GIB:.1f} GiB"
    )


def _needed(sizes: Mapping[str, _Sizes], allowed: Sequence[_Placement], steps: Mapping[str, int]) -> int:
    resident = sum(size.resident_bytes(allowed[steps[name]]) for name, size in sizes.items())
    return resident + max(size.transient_bytes(allowed[steps[name]]) for name, size in sizes.items()) + RESERVE_BYTES


def _dtype(device: DeviceFacts, wishes: Wishes) -> tuple[Dtype, str]:
    wish = wishes.dtype
    if device.kind == "cpu":
        if wish == "float16":
            _refuse("dtype", wish, "a CPU computes in float32 or bfloat16")
        if wish == "bfloat16" and not device.bfloat16:
            return wish, "asked for; this CPU has neither avx512_bf16 nor amx_bf16 and emulates it, slower than float32"
        if wish != "auto":
            return wish, "asked for"
        if device.bfloat16:
            return "bfloat16", f"the CPU has {', '.join(sorted(device.cpu_flags))}: about three times as fast as float32"
        return "float32", "the CPU has neither avx512_bf16 nor amx_bf16"
    if wish == "bfloat16" and not device.bfloat16:
        _refuse("dtype", wish, f"{device.name} (sm{_sm(device)}) has no bfloat16; float16 is as fast")
    if wish != "auto":
        return wish, "asked for"
    return "float16", "the precision that the weights are published in; bfloat16 is as fast, with three bits less of the fraction"


def _vae_dtype(model: ModelFacts, dtype: Dtype) -> tuple[Dtype, str]:
    if dtype == "float16" and model.vae_overflows:
        return "float32", "this VAE leaves the range of float16"
    return dtype, "as the UNet"


def _attention(device: DeviceFacts, dtype: Dtype, wishes: Wishes) -> tuple[Attention, str]:
    wish = wishes.attention
    if wish == "auto":
        if device.kind == "cuda":
            return "fastest", "flash, cuDNN or efficient, as the warm-up measures them for each shape; xformers is no faster"
        if dtype == "bfloat16":
            return "chunked", "the fastest for bfloat16 on a CPU"
        return "sdpa", "torch's flash attention for CPUs"
    if device.kind == "cpu" and wish in ("efficient", "cudnn", "xformers"):
        _refuse("attention", wish, "it needs a CUDA device")
    if wish == "xformers" and not device.has_xformers:
        _refuse("attention", wish, "xformers is not installed (pip install 'outfill[gpu]')")
    if wish == "xformers" and device.xformers_fault:
        return "fastest", f"xformers was asked for and does not run here: {device.xformers_fault}"
    if device.kind == "cuda" and wish in ("flash", "cudnn"):
        if device.capability < (8, 0):
            _refuse("attention", wish, f"{device.name} is sm{_sm(device)}, and it needs sm80 (Ampere) or newer")
        if dtype == "float32":
            _refuse("attention", wish, "it computes in float16 or bfloat16, and OUTFILL_WORKER__DTYPE is float32")
    return wish, "asked for"


def _compile(device: DeviceFacts, attention: Attention, offload: Offload, wishes: Wishes) -> tuple[bool, str]:
    obstacle = _compile_obstacle(device, offload)
    if wishes.compile == "on" and obstacle:
        _refuse("compile", "on", obstacle)
    if wishes.compile != "auto":
        return wishes.compile == "on", "asked for"
    if obstacle:
        return False, obstacle
    if device.kind == "cpu":
        return False, "on a CPU the time is in the matrix products, which compiling leaves as they are"
    if attention == "xformers":
        return False, "xformers' operators break the graph"
    return True, "15 to 35 % less time a step, published for A100 and H100"


def _compile_obstacle(device: DeviceFacts, offload: Offload) -> str | None:
    if device.kind == "cuda" and device.capability < (7, 0):
        return f"triton needs sm70 or newer, and this is sm{_sm(device)}"
    return "group offload moves weights in the middle of the graph" if offload == "group" else device.compile_obstacle


def _vae_slicing(device: DeviceFacts, size: _Sizes, held_bytes: int) -> tuple[bool, str]:
    """Decide for a VAE beside ``held_bytes`` of weights, its own included."""
    if device.kind == "cpu":
        return True, "on a CPU rows decode no faster together"
    together = DECODED_TOGETHER * size.decode_bytes(tiling=False)
    left = device.free_bytes - RESERVE_BYTES - held_bytes
    why = f"decoding {DECODED_TOGETHER} pictures together takes {together / GIB:.1f} GiB, and {max(left, 0) / GIB:.1f} GiB are left"
    return together > left, why


def _asked(wish: str, why: str) -> str:
    return why if wish == "auto" else f"asked for; {why}"


def _sm(device: DeviceFacts) -> str:
    return "".join(map(str, device.capability))


def _refuse(setting: str, value: str, why: str) -> NoReturn:
    raise TuningRefused(f"OUTFILL_WORKER__{setting.upper()}={value}: {why}")
