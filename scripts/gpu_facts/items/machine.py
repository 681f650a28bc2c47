"""Item 1: what this machine has: libraries, the order of attention kernels, a compiler, and a Triton that can run what it builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from scripts.gpu_facts.findings import Findings, Refused
from scripts.gpu_facts.header import cudnn_version
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, unet_inputs
from worker.engines.diffusion.fastest_attention import attention_shapes
from worker.engines.probes import compile_obstacle, xformers_fault

GIB = 2**30
TRIAL_S = 30.0
"""For one trial; a worker waits longer."""


def run(stage: Stage, findings: Findings) -> None:
    """Ask for each."""
    findings.add("cpu_cores_count", os.cpu_count() or 0)
    findings.add("gcc_bool", shutil.which("gcc") is not None)
    findings.add("gxx_bool", shutil.which("g++") is not None)
    findings.add("python_headers_bool", (Path(sysconfig.get_paths()["include"]) / "Python.h").exists())
    for name, folder in {"temporary_directory": Path(tempfile.gettempdir()), "home": Path.home()}.items():
        with findings.part(name):
            findings.add(f"{name}_allows_execution_bool", _allows_execution(folder))
    for name in ("triton", "xformers", "peft", "diffusers"):
        with findings.part(f"{name}_version"):
            findings.say(f"{name}_version", __import__(name).__version__)
    with findings.part("device"):
        _device(stage, findings)
    with findings.part("trials"):
        _trials(stage, findings)
    for family in FAMILIES:
        with findings.part(f"{family}_sdpa_choice"):
            _sdpa_choice(stage, findings, family)
    with findings.part("sdpa_order"):
        _sdpa_order(findings)


def _device(stage: Stage, findings: Findings) -> None:
    stage.device.needs_cuda("the driver, cuDNN and the card's memory")
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    findings.add("memory_total_gib", total / GIB)
    findings.add("memory_free_gib", free / GIB)
    findings.add("multiprocessors_count", properties.multi_processor_count)
    findings.add("cudnn_count", cudnn_version() or 0)
    findings.say("capability", ".".join(map(str, torch.cuda.get_device_capability())))


def _sdpa_choice(stage: Stage, findings: Findings, family: str) -> None:
    """The kernel that torch takes by itself for each shape of attention of the UNet: queries, keys and width of a head."""
    parts = stage.parts(INPAINT[family])
    inputs = unet_inputs(parts, 2, stage.size(INPAINT[family]) // 8)
    chosen = {}
    with torch.inference_mode():
        for shape in attention_shapes(lambda: parts.unet(**inputs, return_dict=False)):
            query, key = (
                parts.unet.conv_in.weight.new_empty(shape.rows, tokens, shape.heads, shape.width).transpose(1, 2)
                for tokens in (shape.queries, shape.keys)
            )
            taken = torch._fused_sdp_choice(query, key, key)  # noqa: SLF001 - has no public name
            chosen[f"{shape.queries}x{shape.keys}x{shape.width}"] = _kernel(taken)
    findings.say(f"{family}_sdpa_choice", "; ".join(f"{shape} {kernel}" for shape, kernel in chosen.items()))


def _sdpa_order(findings: Findings) -> None:
    """The order in which torch itself tries kernels. Of CUDA it is settled by the first choice, so it is asked after the choices."""
    order = getattr(torch._C, "_get_sdp_priority_order", None)  # noqa: SLF001 - has no public name
    if order is None:
        raise Refused("this torch does not tell its order of kernels")
    findings.say("sdpa_order", ", ".join(map(_kernel, order())))


def _kernel(number: int) -> str:
    members: dict[str, Any] = dict(SDPBackend.__members__)
    return {int(backend): name for name, backend in members.items()}.get(int(number), str(number)).removesuffix("_ATTENTION").lower()


def _trials(stage: Stage, findings: Findings) -> None:
    """The trials by which a worker decides whether it compiles, and whether xformers is used, each in a process of its own."""
    stage.device.needs_cuda("Triton builds kernels for it")
    for name, trial in {"compile": compile_obstacle, "xformers": xformers_fault}.items():
        reason = trial(stage.device.kind, TRIAL_S)
        findings.add(f"{name}_works_bool", reason is None)
        findings.say(f"{name}_trial", reason or "it works")


def _allows_execution(folder: Path) -> bool:
    """True where files that are written there may be run; a mount with ``noexec`` says no, and Triton needs it."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        script = Path(place) / "probe"
        script.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
        script.chmod(0o700)
        try:
            return subprocess.run([str(script)], check=False).returncode == 0  # noqa: S603 - our own script
        except OSError:
            return False
