"""ViTMatte as an optional matting: what it says is what the stock pipeline says."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting
from transformers.models.vitmatte.image_processing_pil_vitmatte import VitMatteImageProcessorPil

from worker.engines.vitmatte import VitMatte, trimap


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights, as it would lie in the model store."""
    torch.manual_seed(0)
    backbone = VitDetConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_channels=4,
        image_size=64,
        pretrain_image_size=64,
        mlp_ratio=2,
        use_relative_position_embeddings=True,
        out_features=["stage2"],  # type: ignore[call-arg] # it is a property, and set
    )
    config = VitMatteConfig(
        backbone_config=backbone, hidden_size=32, fusion_hidden_sizes=[32, 16, 8, 4], convstream_hidden_sizes=[8, 12, 16]
    )
    path = tmp_path_factory.mktemp("vitmatte")
    VitMatteForImageMatting(config).save_pretrained(path)
    return path


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


def test_trimap_leaves_open_what_may_be_off() -> None:
    """Around the edge as far as the matte may be off is open; a matte made of 0 and 1 is open along its edge."""
    matte = np.zeros((40, 40), np.float32)
    matte[:, 20:] = 1
    assert trimap(matte, 4)[20].tolist() == [0] * 13 + [128] * 14 + [255] * 13
