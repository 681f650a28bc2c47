"""Calls of a UNet: compiling may fail, adapters may come and go, kernels are chosen by measuring."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from painting import SAMPLING, request_for, result_of
from structlog.testing import capture_logs
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn.functional import scaled_dot_product_attention

from scripts.tiny_pipeline import build, write_lora
from worker.engines.diffusion.card import card_for, lora_file
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.fastest_attention import AttentionShape, FastestAttention, attention_shapes, measure_attention
from worker.engines.diffusion.kernels import attention_kernels
from worker.engines.diffusion.lora import LoraAdapters
from worker.engines.diffusion.parts import Parts, load_parts
from worker.engines.diffusion.residency import apply
from worker.engines.diffusion.unet_call import UnetCall, blank_call, blank_inputs
from worker.metrics import WorkerMetrics
from worker.tuning import PLAIN, TuningRefused

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]
COMPILED = replace(PLAIN, compile=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unet") / "sd15"
    build(directory, kind="sd15-inpaint")
    write_lora(directory, "ink")
    write_lora(directory, "chalk", seed=2)
    return directory


@pytest.fixture
def parts(directory: Path) -> Parts:
    return load_parts(directory, dtype="float32", vae_dtype="float32")


class Backend:
    """Compiles to the graph as it is, until so many graphs were made; then it fails as ``failure`` says."""

    def __init__(self, *, graphs: int = 100, failure: Exception | None = None) -> None:
        self.left, self.failure = graphs, failure or OSError("failed to map segment from shared object")
        self.asked = 0
        self.rows: list[int] = []
        """Of each call of a graph."""

    def __call__(self, graph: Any, _inputs: Any) -> Callable[..., Any]:
        self.asked += 1
        if self.left == 0:
            raise self.failure
        self.left -= 1

        def run(*arguments: Any) -> Any:
            results = graph(*arguments)
            self.rows.append(results[0].shape[0])
            return results

        return run


def rows_of(unet: Any, rows: int, *, side: int = 8) -> dict[str, Any]:
    """A call with random numbers."""
    generator = torch.Generator().manual_seed(rows)
    inputs = blank_inputs(unet, rows, side, side, tokens=77)
    return {
        name: value if value is None else torch.randn(value.shape, generator=generator).to(unet.dtype) for name, value in inputs.items()
    } | {"timestep": torch.linspace(1, 999, rows)}


def predict(unet: Any, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        predicted: torch.Tensor = unet(**inputs, **options)[0]
    return predicted


# -- compiling fails --------------------------------------------------------------------------------------------------


def test_a_compilation_that_fails_leaves_the_model_uncompiled(parts: Parts) -> None:
    """The warm-up goes on without a graph, the log and the model say why, and predictions are those of the module."""
    unet = apply(parts, COMPILED, "cpu", backend=Backend(graphs=0)).unet
    with capture_logs() as logs:
        blank_call(unet, 8, 8, tokens=77)(2)
    (warning,) = [entry for entry in logs if entry["event"] == "compile_failed"]
    assert warning["log_level"] == "warning"
    assert "failed to map segment" in warning["reason"]
    assert not unet.is_compiled
    assert "failed to map segment" in unet.compile_failure
    inputs = rows_of(unet, 2)
    assert torch.equal(predict(unet, inputs), predict(parts.unet, inputs))


def test_a_model_that_must_compile_refuses_to_run_without(parts: Parts) -> None:
    """``OUTFILL_WORKER__COMPILE=on`` ends the start with the reason, as a setting that cannot be granted does."""
    unet = apply(parts, replace(COMPILED, must_compile=True), "cpu", backend=Backend(graphs=0)).unet
    with pytest.raises(TuningRefused, match=r"OUTFILL_WORKER__COMPILE=on: .*failed to map segment"):
        blank_call(unet, 8, 8, tokens=77)(2)


def test_what_was_compiled_before_a_failure_stays(parts: Parts) -> None:
    """A bucket of rows that does not compile is not tried again and runs as it is; smaller ones go on compiled."""
    backend = Backend(graphs=1)
    unet = apply(parts, COMPILED, "cpu", backend=backend).unet
    call = blank_call(unet, 8, 8, tokens=77)
    call(2)
    for _ in range(3):
        call(4)
    assert backend.asked == 2
    assert unet.is_compiled
    assert unet.compile_failure is not None
    compiled = len(backend.rows)
    predict(unet, rows_of(unet, 2))
    assert len(backend.rows) == compiled + 1
    predict(unet, rows_of(unet, 4))
    assert len(backend.rows) == compiled + 1


def test_a_graph_that_no_longer_serves_is_not_counted_as_one(parts: Parts) -> None:
    """Where a guard fails the module runs as it is and unpadded, the log says so once, and the calls count as eager."""
    backend = Backend()
    seen: list[int] = []
    unet = apply(parts, COMPILED, "cpu", backend=backend).unet
    blank_call(unet, 8, 8, tokens=77)(4)
    parts.unet.conv_in.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    parts.unet.requires_grad_(requires_grad=True)
    inputs = rows_of(unet, 3)
    with capture_logs() as logs:
        for _ in range(2):
            predict(unet, inputs)
    assert seen == [3, 3]
    assert [entry["event"] for entry in logs] == ["compiled_graph_lost"]
    assert dict(unet.calls) == {"compiled": 1, "eager": 2}
    assert len(backend.rows) == 1


class Attention(torch.nn.Module):
    """The least that is called as a UNet is."""

    config, dtype, device = SimpleNamespace(addition_embed_type="text"), torch.float32, torch.device("cpu")

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (scaled_dot_product_attention(sample, encoder_hidden_states, encoder_hidden_states) + timestep[0],)


def test_a_longer_context_costs_no_graph() -> None:
    """A call with a longer text than was warmed runs as it is: nothing is compiled for it, and the graph of the others stays."""
    backend = Backend()
    unet = UnetCall(Attention(), COMPILED, backend=backend)
    sample, timestep, short, long = torch.randn(2, 8, 16), torch.zeros(2), torch.randn(2, 77, 16), torch.randn(2, 154, 16)
    unet.warm(sample, timestep, encoder_hidden_states=short)
    for context in (long, short, long):
        assert torch.equal(unet(sample, timestep, encoder_hidden_states=context)[0], scaled_dot_product_attention(sample, context, context))
    assert backend.asked == 1
    assert dict(unet.calls) == {"compiled": 2, "eager": 2}


TWICE = """
import sys, torch
from types import SimpleNamespace
from dataclasses import replace
from worker.engines.diffusion.kernels import attention_kernels
from worker.engines.diffusion.unet_call import UnetCall
from worker.tuning import PLAIN

