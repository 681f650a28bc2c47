"""The first line of a run's file: which card, which software, when, and of which commit."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from scripts.gpu_facts.device import Device

UNKNOWN = "unknown"


def header_of(device: Device, *, rehearsal: bool, commit: str | None) -> dict[str, Any]:
    """All of it. ``commit`` is for machines that have the files without git's."""
    return {
        "card": device.name,
        "driver": UNKNOWN if rehearsal else _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(cudnn_version()),
        "diffusers": _version("diffusers"),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit or _said("git", "rev-parse", "--short=12", "HEAD"),
        "rehearsal": rehearsal,
    }


def default_path(header: dict[str, Any]) -> Path:
    """Where the answers of a run go that was not told."""
    card = re.sub(r"[^a-z0-9]+", "-", header["card"].lower()).strip("-")
    return Path("build/gpu-facts") / f"{card}-{header['date']}.jsonl"


def cudnn_version() -> int | None:
    """Of the cuDNN that torch uses."""
    library: Any = torch.backends.cudnn
    number: int | None = library.version()
    return number


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def _said(program: str, *arguments: str) -> str:
    """The first line of what a program says, if it is there and answers."""
    found = shutil.which(program)
    if found is None:
        return UNKNOWN
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else UNKNOWN
