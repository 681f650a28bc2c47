"""Segmenter directories: their cards, and files that reach beyond themselves."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from onnx_graphs import FACTS, network, node, segmenter, within_a_branch

from api_schemas.models import U2NETP, EngineKind
from api_schemas.requests import Operation
from core.settings import Models
from worker.engines.cards import read_card
from worker.engines.notes import UnsupportedModelError
from worker.engines.onnx_file import check_onnx
from worker.engines.segmenter import load_network, try_out
from worker.images.network import CPU


def written(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "net.onnx"
    file.write_bytes(data)
    return file


def test_the_card_says_what_the_directory_says(tmp_path: Path) -> None:
    """A segmenter removes backgrounds at its side's size; licence, revision and description are those of ``outfill.json``."""
    notes: dict[str, Any] = {"description": "Ours.", "revision": "7", "licence": {"id": "MIT", "url": None, "commercial_use": True}}
    card = read_card(segmenter(tmp_path / "shop", **notes), "shop")
    assert (card.id, card.engine, card.operations) == ("shop", EngineKind.CUTOUT, (Operation.REMOVE_BACKGROUND,))
    assert (card.description, card.revision, card.licence.id, card.licence.commercial_use) == ("Ours.", "7", "MIT", True)
    assert (card.native_size, card.memory_bytes) == (64, len(network()))


def test_without_notes_the_weights_pin_it(tmp_path: Path) -> None:
    """Without an ``outfill.json`` the revision is the SHA-256 of the ONNX file, and of its licence nothing is known."""
    card = read_card(segmenter(tmp_path / "shop"), "shop")
    assert card.revision == f"sha256:{hashlib.sha256(network()).hexdigest()}"
    assert card.licence.commercial_use is None


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({**FACTS, "side": "64"}, "segmenter.json: side: Input should be a valid integer"),
        ({**FACTS, "side": 16}, "segmenter.json: side: Input should be greater than or equal to 32"),
        ({**FACTS, "std": [1, 0, 1]}, "segmenter.json: std.1: Input should be greater than 0"),
        ({**FACTS, "mean": [0, 0]}, "segmenter.json: mean.2: Field required"),
        ({**FACTS, "size": 64}, "segmenter.json: size: Extra inputs are not permitted"),
        ({**FACTS, "output": "sigmoid"}, "segmenter.json: output: Input should be 'probability' or 'logits'"),
        ([], "segmenter.json: it: Input should be an object"),
    ],
)
def test_facts_that_are_wrong_are_named(tmp_path: Path, facts: Any, says: str) -> None:
    """A ``segmenter.json`` with a wrong, missing or unknown field is refused by the file's and the field's name."""
    with pytest.raises(UnsupportedModelError) as caught:
        read_card(segmenter(tmp_path / "shop", facts=facts), "shop")
    assert says in str(caught.value)


def test_notes_that_are_wrong_are_named(tmp_path: Path) -> None:
    """An ``outfill.json`` with a field that segmenters do not have is refused by its name."""
    with pytest.raises(UnsupportedModelError, match=r"outfill\.json: sampling: Extra inputs"):
        read_card(segmenter(tmp_path / "shop", sampling={}), "shop")


def test_a_directory_holds_one_network(tmp_path: Path) -> None:
    """Two ONNX files, none, or a pipeline beside the segmenter are refused; so is a directory that holds no model."""
    both, none, mixed, other = (segmenter(tmp_path / name) for name in ("both", "none", "mixed", "other"))
    (both / "more.onnx").write_bytes(network())
    (none / "net.onnx").unlink()
    (mixed / "model_index.json").write_text("{}")
    (other / "segmenter.json").unlink()
    for directory, says in (
        (both, "has one .onnx file; there are: more.onnx, net.onnx"),
        (none, "has one .onnx file; there are: none"),
        (mixed, "has model_index.json and segmenter.json"),
        (other, r"no model_index\.json, no segmenter\.json and no config\.json"),
    ):
        with pytest.raises(UnsupportedModelError, match=says):
            read_card(directory, "x")


@pytest.mark.parametrize("where", ["weights.bin", "/etc/passwd", "../weights.bin"])
def test_weights_in_other_files_are_refused(tmp_path: Path, where: str) -> None:
    """A file that keeps weights elsewhere, wherever that is, is refused before it is loaded."""
    with pytest.raises(UnsupportedModelError, match=r"external data.*save it as one file"):
        check_onnx(written(tmp_path, network(external=where)))


def test_operators_of_other_libraries_are_refused(tmp_path: Path) -> None:
    """An operator of a domain that onnxruntime does not bring is named and refused, in the branch of another one too."""
    with pytest.raises(UnsupportedModelError, match=r"the operator Odd of com\.example"):
        check_onnx(written(tmp_path, network(domain="com.example")))
    with pytest.raises(UnsupportedModelError, match=r"the operator Odd of com\.example"):
        check_onnx(written(tmp_path, within_a_branch(node("Odd", ["x"], "z", "com.example"))))
    check_onnx(written(tmp_path, within_a_branch(node("Relu", ["x"], "z"))))


