"""How a model is to run on this device: precision, kernels, compilation, and what leaves the device while it is not needed.

``choose`` is pure: facts and wishes in, a ``Tuning`` out, with the reason for each value. A wish that the device cannot grant is refused.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

Dtype = Literal["float32", "float16", "bfloat16"]
Attention = Literal["sdpa", "flash", "efficient", "cudnn", "math", "xformers", "chunked"]
"""``sdpa``: the first of flash, cuDNN, efficient and math that takes the shapes. ``chunked``: our own for CPUs, in bfloat16."""
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
    has_compiler: bool = False
    """A C++ compiler is on the path."""
    has_triton: bool = False
    has_xformers: bool = False

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
    vae_slicing=False,
    vae_tiling=False,
    offload="none",
)
"""As the stock pipelines run."""


def choose(device: DeviceFacts, model: ModelFacts, wishes: Wishes | None = None) -> Tuning:
    """The fastest way to run ``model`` on ``device`` that fits and that ``wishes`` allow. Raises ``TuningRefused``."""
    wishes = wishes or Wishes()
    dtype, why_dtype = _dtype(device, wishes)
    vae_dtype, why_vae_dtype = _vae_dtype(model, dtype)
    attention, why_attention = _attention(device, dtype, wishes)
    offload, tiling, why_offload, why_tiling = _memory(device, model, dtype, vae_dtype, wishes)
    compiled, why_compile = _compile(device, attention, offload, wishes)
    slicing, why_slicing = _vae_slicing(device, model, dtype, vae_dtype)
    return Tuning(
        dtype=dtype,
        vae_dtype=vae_dtype,
        channels_last=True,
        attention=attention,
        compile=compiled,
        vae_slicing=slicing,
        vae_tiling=tiling,
        offload=offload,
        reasons={
            "dtype": why_dtype,
            "vae_dtype": why_vae_dtype,
            "channels_last": "the order of the fast convolutions: 10 % less time a step even in float32 on a CPU",
            "attention": why_attention,
            "compile": why_compile,
            "vae_slicing": why_slicing,
            "vae_tiling": why_tiling,
            "offload": why_offload,
        },
    )


def peak_bytes(model: ModelFacts, dtype: Dtype, vae_dtype: Dtype, *, offload: Offload, tiling: bool) -> int:
    """An estimate of the device memory that one guided picture of the native size takes at most, weights included."""
    half = ITEM_BYTES[dtype] / 2
    unet, vae = model.unet_bytes * half, model.vae_bytes * ITEM_BYTES[vae_dtype] / 2
    texts = [size * half for size in model.text_encoder_bytes]
    denoise = 2 * model.latent_area * UNET_ROW_BYTES * ITEM_BYTES[dtype]
    decode = _decode_bytes(model, vae_dtype, tiling=tiling)
    match offload:
        case "none":
            return math.ceil(unet + vae + sum(texts) + max(denoise, decode))
        case "text_encoders":
            return math.ceil(unet + vae + max(*texts, denoise, decode))
        case "group":
            return math.ceil(vae + max(*texts, unet * GROUP_SHARE + denoise, decode))


def read_device(device: str) -> DeviceFacts:
    """The facts of ``cpu``, ``cuda`` or ``cuda:1``. Raises ``TuningRefused`` for a device that is not there."""
    import torch

    parsed = torch.device(device)
    tools = (_has_compiler(), _is_installed("triton"), _is_installed("xformers"))
    if parsed.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        flags = frozenset(flag for flag in FAST_BFLOAT16 if capabilities.get(flag))
        total, free = (os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages) for pages in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        return DeviceFacts("cpu", str(capabilities.get("cpu_name", "CPU")), total, free, torch.get_num_threads(), (0, 0), flags, *tools)
    count = torch.cuda.device_count()
    if parsed.type != "cuda" or not torch.cuda.is_available() or (parsed.index or 0) >= count:
        _refuse("device", device, f"torch {torch.__version__} sees no such device, only the CPU and {count} CUDA devices")
    if parsed.index is None:  # not all that is asked below takes a device without a number
        parsed = torch.device("cuda", torch.cuda.current_device())
    free, total = torch.cuda.mem_get_info(parsed)
    allowed = total * torch.cuda.get_per_process_memory_fraction(parsed) - torch.cuda.memory_reserved(parsed)
    name, capability = torch.cuda.get_device_name(parsed), torch.cuda.get_device_capability(parsed)
    return DeviceFacts("cuda", name, total, min(free, int(allowed)), torch.get_num_threads(), capability, frozenset(), *tools)


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
            return "sdpa", "the first that takes the shapes: flash, cuDNN, efficient; xformers is no faster"
        if dtype == "bfloat16":
            return "chunked", "the fastest for bfloat16 on a CPU"
        return "sdpa", "torch's flash attention for CPUs"
    if device.kind == "cpu" and wish in ("efficient", "cudnn", "xformers"):
        _refuse("attention", wish, "it needs a CUDA device")
    if wish == "xformers" and not device.has_xformers:
        _refuse("attention", wish, "xformers is not installed (pip install 'outfill[gpu]')")
    if device.kind == "cuda" and wish in ("flash", "cudnn"):
        if device.capability < (8, 0):
            _refuse("attention", wish, f"{device.name} is sm{_sm(device)}, and it needs sm80 (Ampere) or newer")
        if dtype == "float32":
            _refuse("attention", wish, "it computes in float16 or bfloat16, and OUTFILL_WORKER__DTYPE is float32")
    return wish, "asked for"


def _memory(device: DeviceFacts, model: ModelFacts, dtype: Dtype, vae_dtype: Dtype, wishes: Wishes) -> tuple[Offload, bool, str, str]:
    """Offload, tiling, and the reason for each: the first of the candidates, cheapest first, that fits."""
    if device.kind == "cpu":
        if wishes.offload in ("text_encoders", "group"):
            _refuse("offload", wishes.offload, "on a CPU there is nowhere to offload to")
        return "none", wishes.vae_tiling == "on", "the model is in main memory", _asked(wishes.vae_tiling, "main memory is enough")
    candidates: list[tuple[Offload, bool]] = [
        ("none", False),
        ("text_encoders", False),  # costs a transfer for a prompt that is not in the cache
        ("none", True),  # costs tone: tiles can differ
        ("text_encoders", True),
        ("group", False),
        ("group", True),  # costs a transfer of the UNet in every step
    ]
    allowed = [
        (offload, tiling)
        for offload, tiling in candidates
        if wishes.offload in ("auto", offload) and wishes.vae_tiling in ("auto", "on" if tiling else "off")
    ]

    def needed(candidate: tuple[Offload, bool]) -> int:
        return peak_bytes(model, dtype, vae_dtype, offload=candidate[0], tiling=candidate[1]) + RESERVE_BYTES

    offload, tiling = next((each for each in allowed if needed(each) <= device.free_bytes), allowed[-1])
    need = needed((offload, tiling))
    fits = "fits" if need <= device.free_bytes else "MAY NOT FIT"
    why = f"needs about {need / GIB:.1f} GiB and {fits} in {device.free_bytes / GIB:.1f} GiB"
    return offload, tiling, _asked(wishes.offload, why), _asked(wishes.vae_tiling, why)


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
    if not device.has_compiler:
        return "there is no C++ compiler on the path (g++ or clang++, or CXX)"
    if device.kind == "cuda" and not device.has_triton:
        return "triton is not installed"
    if device.kind == "cuda" and device.capability < (7, 0):
        return f"triton needs sm70 or newer, and this is sm{_sm(device)}"
    return "group offload moves weights in the middle of the graph" if offload == "group" else None


def _vae_slicing(device: DeviceFacts, model: ModelFacts, dtype: Dtype, vae_dtype: Dtype) -> tuple[bool, str]:
    if device.kind == "cpu":
        return True, "on a CPU rows decode no faster together"
    together = DECODED_TOGETHER * _decode_bytes(model, vae_dtype, tiling=False)
    left = device.free_bytes - RESERVE_BYTES - peak_bytes(model, dtype, vae_dtype, offload="none", tiling=True)
    why = f"decoding {DECODED_TOGETHER} pictures together takes {together / GIB:.1f} GiB, and {max(left, 0) / GIB:.1f} GiB are left"
    return together > left, why


def _decode_bytes(model: ModelFacts, vae_dtype: Dtype, *, tiling: bool) -> int:
    area = min(model.latent_area, (TILE // 8) ** 2) if tiling else model.latent_area
    return area * VAE_DECODE_BYTES * ITEM_BYTES[vae_dtype]


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def _asked(wish: str, why: str) -> str:
    return why if wish == "auto" else f"asked for; {why}"


def _sm(device: DeviceFacts) -> str:
    return "".join(map(str, device.capability))


def _refuse(setting: str, value: str, why: str) -> NoReturn:
    raise TuningRefused(f"OUTFILL_WORKER__{setting.upper()}={value}: {why}")
