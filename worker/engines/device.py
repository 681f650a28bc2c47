"""The facts of the device that this process works on, read from torch."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace

import torch

from worker.engines.probes import compile_obstacle, xformers_fault
from worker.tuning import FAST_BFLOAT16, DeviceFacts, TuningRefused, Wishes


def read_device(device: str, wishes: Wishes | None = None) -> DeviceFacts:
    """Return the facts of ``cpu``, ``cuda`` or ``cuda:1``; those that ``wishes`` depend on are tried, in processes of their own.

    Raises ``TuningRefused`` for a device that is not there.
    """
    parsed = torch.device(device)
    if parsed.type == "cpu":
        return _tried(_read_cpu(), device, wishes)
    count = torch.cuda.device_count()
    if parsed.type != "cuda" or not torch.cuda.is_available() or (parsed.index or 0) >= count:
        there = f"torch {torch.__version__} sees no such device, only the CPU and {count} CUDA devices"
        raise TuningRefused(f"OUTFILL_WORKER__DEVICE={device}: {there}")
    facts = _tried(DeviceFacts("cuda", "", 0, 0), device, wishes)  # before this process has a context: some GPUs take one alone
    parsed = _numbered(parsed)
    return replace(
        facts,
        name=torch.cuda.get_device_name(parsed),
        total_bytes=torch.cuda.mem_get_info(parsed)[1],
        free_bytes=free_bytes(parsed),
        threads=torch.get_num_threads(),
        capability=torch.cuda.get_device_capability(parsed),
    )


def use_device(device: str) -> None:
    """Make a CUDA device the current one of this thread: streams, events and Triton's kernels that name none belong to it."""
    parsed = torch.device(device)
    if parsed.type == "cuda":
        torch.cuda.set_device(_numbered(parsed))


def free_bytes(device: str | torch.device) -> int:
    """Return the bytes of a CUDA device that this process can still take, the cache of torch's allocator included."""
    device = _numbered(torch.device(device))
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    allowed = total * torch.cuda.get_per_process_memory_fraction(device) - reserved
    return min(free, int(allowed)) + reserved - torch.cuda.memory_allocated(device)


def _numbered(device: torch.device) -> torch.device:
    """``cuda`` as the current device: not all of torch's functions take one without a number."""
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


def _read_cpu() -> DeviceFacts:
    capabilities = torch.cpu.get_capabilities()
    flags = frozenset(flag for flag in FAST_BFLOAT16 if capabilities.get(flag))
    total, free = (os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages) for pages in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return DeviceFacts("cpu", str(capabilities.get("cpu_name", "CPU")), total, free, torch.get_num_threads(), cpu_flags=flags)


def _tried(facts: DeviceFacts, device: str, wishes: Wishes | None) -> DeviceFacts:
    """Add the facts that take seconds to find out, where a wish asks for them. On a CPU nothing compiles unless it is told to."""
    wishes = wishes or Wishes(compile="off")
    compiles = wishes.compile == "on" or (wishes.compile == "auto" and facts.kind == "cuda")
    has_xformers = importlib.util.find_spec("xformers") is not None
    tries_xformers = wishes.attention == "xformers" and has_xformers and facts.kind == "cuda"
    return replace(
        facts,
        compile_obstacle=compile_obstacle(device) if compiles else None,
        has_xformers=has_xformers,
        xformers_fault=xformers_fault(device) if tries_xformers else None,
    )