def nested(inner: onnx.AttributeProto) -> dict[str, onnx.ModelProto]:
    """Models with an attribute at each place where an operator, and so an attribute, can stand."""
    holder = helper.make_node("Relu", ["x"], ["y"])
    holder.attribute.append(inner)
    graph, plain = (helper.make_graph(nodes, "g", [], []) for nodes in ([holder], [helper.make_node("Relu", ["x"], ["y"])]))
    function = helper.make_function("", "Own", ["x"], ["y"], [holder], [helper.make_opsetid("", 17)])
    by_default = helper.make_function("", "Own", ["x"], ["y"], list(plain.node), [helper.make_opsetid("", 17)])
    by_default.attribute_proto.append(inner)
    trained = helper.make_model(plain)
    trained.training_info.add().algorithm.CopyFrom(graph)
    return {
        "graph": helper.make_model(graph),
        "branch": helper.make_model(helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=graph)], "g", [], [])),
        "function": helper.make_model(plain, functions=[function]),
        "default": helper.make_model(plain, functions=[by_default]),
        "training": trained,
    }


@pytest.mark.parametrize("place", ["graph", "branch", "function", "default", "training"])
@pytest.mark.parametrize("kind", ["tensor", "tensors", "sparse"])
def test_weights_in_other_files_are_refused_wherever_they_stand(tmp_path: Path, place: str, kind: str) -> None:
    """A tensor in an attribute is found, dense or sparse, in branches, functions, their defaults, and what is only for training."""
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [0.0])
    for located in (False, True):
        if located:
            tensor.ClearField("float_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
        indices = helper.make_tensor("i", onnx.TensorProto.INT64, [1], [0])
        value = {"tensor": tensor, "tensors": [tensor], "sparse": helper.make_sparse_tensor(tensor, indices, [1])}[kind]
        file = written(tmp_path, nested(helper.make_attribute("value", value))[place].SerializeToString())
        if located:
            with pytest.raises(UnsupportedModelError, match="external data"):
                check_onnx(file)
        else:
            check_onnx(file)


@pytest.mark.parametrize("place", ["graph", "branch", "function", "default", "training"])
def test_operators_of_other_libraries_are_refused_wherever_they_stand(tmp_path: Path, place: str) -> None:
    """An operator of another library is found in each place that can hold a graph; one of a function of the file's own is none."""
    graph = helper.make_graph([helper.make_node("Odd", ["x"], ["z"], domain="com.example")], "g", [], [])
    model = nested(helper.make_attribute("body", graph))[place]
    with pytest.raises(UnsupportedModelError, match=r"the operator Odd of com\.example"):
        check_onnx(written(tmp_path, model.SerializeToString()))
    body = [helper.make_node("Relu", ["x"], ["z"])]
    model.functions.append(helper.make_function("com.example", "Odd", ["x"], ["z"], body, [helper.make_opsetid("", 17)]))
    check_onnx(written(tmp_path, model.SerializeToString()))


def test_the_file_that_ships_is_accepted() -> None:
    """U²-Net's own file, exported by PyTorch, passes the check, and its digest is the card's revision."""
    file = Models().store / "u2netp.onnx"
    check_onnx(file)
    assert U2NETP.revision == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80\x02}q\x00.", b"no graph", network()[:-5], b"\x08\x08", b"\x3a\x00", b"\x3a" * 5000, b"\xff" * 64],
    ids=["empty", "pickle", "text", "cut off", "no graph", "empty graph", "nested", "endless number"],
)
def test_other_bytes_are_no_onnx_file(tmp_path: Path, data: bytes) -> None:
    """Damaged files and other formats are refused as what they are, and not by an error of the reader's."""
    with pytest.raises(UnsupportedModelError, match=r"is not an ONNX file|is empty"):
        check_onnx(written(tmp_path, data))


def test_deeply_nested_graphs_are_refused(tmp_path: Path) -> None:
    """A graph within a graph within a graph, a thousand times, ends in a refusal."""
    from onnx_graphs import block

    inner = node("If", ["x"], "y")
    for _ in range(1000):
        inner = block(1, block(4, "If") + block(5, block(6, inner)))
    with pytest.raises(UnsupportedModelError, match="is not an ONNX file"):
        check_onnx(written(tmp_path, block(7, inner)))


def test_what_onnxruntime_does_not_load_is_refused(tmp_path: Path) -> None:
    """A graph that is sound to look at, and has an operator that there is not, is refused when it is loaded."""
    directory = segmenter(tmp_path / "shop")
    (directory / "net.onnx").write_bytes(network(domain="ai.onnx"))
    assert read_card(directory, "shop").id == "shop"
    with pytest.raises(UnsupportedModelError, match="not an ONNX file that runs"):
        load_network(directory, (CPU,))


def test_a_network_is_tried_out(tmp_path: Path) -> None:
    """One that answers with logits and is said to answer with probabilities is refused, and the other way round; told right, it is taken."""
    directory = segmenter(tmp_path / "shop")
    try_out(directory)
    (directory / "net.onnx").write_bytes(network(sigmoid=False))
    with pytest.raises(UnsupportedModelError, match=r"values of -20 to 20.*are they logits"):
        try_out(directory)
    (directory / "segmenter.json").write_text(json.dumps({**FACTS, "output": "logits"}))
    try_out(directory)
    (directory / "net.onnx").write_bytes(network())
    with pytest.raises(UnsupportedModelError, match="probabilities and no logits"):
        try_out(directory)
    (directory / "net.onnx").write_bytes(network(channels=2))
    with pytest.raises(UnsupportedModelError, match=r"does not run: .*expected one map"):
        try_out(directory)


def test_a_card_is_read_without_libraries_of_models(tmp_path: Path) -> None:
    """Looking at a segmenter imports neither onnxruntime nor torch."""
    directory = segmenter(tmp_path / "shop")
    script = f"""
import sys
from pathlib import Path
from worker.engines.cards import read_card
read_card(Path({str(directory)!r}), "x")
assert not {{"onnxruntime", "torch"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
