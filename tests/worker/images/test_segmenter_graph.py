"""The segmentation network's graph, rewritten to run fast, with the real network."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from worker.images.segmenter_graph import simplified

MODEL = (Path(sys.prefix) / "share/outfill/models/u2netp.onnx").read_bytes()
Pictures = npt.NDArray[np.float32]


def session(model: bytes, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if optimised is not None:
        options.log_severity_level = 3  # it warns that such a file is for this CPU only
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def drawn(count: int) -> Pictures:
    """``count`` discs on a noisy ground, each elsewhere and of another colour, as the network sees pictures."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:320, :320]
    out = rng.normal(0, 0.1, (count, 3, 320, 320)).astype(np.float32) - 1
    for picture in out:
        row, column, radius = *rng.uniform(100, 220, 2), rng.uniform(40, 90)
        picture[:, (rows - row) ** 2 + (columns - column) ** 2 < radius**2] += rng.uniform(1, 3, (3, 1)).astype(np.float32)
    return out


def test_same_map() -> None:
    """The simplified network's map is the file's own, to 1e-4, of one picture and of several at once."""
    pictures = drawn(3)
    original, faster = session(MODEL), session(simplified(MODEL))
    expected = np.concatenate([original.run(None, {"input.1": picture[None]})[0] for picture in pictures])
    assert (expected.max((1, 2, 3)) > 0.9).all()  # something is found in each, and not everywhere
    assert (expected.min((1, 2, 3)) < 0.1).all()
    np.testing.assert_allclose(faster.run(None, {"input.1": pictures})[0], expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(faster.run(None, {"input.1": pictures[:1]})[0], expected[:1], rtol=0, atol=1e-4)


def test_what_is_left(tmp_path: Path) -> None:
    """No tensor is rearranged for a convolution as the simplified network runs, and it has one output."""
    faster = session(simplified(MODEL), tmp_path / "optimised.onnx")
    assert [value.shape for value in faster.get_outputs()] == [["N", 1, 320, 320]]
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert counts["Conv"] == 119
    assert counts["ReorderInput"] == 0
    assert counts["ReorderOutput"] < 10  # of maps of one channel, which convolutions of blocks of channels do not take


def test_always_the_same() -> None:
    """The same file gives the same bytes, and a simplified one is left as it is."""
    once = simplified(MODEL)
    assert simplified(MODEL) == once
    assert simplified(once) == once


def network(*nodes: onnx.NodeProto, inputs: int = 1) -> bytes:
    """A network of ``nodes`` from ``x0 (1, 2, 4, 6)`` to ``y``; ``kernel`` is a 1×1 convolution's, ``size`` (1, 2, 8, 12), ``uneven`` (1, 2, 6, 9)."""
    sizes = {"size": [1, 2, 8, 12], "uneven": [1, 2, 6, 9]}
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in sizes.items()]
    constants.append(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "kernel"))
    given = [helper.make_tensor_value_info(f"x{number}", onnx.TensorProto.FLOAT, [1, 2, 4, 6]) for number in range(inputs)]
    graph = helper.make_graph(list(nodes), "small", given, [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)], constants)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())


def resize(size: str, mode: str = "linear", place: str = "pytorch_half_pixel") -> onnx.NodeProto:
    return helper.make_node("Resize", ["x0", "", "", size], ["up"], "Up", mode=mode, coordinate_transformation_mode=place)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(helper.make_node("Softmax", ["x0"], ["y"])), "an operation Softmax"),
        (lambda: network(helper.make_node("Add", ["x0", "x1"], ["y"]), inputs=2), "2 inputs"),
        (lambda: network(resize("size", "nearest"), helper.make_node("Concat", ["up", "up"], ["y"], axis=1)), "Up resizes by b'nearest'"),
        (
            lambda: network(resize("size", place="align_corners"), helper.make_node("Concat", ["up", "up"], ["y"], axis=1)),
            "b'align_corners'",
        ),
        (lambda: network(resize("uneven"), helper.make_node("Concat", ["up", "up"], ["y"], axis=1)), r"Up makes \[6, 9\] of \[4, 6\]"),
        (lambda: network(resize("size"), helper.make_node("Relu", ["up"], ["y"])), r"Up makes \[\] of \[4, 6\]"),
    ],
)
def test_another_kind_of_network(make: Callable[[], bytes], message: str) -> None:
    """A network that has operations or sizes of another kind is refused with what they are."""
    with pytest.raises(ValueError, match=message):
        simplified(make())
