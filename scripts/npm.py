"""Packages of the npm registry, brought to measure by."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def packed(package: str, folder: Path) -> Path:
    """The archive of ``package`` (``name@version``), brought into an empty ``folder``; nothing of it is installed or run.

    Raises ``OSError`` where npm is not installed or does not bring it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise OSError(f"npm is not installed: it brings {package}")
    command = [npm, "pack", package, "--silent", "--ignore-scripts", "--pack-destination", str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 - a fixed command; pack installs and runs nothing
    if done.returncode:
        raise OSError(f"npm did not bring {package}: exit status {done.returncode}")
    return next(folder.glob("*.tgz"))
