"""A segmentation network's ONNX graph, written so that it runs fast on a CPU: the same map, from fewer operations."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

_KEPT = frozenset({"Add", "Concat", "Conv", "MaxPool", "Relu", "Sigmoid"})
"""Operations that mean the same in the opset of the file as in ``_OPSET``, and that compute no shape."""
_RESIZE = "Resize"
_MODES = {b"half_pixel", b"pytorch_half_pixel"}
"""Ways to place samples that agree wherever a side has more than one pixel."""
_OPSET, _IR = 13, 8


def simplified(model: bytes) -> bytes:
    """The ONNX file ``model`` with its first output alone, ``float32 (N, 1, H, W)`` for any ``N`` of ``float32 (N, C, H, W)``.

    As PyTorch exports it, an enlargement computes its size from the shapes of other tensors as the network runs. That size is the one of what it is
    concatenated with; and where it is a constant factor onnxruntime leaves all tensors in the layout of its convolutions, instead of rearranging each one for the enlargement and back.
    Values differ from the file's own by rounding (1e-5). Raises ``ValueError`` where the network has operations or sizes of another kind.
    """
    graph = shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    if len(graph.input) != 1:
        raise ValueError(f"The network has {len(graph.input)} inputs, not one.")
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    target, source = graph.output[0].name, graph.input[0].name
    sides = {
        name: shapes[node.output[0]][2:]
        for node in graph.node
        if node.op_type == "Concat"
        for name in node.input
        if node.output[0] in shapes
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    needed = {target}
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        if node.op_type == _RESIZE:
            factor = _factor(node, shapes.get(node.input[0], [])[2:], sides.get(node.output[0], []))
            constants[factor.name] = factor
            node = _enlargement(node, factor.name)  # noqa: PLW2901 - the node that takes its place
        elif node.op_type not in _KEPT:
            raise ValueError(f"The network has an operation {node.op_type}.")
        nodes.insert(0, node)
        needed.update(node.input)
    faster = helper.make_graph(
        nodes,
        graph.name,
        [helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, ["N", *shapes[source][1:]])],
        [helper.make_tensor_value_info(target, onnx.TensorProto.FLOAT, ["N", *shapes[target][1:]])],
        [tensor for name, tensor in constants.items() if name in needed],
    )
    out = helper.make_model(faster, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(out)
    return bytes(out.SerializeToString())


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """The shape of ``value``; 0 where a side is not known."""
    return [side.dim_value for side in value.type.tensor_type.shape.dim]


def _factor(node: onnx.NodeProto, before: list[int], after: list[int]) -> onnx.TensorProto:
    """How much larger a resizing ``node`` makes sides ``before``, as its scales. Raises ``ValueError`` where that is no whole number."""
    if (
        len(before) != 2
        or len(after) != 2
        or min(before) < 2
        or after[0] % before[0]
        or after != [after[0] // before[0] * side for side in before]
    ):
        raise ValueError(
            f"{node.name or node.output[0]} makes {after} of {before}: sides that are not known, of one pixel, or no whole factor apart."
        )
    factor = after[0] // before[0]
    return numpy_helper.from_array(np.array([1, 1, factor, factor], np.float32), f"enlarged_{factor}")


def _enlargement(node: onnx.NodeProto, factor: str) -> onnx.NodeProto:
    """The resizing ``node`` by a constant ``factor``. Raises ``ValueError`` where it is not linear, or places samples in another way."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    mode, place = given.get("mode"), given.get("coordinate_transformation_mode", b"half_pixel")
    if mode != b"linear" or place not in _MODES:
        raise ValueError(f"{node.name or node.output[0]} resizes by {mode!r}, {place!r}.")
    return helper.make_node(
        _RESIZE, [node.input[0], "", factor], list(node.output), node.name, mode="linear", coordinate_transformation_mode="half_pixel"
    )