class Attention(torch.nn.Module):
    config, dtype, device, attn_processors = SimpleNamespace(addition_embed_type="text"), torch.float32, torch.device("cpu"), {}

    def forward(self, sample, timestep, **_):
        return (torch.nn.functional.scaled_dot_product_attention(sample, sample, sample) + timestep[0],)

unet = UnetCall(Attention(), replace(PLAIN, compile=True, attention=sys.argv[1]))
sample, timestep = torch.randn(2, 2, 16, 8), torch.zeros(2)
unet.warm(sample, timestep)
assert unet.is_compiled, unet.compile_failure
print(",".join(attention_kernels(lambda: unet(sample, timestep))))
"""


def test_a_cache_brings_no_kernel_of_an_earlier_start(tmp_path: Path) -> None:
    """A worker that is started with another attention kernel, over the cache of the last one, runs the one that it was told."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}

    def kernels(attention: str) -> str:
        command = [sys.executable, "-W", "ignore", "-c", TWICE, attention]
        done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""

    assert "flash_for_cpu" not in kernels("math")
    assert kernels("flash") == "flash_for_cpu"


@pytest.mark.parametrize("graphs", [0, 1])
def test_memory_that_runs_out_while_compiling(parts: Parts, graphs: int) -> None:
    """At the first bucket the model goes on uncompiled, as without a graph it may fit; at a later one the rows are too many."""
    backend = Backend(graphs=graphs, failure=torch.OutOfMemoryError("CUDA out of memory"))
    unet = apply(parts, COMPILED, "cpu", backend=backend).unet
    call = blank_call(unet, 8, 8, tokens=77)
    if graphs == 0:
        call(2)
        assert not unet.is_compiled
    else:
        call(2)
        with pytest.raises((torch.OutOfMemoryError, BackendCompilerFailed), match="out of memory"):
            call(4)
        assert unet.is_compiled


