"""Every item's code runs on a CPU with tiny weights, so that nothing but CUDA is left to find out on a rented machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from scripts import true_size
from scripts.gpu_facts.answers import Answers
from scripts.gpu_facts.bench import limited
from scripts.gpu_facts.catalogue import ITEMS
from scripts.gpu_facts.compiled import compile_call
from scripts.gpu_facts.estimates import ESTIMATES
from scripts.gpu_facts.findings import Deadline, DeadlineOver, Findings
from scripts.gpu_facts.items import memory, regional
from scripts.gpu_facts.items.graphs import Recording
from scripts.gpu_facts.items.regional import CompiledBlocks
from scripts.gpu_facts.runner import Item, Runner
from scripts.gpu_facts.stage import STOCK_ATTENTION, Stage, relative_error, unet_inputs
from worker.engines.diffusion.fastest_attention import FastestAttention, FastestAttnProcessor

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
LACKING = ("needs a CUDA device: ", "the package ")
"""Beginnings of refusals that this machine has a reason for."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A rehearsal's."""
    threads = torch.get_num_threads()
    yield Stage(tmp_path_factory.mktemp("stage"), rehearsal=True)
    torch.set_num_threads(threads)


class Asked(dict[str, float | None]):
    """Has every figure, and remembers which were asked for."""

    def __missing__(self, name: str) -> float:
        self[name] = 2.0
        return 2.0

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - a mapping's signature
        return self[name]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Of one rehearsal."""
    return Answers(tmp_path_factory.mktemp("answers") / "facts.jsonl")


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name.replace(" ", "-"))
def test_an_item_is_rehearsed(stage: Stage, answers: Answers, item: Item[Stage]) -> None:
    """An item runs through without a fault, claims no figure, and refuses by name what a CPU cannot do."""
    assert Runner(stage, answers).run([item]) == 0
    answer = answers.by_item[item.number]
    assert answer["answer"] == "measured", answer.get("reason")
    assert answer["rehearsed"]
    assert "figures" not in answer
    assert answer.get("faults", {}) == {}
    assert [reason for reason in answer.get("refused", {}).values() if not reason.startswith(LACKING)] == []
    if item.number == 2:  # both sides are built of the same modules, so they must agree
        assert max(answer["rehearsed"].values()) <= 1e-4
    if item.number == 1:  # on a CPU torch has one fast kernel, and the tiny UNets have shapes for it
        assert {each.rpartition(" ")[2] for each in answer["words"]["sd15_sdpa_choice"].split("; ")} == {"flash"}
    if item.number == 3:
        assert answer["words"]["sd15_default_attention_kernels"].startswith("aten::_scaled_dot_product_flash_attention_for_cpu")


def test_figures_that_are_asked_for_are_figures_that_items_answer(stage: Stage, answers: Answers) -> None:
    """The report and the benchmark's limits take no figure by a name that no item gives; what needs CUDA is named here."""
    assert Runner(stage, answers).run(ITEMS) == 0  # those of the tests before, where they were run
    given = {name for answer in answers.by_item.values() for name in answer["rehearsed"]}
    asked = Asked()
    for estimate in ESTIMATES:
        estimate.measured(asked)
    for mode in ("eager", "compiled"):
        assert asked[f"sd15_outfill_{mode}_picture_s"]
    limited("NVIDIA H100", asked)
    cuda_only = {name for name in asked if any(part in name for part in ("_cudnn_", "_efficient_", "_xformers_", "_as_torch_begins_"))}
    assert set(asked) - cuda_only <= given


def test_a_replay_computes_from_what_its_inputs_hold(stage: Stage) -> None:
    """A recording that is fed other values answers for them, as a CUDA graph over static buffers would."""
    parts = stage.parts("sdxl-inpaint")
    with torch.inference_mode():
        recording = Recording(stage, parts.unet, unet_inputs(parts, 2, 8), None)
        first = recording.replay().clone()
        other = unet_inputs(parts, 2, 8, seed=1)
        recording.feed(other)
        assert relative_error(recording.replay(), parts.unet(**other, return_dict=False)[0]) <= 1e-5
        assert relative_error(recording.output, first) > 0.01


