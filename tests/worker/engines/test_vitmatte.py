"""ViTMatte as a matting: what it says is what the stock pipeline says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from edge_models import edge_model, put_weights, reconfigure, weights_of
from structlog.testing import capture_logs
from transformers import VitMatteForImageMatting
from transformers.models.vitmatte.image_processing_pil_vitmatte import VitMatteImageProcessorPil

from worker.engines.vitmatte import VitMatte, trimap


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edge_model(tmp_path_factory.mktemp("vitmatte"))


def photo(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def disc(height: int, width: int) -> npt.NDArray[np.float32]:
    plane = np.zeros((height, width), np.float32)
    cv2.circle(plane, (width // 2, height // 2), min(height, width) // 3, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), 1.5), np.float32)


@pytest.mark.parametrize("size", [(64, 96), (70, 101)])
def test_it_is_the_stock_call(directory: Path, size: tuple[int, int]) -> None:
    """Where the trimap leaves it open, the opacity is that of the library's own processor and model, at any size; elsewhere it is the trimap's."""
    pixels, known = photo(*size), trimap(disc(*size), 2)
    model = VitMatteForImageMatting.from_pretrained(directory, local_files_only=True)
    with torch.no_grad():
        inputs = VitMatteImageProcessorPil().preprocess(images=pixels, trimaps=known, return_tensors="pt")
        stock = model(**inputs).alphas[0, 0, : size[0], : size[1]].numpy()
    out = VitMatte(directory)(pixels, disc(*size), 2)
    assert np.abs(out - stock)[known == 128].max() < 1e-5
    assert (out[known == 255] == 1).all()
    assert (out[known == 0] == 0).all()


def test_large_photos_are_seen_smaller(directory: Path) -> None:
    """A photo that is larger than the network sees has a matte of its own size, exact away from the edge."""
    matte = VitMatte(directory)(photo(300, 1300), disc(75, 325), 4)
    assert matte.shape == (300, 1300)
    assert matte[150, 650] == 1
    assert (matte[:, :400] == 0).all()


def test_nothing_open_asks_nothing(directory: Path) -> None:
    """A matte that is 1 everywhere stays so, whatever the network would say."""
    assert (VitMatte(directory)(photo(40, 50), np.ones((40, 50), np.float32), 2) == 1).all()


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    """A directory without weights is refused, and nothing is looked for elsewhere."""
    with pytest.raises(OSError, match=str(tmp_path)):
        VitMatte(tmp_path)


def test_it_computes_in_float32(directory: Path, tmp_path: Path) -> None:
    """A file in half precision is computed in float32, whatever its configuration says: the opacities are those of its weights."""
    half = edge_model(tmp_path / "half")
    rounded = {name: value.half() if value.is_floating_point() else value for name, value in weights_of(half).items()}
    put_weights(half, rounded)
    reconfigure(half, dtype="float16")
    out = VitMatte(half)(photo(64, 96), disc(64, 96), 2)
    assert np.abs(out - VitMatte(directory)(photo(64, 96), disc(64, 96), 2)).max() < 1e-3


def on_a_device_that_raises(matting: VitMatte, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> VitMatte:
    """``matting`` on a device that is there on every machine, and on which each call ends in ``error``."""
    matting.to("meta")
    stock = VitMatteForImageMatting.forward

    def forward(self: Any, planes: torch.Tensor) -> Any:
        if planes.device.type == "meta":
            raise error
        return stock(self, planes)

    monkeypatch.setattr(VitMatteForImageMatting, "forward", forward)
    return matting


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDNN_STATUS_ALLOC_FAILED")])
def test_without_room_on_the_device_an_edge_is_drawn_on_the_cpu(
    directory: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    """A picture for which the device has no room gets its edge from the CPU, the same one, and the log says so."""
    expected = VitMatte(directory)(photo(64, 96), disc(64, 96), 2)
    full = on_a_device_that_raises(VitMatte(directory), monkeypatch, error)
    with capture_logs() as logs:
        np.testing.assert_array_equal(full(photo(64, 96), disc(64, 96), 2), expected)
    assert [(line["event"], line["device"]) for line in logs] == [("edge_drawn_on_cpu", "meta")]


def test_other_errors_of_the_device_are_the_jobs(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no lack of memory is not hidden by a call on the CPU."""
    broken = on_a_device_that_raises(VitMatte(directory), monkeypatch, RuntimeError("a kernel went wrong"))
    with pytest.raises(RuntimeError, match="a kernel went wrong"):
        broken(photo(64, 96), disc(64, 96), 2)


def test_trimap_leaves_open_what_may_be_off() -> None:
    """Around the edge as far as the matte may be off is open; a matte made of 0 and 1 is open along its edge."""
    matte = np.zeros((40, 40), np.float32)
    matte[:, 20:] = 1
    assert trimap(matte, 4)[20].tolist() == [0] * 13 + [128] * 14 + [255] * 13
