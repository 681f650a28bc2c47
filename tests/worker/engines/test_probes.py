"""Trials of what is installed run for real, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from worker.engines import probes
from worker.engines.device import read_device
from worker.engines.out_of_memory import is_out_of_memory
from worker.tuning import Wishes


@pytest.fixture(autouse=True)
def _untried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trials are made once a process; a test makes its own."""
    monkeypatch.setenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")  # for one kernel they are not worth their time
    probes.compile_obstacle.cache_clear()
    probes.xformers_fault.cache_clear()
    yield
    probes.compile_obstacle.cache_clear()
    probes.xformers_fault.cache_clear()


def test_what_compiles_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kernel is built and its result is right, nothing speaks against compiling."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert probes.compile_obstacle("cpu") is None
    assert any(tmp_path.rglob("*.so"))


def test_a_missing_compiler_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the trial says so, and a worker that must compile has the reason among its device's facts."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    facts = read_device("cpu", Wishes(compile="on"))
    assert facts.compile_obstacle is not None
    assert "ompiler" in facts.compile_obstacle


def test_a_trial_that_dies_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that ends the process when it is loaded ends that of the trial."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert probes.xformers_fault("cpu") == "the trial ended with status 1"


def test_a_trial_takes_no_longer_than_it_may() -> None:
    """A trial that is not through in time is ended, and the seconds are the reason."""
    assert probes.compile_obstacle("cpu", 0.01) == "the trial took longer than 0 s"


ASKS = """
import os, subprocess, sys
trial = "import os; from worker.engines import probes; probes._die_with(%d); print(os.getpid(), flush=True); import time; time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", trial % os.getpid()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
print(child.stdout.readline(), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_trial_ends_with_the_process_that_asked() -> None:
    """A trial whose parent ends without a word does not go on."""
    asked = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, check=True)
    number = int(asked.stdout)
    deadline = time.monotonic() + 20
    while _runs(number) and time.monotonic() < deadline:
        os.sched_yield()
    assert not _runs(number)


def _runs(number: int) -> bool:
    """False too for a process that has ended and was not waited for."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_xformers_that_does_not_import_is_the_reason() -> None:
    """The trial of xformers answers with the error of its import."""
    if probes.xformers_fault("cpu") is None:
        pytest.skip("xformers is installed and runs here")
    assert "xformers" in str(probes.xformers_fault("cpu"))


LOADS = """
import ctypes, sys
from pathlib import Path
from types import SimpleNamespace
from worker.engines import probes

probes.distribution = lambda name: SimpleNamespace(locate_file=lambda file: Path(sys.argv[1]) / file)
import worker.engines.diffusion
assert "diffusers" not in sys.modules
ctypes.CDLL("libcudart.so.12")
"""


def test_what_xformers_is_linked_to_is_loaded_before_diffusers(tmp_path: Path) -> None:
    """CUDA 12's runtime, which xformers' library asks for by name, is found once the package of diffusion models is imported."""
    library = tmp_path / probes.XFORMERS_LIBRARIES["nvidia-cuda-runtime-cu12"]
    library.parent.mkdir(parents=True)
    command = ["gcc", "-shared", "-x", "c", "/dev/null", "-Wl,-soname,libcudart.so.12", "-o", str(library)]
    subprocess.run(command, check=True)
    subprocess.run([sys.executable, "-c", LOADS, str(tmp_path)], check=True)
    without = subprocess.run([sys.executable, "-c", LOADS, str(tmp_path / "nothing")], capture_output=True, text=True, check=False)
    assert "libcudart.so.12" in without.stderr


def test_nothing_is_tried_unless_it_is_wished_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU worker with the default settings starts no trial."""
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a trial was made"))
    assert read_device("cpu").compile_obstacle is None


def test_a_directory_that_may_not_execute_is_found(noexec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where caches lie in a file system mounted noexec, as Docker mounts a tmpfs, the trial fails with the loader's words."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(noexec / "inductor"))
    obstacle = probes.compile_obstacle("cpu")
    assert obstacle is not None
    assert "failed to map segment" in obstacle


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory",
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_NOT_INITIALIZED, when calling `cusolverDnCreate(handle)`",
    ],
)
def test_every_word_for_a_lack_of_memory_is_known(message: str) -> None:
    """Out of memory, in the words of CUDA, cuDNN 9, cuBLAS, cuSOLVER and the CPU, is out of memory."""
    assert is_out_of_memory(RuntimeError(message))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_are_no_lack_of_memory(error: Exception) -> None:
    """A broken device, a wrong shape or another kind of error is not tried again with less."""
    assert not is_out_of_memory(error)


def test_torch_s_own_error_is_known() -> None:
    """The error class of torch counts whatever it says."""
    assert is_out_of_memory(torch.OutOfMemoryError("no words"))
