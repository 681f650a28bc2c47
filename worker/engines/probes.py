"""Trials of what is installed: a kernel is compiled, xformers is called, each in a process of its own.

    python -m worker.engines.probes compile | xformers DEVICE [PARENT]

A package that is found may still not load, and one that does not load may end its process: what counts is that one call came back.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

TIMEOUT_S = 180.0
"""For one trial, with the import of torch and an empty cache."""
_PR_SET_PDEATHSIG = 1
XFORMERS_LIBRARIES: Mapping[str, str] = {"nvidia-cuda-runtime-cu12": "nvidia/cuda_runtime/lib/libcudart.so.12"}
"""Files of distributions that xformers' own library is linked to. It has no RUNPATH, so that the linker finds only what is loaded already."""


@cache
def compile_obstacle(device: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Say why ``torch.compile`` builds no kernel for ``device`` here; ``None`` where one was built and its result is right."""
    return _trial("compile", device, timeout_s)


@cache
def xformers_fault(device: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Say why xformers' attention does not run on ``device``; ``None`` where one call's result is right."""
    return _trial("xformers", device, timeout_s)


def load_xformers_libraries() -> None:
    """Load the files of ``XFORMERS_LIBRARIES`` that are installed. What xformers is linked to must be there when it is imported."""
    for name, file in XFORMERS_LIBRARIES.items():
        with suppress(PackageNotFoundError, OSError):  # a trial tells of what is missing
            ctypes.CDLL(str(distribution(name).locate_file(file)))


def _trial(name: str, device: str, timeout_s: float) -> str | None:
    command = [sys.executable, "-m", "worker.engines.probes", name, device, str(os.getpid())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603 - our own module
    except subprocess.TimeoutExpired:
        return f"the trial took longer than {timeout_s:.0f} s"
    if done.returncode == 0:
        return None
    last = "".join(f": {line[:300]}" for line in done.stderr.strip().splitlines()[-1:])
    return done.stdout.strip() or f"the trial ended with status {done.returncode}{last}"


def _compile(device: str) -> None:
    import torch

    def triple(values: torch.Tensor) -> torch.Tensor:
        return values * 3 + 1

    values = torch.arange(64, device=device, dtype=torch.float32)
    _check(torch.compile(triple, dynamic=False)(values), triple(values))


def _xformers(device: str) -> None:
    import torch

    load_xformers_libraries()
    from xformers import _cpp_lib
    from xformers.ops import memory_efficient_attention

    if _cpp_lib._cpp_library_load_exception is not None:  # noqa: SLF001 - xformers only warns, and calls torch's kernels instead
        raise _cpp_lib._cpp_library_load_exception  # noqa: SLF001

    query = torch.randn(1, 64, 2, 40, device=device, dtype=torch.float16, generator=torch.Generator(device).manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(*(query.transpose(1, 2).float(),) * 3).transpose(1, 2)
    _check(memory_efficient_attention(query, query, query).float(), expected, tolerance=1e-2)


def _check(found: object, expected: object, *, tolerance: float = 1e-6) -> None:
    import torch

    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


TRIALS: Mapping[str, Callable[[str], None]] = {"compile": _compile, "xformers": _xformers}


def _die_with(parent: int) -> None:
    """Have Linux end this process when the one that asked ends, or its thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended meanwhile
            sys.exit(1)


def main(name: str, device: str, parent: str = "") -> int:
    """Run one trial; 1, and the reason on standard output, where it fails. It ends with the process ``parent``."""
    if parent:
        _die_with(int(parent))
    try:
        TRIALS[name](device)
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")  # noqa: T201 - the answer to the process that asked
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