# -- adapters come and go ---------------------------------------------------------------------------------------------


def test_a_model_is_as_fast_as_before_once_a_lora_has_come_and_gone(parts: Parts, directory: Path) -> None:
    """After the LoRA the same graphs run, of the same rows; with it the module runs as it is, and no row is added."""
    backend = Backend()
    seen: list[int] = []
    unet = apply(parts, COMPILED, "cpu", backend=backend).unet
    for rows in (2, 8):
        blank_call(unet, 8, 8, tokens=77)(rows)
    parts.unet.conv_in.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    loras = LoraAdapters(parts.unet, parts.text_encoders, lambda name: lora_file(directory, name))
    inputs = rows_of(unet, 6)
    before = predict(unet, inputs)
    layers = [type(module) for module in parts.unet.modules()]
    graphs, backend.rows = backend.left, []
    loras.activate((("ink", 1.0),))
    seen.clear()
    with_lora = predict(unet, inputs, adapted=True)
    assert (seen, backend.rows) == ([6], [])
    loras.activate(())
    assert [type(module) for module in parts.unet.modules()] == layers
    assert torch.equal(predict(unet, inputs), before)
    assert backend.rows == [8]
    assert backend.left == graphs
    assert not torch.allclose(with_lora, before)


def test_adapters_that_come_again_are_those_that_came_before(parts: Parts, directory: Path) -> None:
    """A LoRA that was taken out and put in again, beside another one that came meanwhile, predicts what it did."""
    loras = LoraAdapters(parts.unet, parts.text_encoders, lambda name: lora_file(directory, name), capacity=1)
    inputs = rows_of(apply(parts, PLAIN, "cpu").unet, 2)
    bare = predict(parts.unet, inputs)
    ink: list[torch.Tensor] = []
    chalk: list[torch.Tensor] = []
    for _ in range(2):
        for name, predictions in (("ink", ink), ("chalk", chalk)):
            loras.activate(((name, 1.0),))
            predictions.append(predict(parts.unet, inputs))
            loras.activate(())
            assert torch.equal(predict(parts.unet, inputs), bare)
    assert torch.equal(ink[0], ink[1])
    assert torch.equal(chalk[0], chalk[1])
    assert not torch.equal(ink[0], chalk[0])


def test_the_common_start_is_computed_once_where_graphs_do_not_serve(parts: Parts) -> None:
    """A shape that was not compiled pays for its common start once, as without compiling, and leaves the graphs as they are."""
    backend = Backend()
    seen: list[int] = []
    unet = apply(parts, COMPILED, "cpu", backend=backend).unet
    blank_call(unet, 8, 8, tokens=77)(2)
    parts.unet.conv_in.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0]))
    inputs = rows_of(unet, 2, side=16)
    half = {name: value if value is None else torch.cat([value[:1], value[:1]]) for name, value in inputs.items()}
    predict(unet, half, repeated=1)
    assert seen == [1]
    compiled = len(backend.rows)
    predict(unet, rows_of(unet, 2), repeated=1)
    assert len(backend.rows) == compiled + 1
    assert dict(unet.calls) == {"eager": 1, "compiled": 2}


