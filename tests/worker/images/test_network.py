"""Networks of known weights: what they are shown, how their answers are read, and where they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_graphs import DARK, FACTS, LIT, network, sigmoid
from pydantic import ValidationError

from api_schemas.errors import EngineFailed
from worker.images.facts import PRESETS, NetworkFacts
from worker.images.network import CPU, Network, providers_for
from worker.images.subject import Segmenter

SIDE = 64


def facts(**changes: object) -> NetworkFacts:
    return NetworkFacts.model_validate({**FACTS, "mean": (0.0,) * 3, "std": (1.0,) * 3, **changes})


def load(tmp_path: Path, data: bytes, told: NetworkFacts | None = None) -> Network:
    file = tmp_path / "net.onnx"
    file.write_bytes(data)
    return Network(file, told or facts())


def grey(level: int, height: int = SIDE, width: int = SIDE) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), level, np.uint8)


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("level", [0, 100, 130, 255])
def test_a_map_is_what_the_weights_say(tmp_path: Path, level: int, kind: str) -> None:
    """The map of a plain picture is sigmoid(gain × level / 255 + bias), in either precision of the file."""
    half = kind == "float16"
    (found,) = load(tmp_path, network((4.0, -2.0), half=half)).maps([grey(level)])
    assert found.dtype == np.float32
    assert found.shape == (SIDE, SIDE)
    np.testing.assert_allclose(found, sigmoid(4 * level / 255 - 2), atol=2e-3 if half else 1e-6)


def test_pictures_are_prepared_as_the_facts_say(tmp_path: Path) -> None:
    """Levels are divided by 255 or by the view's maximum, the mean is subtracted and the deviation divides."""
    data, picture = network((1.0, 0.0)), grey(100)
    told = facts(mean=(0.25, 0.0, 0.0), std=(0.5, 1.0, 1.0))
    np.testing.assert_allclose(load(tmp_path, data, told).maps([picture])[0], sigmoid((100 / 255 - 0.25) / 0.5), atol=1e-6)
    told = facts(mean=(0.25, 0.0, 0.0), divide_by="maximum")
    np.testing.assert_allclose(load(tmp_path, data, told).maps([picture])[0], sigmoid(1 - 0.25), atol=1e-6)


def test_logits_are_made_probabilities(tmp_path: Path) -> None:
    """A graph without a sigmoid, said to answer with logits, gives the map of the graph that has one."""
    picture = np.linspace(0, 255, SIDE, dtype=np.uint8)[None, :, None].repeat(SIDE, 0).repeat(3, 2)
    (plain,) = load(tmp_path, network((4.0, -2.0))).maps([picture])
    (logits,) = load(tmp_path, network((4.0, -2.0), sigmoid=False), facts(output="logits")).maps([picture])
    np.testing.assert_allclose(plain, logits, atol=1e-6)


def test_what_it_finds_becomes_a_matte(tmp_path: Path) -> None:
    """Two networks find two different things in one picture: what is lit, and what is dark."""
    picture = grey(0, 200, 200)
    picture[:, 100:] = 255
    lit = Segmenter(load(tmp_path, network(LIT))).matte(picture)
    assert (lit[:, 110:] == 255).all()
    assert (lit[:, :90] == 0).all()
    dark = Segmenter(load(tmp_path, network(DARK))).matte(picture)
    assert (dark[:, 110:] == 0).all()
    assert (dark[:, :90] == 255).all()


def test_its_edge_is_drawn_by_what_is_given(tmp_path: Path) -> None:
    """A matting that is given draws the edge in place of the built-in one: its opacities are the matte, around what was found."""
    picture = grey(0, 200, 200)
    picture[50:150, 50:150] = 255
    seen = []

    def half(colours: Any, matte: Any, grain: float) -> Any:
        seen.append((colours.shape[:2], float(matte.max()), grain))
        return np.full(colours.shape[:2], 0.5, np.float32)

    matte = Segmenter(load(tmp_path, network(LIT)), edge=half).matte(picture)
    assert set(np.unique(matte)) == {0, 128}
    assert (matte[50:150, 50:150] == 128).all()
    ((window, most, grain),) = seen
    assert window == (np.count_nonzero(matte.any(1)), np.count_nonzero(matte.any(0)))
    assert most == 1
    assert grain > 1


def test_a_graph_that_is_no_such_network_is_refused(tmp_path: Path) -> None:
    """Another size than the facts', several channels in an answer, an output that is not there, and bytes that are no graph: each is said."""
    with pytest.raises(ValueError, match=r"takes pictures of \(1, 3, 32, 32\), and its facts say \(1, 3, 64, 64\)"):
        load(tmp_path, network(side=32))
    with pytest.raises(ValueError, match="no output 'other'; there are: output"):
        load(tmp_path, network(), facts(output_name="other"))
    with pytest.raises(ValueError, match="not an ONNX file that runs"):
        load(tmp_path, b"no graph")
    with pytest.raises(EngineFailed, match=r"\(1, 2, 64, 64\), expected one map"):
        load(tmp_path, network(channels=2)).maps([grey(0)])


def test_a_graph_of_any_size_is_given_the_side_of_the_facts(tmp_path: Path) -> None:
    """Where the file leaves the size open, the facts' side is what it is shown."""
    (found,) = load(tmp_path, network(side="any"), facts(side=96)).maps([grey(255)])
    assert found.shape == (96, 96)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"side": 8}, "side"), ({"std": (1.0, 0.0, 1.0)}, "std"), ({"mean": (0.0, float("nan"), 0.0)}, "mean"), ({"size": 64}, "size")],
)
def test_facts_that_cannot_be_meant_are_refused(changes: dict[str, object], field: str) -> None:
    """A size out of range, a deviation of 0, a mean that is no number, and an unknown field are refused by name."""
    with pytest.raises(ValidationError, match=field):
        facts(**changes)


def test_the_presets_are_what_each_network_was_trained_with() -> None:
    """IS-Net takes (x - 128) / 256 but for half a level, BiRefNet answers with logits, U²-Net divides by the maximum."""
    assert PRESETS["isnet"].mean == (0.5, 0.5, 0.5)
    assert PRESETS["isnet"].std == (1.0, 1.0, 1.0)
    assert [name for name, told in PRESETS.items() if told.output == "logits"] == ["birefnet"]
    assert [name for name, told in PRESETS.items() if told.divide_by == "maximum"] == ["u2net"]
    assert {name: told.side for name, told in PRESETS.items() if name != "u2net"} == dict.fromkeys(
        ("isnet", "inspyrenet", "birefnet", "ben2", "rmbg"), 1024
    )


ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("device", "available", "chosen"),
    [
        ("cpu", ALL, (CPU,)),
        ("auto", ALL, (CPU,)),
        ("cuda", ["AzureExecutionProvider", CPU], (CPU,)),
        ("cuda", ALL, (("CUDAExecutionProvider", {"device_id": 0}), CPU)),
        ("cuda:1", ALL, (("CUDAExecutionProvider", {"device_id": 1}), CPU)),
    ],
)
def test_a_gpu_is_taken_where_worker_and_library_have_one(device: str, available: list[str], chosen: tuple[object, ...]) -> None:
    """A worker on CUDA runs segmenters there if this onnxruntime can, on its own GPU; every other runs them on the CPU."""
    assert providers_for(device, available) == chosen