def test_blocks_are_compiled_once_for_all_rows_and_can_be_taken_back(stage: Stage) -> None:
    """Blocks compiled with the batch dynamic answer for other rows without another graph; afterwards the UNet is as it was."""
    graphs: list[int] = []

    def counting(module: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(len(module.graph.nodes))
        return module.forward

    parts = stage.parts("sd15-inpaint")
    inputs = {rows: unet_inputs(parts, rows, 8) for rows in (2, 6)}
    with torch.inference_mode():
        plain = {rows: parts.unet(**given, return_dict=False)[0] for rows, given in inputs.items()}
        with CompiledBlocks(parts.unet, ("BasicTransformerBlock",), backend=counting):
            assert relative_error(parts.unet(**inputs[2], return_dict=False)[0], plain[2]) <= 1e-5
            compiled = len(graphs)
            assert relative_error(parts.unet(**inputs[6], return_dict=False)[0], plain[6]) <= 1e-5
        assert 0 < compiled == len(graphs)
        assert relative_error(parts.unet(**inputs[6], return_dict=False)[0], plain[6]) == 0
        assert len(graphs) == compiled
    assert not any("forward" in vars(module) for module in parts.unet.modules())
    stage.release()


@pytest.mark.parametrize(
    ("kind", "parameters", "size"), [("sd15-inpaint", 859_535_364, 512), ("sdxl-inpaint", 2_567_478_084, 1024), ("sd15", 859_520_964, 512)]
)
def test_pipelines_are_drawn_with_their_true_sizes(kind: str, parameters: int, size: int) -> None:
    """A pipeline drawn on a device has the parameters of the real model, in half precision, and a card of its native size."""
    drawn = true_size.draw(kind, "meta")
    assert sum(parameter.numel() for parameter in drawn.parts.unet.parameters()) == parameters
    models = (drawn.parts.unet, drawn.parts.vae, *drawn.parts.text_encoders.values())
    assert {parameter.dtype for model in models for parameter in model.parameters()} == {torch.float16}
    assert drawn.card.native_size == size
    assert len(drawn.parts.tokenizers) == len(drawn.parts.text_encoders)


def with_exception(stage: Stage, kind: str) -> FastestAttnProcessor:
    """Have the UNet of ``kind`` use a processor with a kernel of its own for one shape."""
    processor = FastestAttnProcessor(FastestAttention(("flash",), {(64, 64, 8): "math"}))
    stage.parts(kind).unet.set_attn_processor(processor)
    return processor


def test_the_stock_side_has_the_stock_attention(stage: Stage) -> None:
    """While the stock pipeline is measured no processor of ours is in the UNet; afterwards they are there again."""
    ours = with_exception(stage, "sd15-inpaint")
    unet = stage.parts("sd15-inpaint").unet
    with stage.stock_attention("sd15-inpaint"):
        assert set(unet.attn_processors.values()) == {STOCK_ATTENTION}
    assert set(unet.attn_processors.values()) == {ours}


@pytest.mark.parametrize("kind", ["sd15-inpaint", "sdxl-inpaint"])
def test_an_engine_does_not_inherit_attention(stage: Stage, kind: str) -> None:
    """An engine over a UNet that another engine has used begins with the stock processors."""
    with_exception(stage, kind)
    stage.engine(kind)
    assert set(stage.parts(kind).unet.attn_processors.values()) == {STOCK_ATTENTION}


@pytest.mark.parametrize("item", ["attention", "graphs", "layouts"])
def test_a_bare_unet_is_measured_with_the_stock_attention(stage: Stage, item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that call the UNet itself take the kernels off that an engine has put into it."""
    module = import_module(f"scripts.gpu_facts.items.{item}")
    monkeypatch.setattr(module, "FAMILIES", ("sd15",))
    with_exception(stage, "sd15-inpaint")
    module.run(stage, Findings(Deadline(60)))
    assert set(stage.parts("sd15-inpaint").unet.attn_processors.values()) == {STOCK_ATTENTION}


@pytest.mark.parametrize(("item", "parts"), [("regional", {"sd15_compiled_pictures"}), ("late_lora", {"sd15_compiled"})])
def test_a_compiler_that_fails_is_a_fault(stage: Stage, item: str, parts: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where compiling fails there is no figure that is called compiled, and the fault has the compiler's words."""

    def broken(_module: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
        raise ValueError("ptxas was not found")

    monkeypatch.setattr(Stage, "backend", staticmethod(broken))
    module = import_module(f"scripts.gpu_facts.items.{item}")
    if item == "regional":
        monkeypatch.setattr(module, "FAMILIES", ("sd15",))
    findings = Findings(Deadline(60))
    module.run(stage, findings)
    assert parts <= set(findings.faults)
    assert all("ptxas was not found" in fault for fault in findings.faults.values())
    assert [name for name in findings.figures if "compiled" in name or "regional" in name] == []


def test_what_did_not_run_compiled_is_not_called_compiled(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose calls ran uncompiled although nothing failed gives no compiled figure, and a fault that counts them."""
    monkeypatch.setattr(regional, "compile_call", lambda _engine: lambda rows: rows)
    findings = Findings(Deadline(60))
    with pytest.raises(RuntimeError, match="5 UNet calls ran uncompiled and 0 compiled"):
        regional._pictures(stage, findings, "sd15")
    assert findings.figures == {}


def test_a_whole_unet_is_not_compiled_without_time_for_it() -> None:
    """An item whose last compilation would not come back in time ends there, as one whose time is over."""
    findings = Findings(Deadline(regional.WHOLE_S["sd15"] - 1))
    with pytest.raises(DeadlineOver, match="s were left, and compiling the whole UNet of sd15 takes"):
        regional._pictures(cast("Stage", SimpleNamespace(rehearsal=False)), findings, "sd15")


def test_words_of_errors_are_noted_after_each_tightness(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device is filled from loose to tight, as far as it can be: what was said until then is noted, and no fault."""
    tried: list[float] = []
    unet = stage.parts("sd15-inpaint").unet

    def fail(_module: torch.nn.Module, _inputs: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")

    @contextmanager
    def filled(gib: float) -> Iterator[None]:
        tried.append(gib)
        if gib < 0.2:
            raise torch.OutOfMemoryError("for the ballast")
        with unet.register_forward_pre_hook(fail):
            yield

    monkeypatch.setattr(stage.device, "needs_cuda", lambda _what: None)
    monkeypatch.setattr(stage.device, "filled", filled)
    findings = Findings(Deadline(60))
    memory._words(stage, findings)
    assert tried == [1.0, 0.3, 0.1]
    assert findings.figures == {"out_of_memory_seen_count": 1, "out_of_memory_not_seen_count": 0}
    assert findings.words == {
        "words_0_seen": "Tried to allocate . GiB",
        "not_so_tight": "the device could not be filled up to 0.1 GiB",
    }


def test_the_stock_side_decodes_as_it_comes(stage: Stage) -> None:
    """The stock pipeline's VAE is neither sliced nor tiled where an engine has sliced and tiled its own."""
    engine = stage.engine("sd15-inpaint", vae_slicing=True, vae_tiling=True)
    vae = stage.stock("sd15-inpaint").vae
    assert (vae.use_slicing, vae.use_tiling) == (False, False)
    assert (engine._vae.use_slicing, engine._vae.use_tiling) == (True, True)
    stage.drop("sd15-inpaint")


def test_what_compiles_has_chosen_its_attention(stage: Stage) -> None:
    """An engine that is compiled for one number of rows has measured its kernels first, as its warm-up does."""
    engine = stage.engine("sd15-inpaint", compile=True, must_compile=True)
    compile_call(engine)
    fastest = stage.unet_call(engine)._fastest
    assert fastest is not None
    assert fastest.by_shape
    assert not engine._unet.is_compiled