def test_an_engine_serves_loras_as_they_are_and_all_else_compiled(directory: Path) -> None:
    """Jobs before, with and after a LoRA, in one engine: only the steps with it run uncompiled."""
    backend = Backend()
    engine = DiffusionEngine.load(directory, card_for(directory, "tiny"), tuning=COMPILED, backend=backend)
    engine.warm_up()
    served: list[tuple[Counter[str], int]] = []
    for loras in ((), (("ink", 1.0),), ()):
        before, backend.rows = Counter(engine.calls), []
        result_of(engine, request_for(replace(SAMPLING, loras=loras)))
        served.append((engine.calls - before, len(backend.rows)))
    steps = SAMPLING.steps
    assert served == [(Counter(compiled=steps), steps), (Counter(eager=steps), 0), (Counter(compiled=steps), steps)]


# -- attention by measuring -------------------------------------------------------------------------------------------

SELF, CROSS = AttentionShape(2, 8, 16, 16, 8), AttentionShape(2, 8, 16, 77, 8)


class FakeTimer:
    """Tells seconds by the kernel that torch has and the shape that it is given, after a real call."""

    def __init__(self, seconds: dict[tuple[str, int], float]) -> None:
        self._seconds = seconds

    def __call__(self, call: Callable[[], object]) -> float:
        (kernel,) = attention_kernels(call)
        (shape,) = attention_shapes(call)
        return self._seconds["flash" if kernel == "flash_for_cpu" else kernel, shape.keys]


def measured(parts: Parts, seconds: dict[tuple[str, int], float]) -> tuple[FastestAttention, tuple[str, ...]]:
    """What is found with such times, and the kernels that a UNet call then runs."""
    unet = apply(parts, replace(PLAIN, attention="fastest"), "cpu").unet
    inputs = blank_inputs(unet, 2, 8, 8, tokens=77)
    candidates = ("flash", "math", "cudnn")  # of which a CPU has two
    found = measure_attention(
        lambda: predict(unet, inputs), device=torch.device("cpu"), dtype=torch.float32, timer=FakeTimer(seconds), candidates=candidates
    )
    unet.prefer(found)
    return found, attention_kernels(lambda: predict(unet, inputs))


def test_the_shapes_of_a_unet_are_those_of_its_layers(parts: Parts) -> None:
    """Every attention of a call is counted by its sizes."""
    unet = apply(parts, PLAIN, "cpu").unet
    shapes = attention_shapes(lambda: predict(unet, blank_inputs(unet, 2, 8, 8, tokens=77)))
    assert set(shapes) == {SELF, CROSS}
    assert shapes[SELF] == shapes[CROSS] == sum(name.endswith("attn1") for name, _ in parts.unet.named_modules())


def test_each_shape_gets_the_kernel_that_is_fastest_for_it(parts: Parts) -> None:
    """The kernel of most time saved is the UNet's; a shape for which another is faster runs that one; one that takes no shape is out."""
    found, ran = measured(parts, {("flash", 16): 1.0, ("flash", 77): 1.0, ("math", 16): 5.0, ("math", 77): 0.5})
    assert found.order == ("flash", "math")
    assert found.by_shape == {(16, 16, 8): "flash", (16, 77, 8): "math"}
    assert ran == ("flash_for_cpu", "math")


def test_a_gain_that_switching_would_eat_is_let_be(parts: Parts) -> None:
    """A kernel that is hardly faster for one shape is not switched to."""
    found, ran = measured(parts, {("flash", 16): 1.0, ("flash", 77): 1.0, ("math", 16): 5.0, ("math", 77): 0.97})
    assert set(found.by_shape.values()) == {"flash"}
    assert ran == ("flash_for_cpu",)


def test_another_kernel_may_be_the_fastest_of_all(parts: Parts) -> None:
    """The order is by measured time, not by name."""
    found, _ = measured(parts, {("flash", 16): 2.0, ("flash", 77): 2.0, ("math", 16): 1.0, ("math", 77): 1.0})
    assert found.order == ("math", "flash")
    assert not found.has_exceptions


@pytest.mark.parametrize(
    ("shape", "is_exception"),
    [
        ((4096, 77, 40), True),
        ((3072, 77, 40), True),  # nearer to 4096 than to 1024
        ((1100, 77, 40), False),
        ((3072, 3072, 40), False),  # self-attention is another kind
        ((3072, 77, 80), False),  # so is another width
    ],
)
def test_pictures_of_other_sizes_follow_the_nearest_shape(*, shape: tuple[int, int, int], is_exception: bool) -> None:
    """A shape that was not measured takes the kernel of the layer of its kind that is nearest in size."""
    found = FastestAttention(
        ("cudnn", "flash"), {(4096, 77, 40): "flash", (1024, 77, 40): "cudnn", (4096, 4096, 40): "cudnn", (1024, 1024, 80): "cudnn"}
    )
    assert (found.exception(*shape) is not None) == is_exception


def test_where_nothing_can_be_measured_torch_chooses() -> None:
    """A UNet none of whose shapes a candidate takes keeps torch's own order."""
    query = torch.zeros(1, 1, 4, 4)
    found = measure_attention(
        lambda: scaled_dot_product_attention(query, query, query), device=query.device, dtype=query.dtype, candidates=("cudnn",)
    )
    assert found == FastestAttention()
    with found.context():
        assert scaled_dot_product_attention(query, query, query).shape == query.shape


def test_exceptions_are_compiled_in(parts: Parts) -> None:
    """A compiled UNet runs the kernels that were measured, in one graph for each bucket, as it does uncompiled."""
    backend = Backend()
    unet = apply(parts, replace(COMPILED, attention="fastest"), "cpu", backend=backend).unet
    unet.prefer(FastestAttention(("flash", "math"), {(16, 16, 8): "flash", (16, 77, 8): "math"}))
    blank_call(unet, 8, 8, tokens=77)(2)
    inputs = rows_of(unet, 2)
    predict(unet, rows_of(unet, 2, side=16))  # looks up sizes that were not measured
    assert attention_kernels(lambda: predict(unet, inputs)) == ("flash_for_cpu", "math")
    assert backend.left == 99
    assert len(backend.rows) == 2
    assert torch.allclose(predict(unet, inputs), predict(parts.unet, inputs), atol=1e-5)


def test_a_trial_that_failed_is_a_failure_of_the_model(directory: Path) -> None:
    """A model that is not even tried to be compiled, as a trial had failed, is exported as one that failed to."""
    tuning = replace(PLAIN, compile_fault="the trial ended with status 1")
    found = DiffusionEngine.load(directory, card_for(directory, "tiny"), tuning=tuning).warm_up()
    assert (found.compiled, found.compile_failure) == (False, "the trial ended with status 1")


def test_a_warm_up_tells_what_it_found(directory: Path) -> None:
    """The kernel of each shape, those that ran, and whether the model is compiled are exported for each model."""
    tuning = replace(COMPILED, attention="fastest")
    engine = DiffusionEngine.load(directory, card_for(directory, "tiny"), tuning=tuning, backend=Backend(graphs=0))
    found, metrics = engine.warm_up(), WorkerMetrics()
    metrics.tell_warm_up("tiny", found, requested="auto")
    value = metrics.registry.get_sample_value
    for shape in ("16x16x8", "16x77x8"):
        assert value("outfill_attention_shape_info", {"model": "tiny", "shape": shape, "kernel": "flash"}) == 1
    labels = {"model": "tiny", "kernel": "flash_for_cpu", "requested": "auto"}
    assert value("outfill_attention_backend_info", labels) == 1
    assert value("outfill_compile_info", {"model": "tiny", "state": "failed"}) == 1
    assert value("outfill_compile_info", {"model": "tiny", "state": "eager"}) == 1
