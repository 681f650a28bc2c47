"""A tuned pipeline computes what an untuned one computes. On tiny pipelines; tests/gpu has the same on a GPU, at true size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scripts.tiny_pipeline import build, write_lora
from worker.engines.diffusion import residency
from worker.engines.diffusion.card import lora_file
from worker.engines.diffusion.cpu_kernels import ChunkedAttnProcessor
from worker.engines.diffusion.kernels import CHUNKED_OPERATOR, attention_context, attention_kernels
from worker.engines.diffusion.lora import LoraAdapters
from worker.engines.diffusion.parts import Parts, load_parts
from worker.engines.diffusion.residency import (
    Measured,
    Measurement,
    ParkedModule,
    apply,
    expected_peak,
    model_facts,
    rows_from,
    warm_up,
)
from worker.engines.diffusion.unet_call import UnetCall, blank_call, row_bucket
from worker.tuning import PLAIN, Tuning

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ("sd15-inpaint", "sdxl-inpaint", "zero-snr")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {kind: tmp_path_factory.mktemp("residency") / kind for kind in KINDS}
    for kind, directory in found.items():
        build(directory, kind=kind)
    return found


@pytest.fixture
def fresh(directories: dict[str, Path]) -> Callable[[str], Parts]:
    """Newly loaded parts: ``apply`` changes them."""
    return lambda kind: load_parts(directories[kind], dtype="float32", vae_dtype="float32")


class CountingBackend:
    """Compiles to the graph as it is, and counts the graphs and their calls."""

    def __init__(self) -> None:
        self.graphs = self.calls = 0

    def __call__(self, graph: Any, _inputs: Any) -> Callable[..., Any]:
        self.graphs += 1

        def run(*arguments: Any) -> Any:
            self.calls += 1
            return graph(*arguments)

        return run


def unet_inputs(unet: Any, rows: int, *, size: int = 8) -> dict[str, Any]:
    """Random rows for either family's tiny UNet."""
    config, generator = unet.config, torch.Generator().manual_seed(rows)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(rows, *shape, generator=generator).to(unet.dtype)

    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        # As the engine makes them: one row, expanded.
        added = {"text_embeds": draw(pooled), "time_ids": draw(6)[:1].expand(rows, -1)}
    return {
        "sample": draw(config.in_channels, size, size),
        "timestep": torch.linspace(1, 999, rows),
        "encoder_hidden_states": draw(77, config.cross_attention_dim),
        "added_cond_kwargs": added,
    }


def predict(unet: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        predicted: torch.Tensor = unet(**inputs, return_dict=False)[0]
    return predicted.float()


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tuning", "bound"),
    [
        (replace(PLAIN, channels_last=True), TOLERANCE),
        (replace(PLAIN, attention="flash"), TOLERANCE),
        (replace(PLAIN, attention="math"), TOLERANCE),
        (replace(PLAIN, offload="text_encoders"), TOLERANCE),
        (replace(PLAIN, offload="group"), TOLERANCE),
        (replace(PLAIN, dtype="bfloat16", vae_dtype="bfloat16", channels_last=True), 0.1),
    ],
)
def test_a_tuned_unet_predicts_as_the_plain_one(fresh: Callable[[str], Parts], kind: str, tuning: Tuning, bound: float) -> None:
    """Formats, kernels and offload change no prediction; bfloat16 only by its rounding."""
    plain = fresh(kind)
    inputs = unet_inputs(plain.unet, 3)
    expected = predict(plain.unet, inputs)
    resident = apply(fresh(kind), tuning, "cpu")
    assert difference(predict(resident.unet, unet_inputs(resident.unet, 3)), expected) <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_unet_predicts_as_the_plain_one(fresh: Callable[[str], Parts], kind: str) -> None:
    """Padded to its bucket, compiled and cropped, a prediction is that of the module itself."""
    plain, backend = fresh(kind), CountingBackend()
    resident = apply(fresh(kind), replace(PLAIN, compile=True), "cpu", backend=backend)
    call = blank_call(resident.unet, 8, 8, tokens=77)
    call(4)
    compiled = backend.calls
    for rows in (3, 4):
        inputs = unet_inputs(plain.unet, rows)
        assert difference(predict(resident.unet, inputs), predict(plain.unet, inputs)) <= TOLERANCE
        assert backend.calls > compiled
        compiled = backend.calls


def test_serving_never_compiles(fresh: Callable[[str], Parts]) -> None:
    """A shape that was not warmed, and one with a LoRA, run as they are and do not wait for a compiler; warmed ones never do either."""
    backend = CountingBackend()
    resident = apply(fresh("sd15-inpaint"), replace(PLAIN, compile=True), "cpu", backend=backend)
    blank_call(resident.unet, 8, 8, tokens=77)(1)
    graphs, calls = backend.graphs, backend.calls
    predict(resident.unet, unet_inputs(resident.unet, 1, size=16))
    predict(resident.unet, unet_inputs(resident.unet, 2))
    assert (backend.graphs, backend.calls) == (graphs, calls)
    strided = unet_inputs(resident.unet, 1)
    strided["sample"] = strided["sample"].to(memory_format=torch.channels_last)
    predict(resident.unet, strided)
    assert backend.graphs == graphs
    assert backend.calls > calls


def test_a_lora_is_not_lost_in_a_compiled_unet(fresh: Callable[[str], Parts], directories: dict[str, Path]) -> None:
    """With an adapter the prediction is that of the module with it, without one that of the bare module, and nothing is compiled anew."""
    directory, backend = directories["sd15-inpaint"], CountingBackend()
    write_lora(directory, "ink")
    parts = fresh("sd15-inpaint")
    resident = apply(parts, replace(PLAIN, compile=True), "cpu", backend=backend)
    blank_call(resident.unet, 8, 8, tokens=77)(2)
    graphs, inputs = backend.graphs, unet_inputs(parts.unet, 2)
    bare = predict(resident.unet, inputs)
    loras = LoraAdapters(parts.unet, parts.text_encoders, lambda name: lora_file(directory, name))
    loras.activate((("ink", 1.0),))
    with_lora = predict(resident.unet, inputs)
    assert difference(with_lora, predict(parts.unet, inputs)) <= TOLERANCE
    assert difference(with_lora, bare) > 100 * TOLERANCE
    loras.activate(())
    assert difference(predict(resident.unet, inputs), bare) <= TOLERANCE
    assert backend.graphs == graphs


class Half(torch.nn.Module):
    """What ``UnetCall`` asks of a UNet, and nothing that takes long to compile."""

    config, dtype, device = SimpleNamespace(addition_embed_type="text"), torch.float32, torch.device("cpu")

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, **_options: Any) -> tuple[torch.Tensor]:
        return (sample / 2 + timestep[:, None],)


def test_many_shapes_may_be_warmed() -> None:
    """More graphs than torch keeps by default: every warmed shape still runs compiled, and right."""
    backend = CountingBackend()
    unet = UnetCall(Half(), replace(PLAIN, compile=True), backend=backend)
    inputs = [(torch.randn(rows, width), torch.ones(rows)) for rows in (1, 2, 4, 8) for width in range(10)]
    for sample, timestep in inputs:
        unet.warm(sample, timestep)
    for sample, timestep in inputs:
        calls = backend.calls
        with torch.inference_mode():
            assert torch.equal(unet(sample, timestep)[0], sample / 2 + 1)
        assert backend.calls > calls


def test_a_warm_up_leaves_room_for_what_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that fit are those that fit beside the bytes that are kept back."""
    gib = 2**30
    monkeypatch.setattr(residency, "free_bytes", lambda _: 10 * gib)
    monkeypatch.setattr(residency, "_measure", lambda _, rows, __: Measurement(rows, rows**0.5, rows * gib))
    assert warm_up(lambda _: None, "cuda").rows == 8
    assert warm_up(lambda _: None, "cuda", kept_bytes=5 * gib).rows == 4


def test_only_tuples_are_returned(fresh: Callable[[str], Parts]) -> None:
    """What the call does not do it refuses."""
    resident = apply(fresh("sd15-inpaint"), PLAIN, "cpu")
    with pytest.raises(ValueError, match="return_dict"):
        resident.unet(**unet_inputs(resident.unet, 1), return_dict=True)


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (64, 64)])
def test_rows_are_padded_to_a_power_of_two(rows: int, bucket: int) -> None:
    """The bucket of a number of rows is the next power of two."""
    assert row_bucket(rows) == bucket


def test_there_is_no_call_without_rows() -> None:
    """No rows have no bucket."""
    with pytest.raises(ValueError, match="0 rows"):
        row_bucket(0)


# -- precision, VAE, text encoders ----------------------------------------------------------------------------------------------------


def test_the_vae_has_its_own_precision(fresh: Callable[[str], Parts]) -> None:
    """A VAE that overflows in half precision is held in float32 beside a UNet in half precision."""
    resident = apply(fresh("sdxl-inpaint"), replace(PLAIN, dtype="float16", vae_dtype="float32"), "cpu")
    assert resident.unet.dtype == resident.unet.module.dtype == torch.float16
    assert resident.vae.dtype == torch.float32
    assert resident.text_encoders["text_encoder_2"].dtype == torch.float16


def test_sliced_and_tiled_decoding_stays_close(fresh: Callable[[str], Parts]) -> None:
    """Slices change nothing; tiles are of 512 pixels even where the VAE's own would be the whole picture."""
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = fresh("sd15-inpaint").vae
    resident = apply(fresh("sd15-inpaint"), replace(PLAIN, vae_slicing=True), "cpu")
    with torch.inference_mode():
        assert difference(resident.vae.decode(latents).sample, plain.decode(latents).sample) <= TOLERANCE
    parts = fresh("sdxl-inpaint")
    parts.vae.tile_sample_min_size, parts.vae.tile_latent_min_size = 1024, 128
    tiled = apply(parts, replace(PLAIN, vae_tiling=True), "cpu").vae
    assert (tiled.use_tiling, tiled.tile_sample_min_size, tiled.tile_latent_min_size) == (True, 512, 64)


def test_parked_weights_come_and_go(fresh: Callable[[str], Parts]) -> None:
    """Inside the context all weights are on the device, nested or not, also in inference mode; outside they are on the CPU, unchanged."""
    encoder = fresh("sd15-inpaint").text_encoders["text_encoder"]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    parked = ParkedModule(encoder, "meta")  # a device that every machine has
    with torch.inference_mode(), parked as outer, parked as inner:
        assert outer is inner is encoder
        assert {tensor.device.type for tensor in (*encoder.parameters(), *encoder.buffers())} == {"meta"}
    assert {tensor.device.type for tensor in (*encoder.parameters(), *encoder.buffers())} == {"cpu"}
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_parked_weights_go_home_after_an_error(fresh: Callable[[str], Parts]) -> None:
    """An encoder that fails is parked again."""
    parked = ParkedModule(fresh("sd15-inpaint").text_encoders["text_encoder"], "meta")

    def fail() -> None:
        with parked:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    with parked as encoder:
        assert encoder.device.type == "meta"
    assert encoder.device.type == "cpu"


def test_adapters_travel_with_parked_weights(fresh: Callable[[str], Parts], directories: dict[str, Path]) -> None:
    """A LoRA that was added to a parked encoder is brought in with it."""
    directory, parts = directories["sd15-inpaint"], fresh("sd15-inpaint")
    write_lora(directory, "chalk")
    parked = ParkedModule(parts.text_encoders["text_encoder"], "meta")
    LoraAdapters(parts.unet, parts.text_encoders, lambda name: lora_file(directory, name)).activate((("chalk", 1.0),))
    with parked as encoder:
        adapters = [parameter for name, parameter in encoder.named_parameters() if "lora_" in name]
        assert adapters
        assert {parameter.device.type for parameter in adapters} == {"meta"}


@pytest.mark.parametrize("offload", ["none", "text_encoders"])
def test_text_is_encoded_alike_parked_or_not(fresh: Callable[[str], Parts], offload: Any) -> None:
    """Parking changes no embedding."""
    plain, tokens = fresh("sd15-inpaint"), torch.arange(77)[None]
    resident = apply(fresh("sd15-inpaint"), replace(PLAIN, offload=offload), "cpu")
    with torch.inference_mode():
        embeds = resident.text_encoders["text_encoder"](tokens)[0]
        assert torch.equal(embeds, plain.text_encoders["text_encoder"](tokens)[0])


def test_chunked_attention_is_put_into_the_unet(fresh: Callable[[str], Parts]) -> None:
    """Every attention layer gets our processor, which long self-attentions show by its name."""
    resident = apply(fresh("sd15-inpaint"), replace(PLAIN, dtype="bfloat16", attention="chunked"), "cpu")
    assert {type(each) for each in resident.unet.module.attn_processors.values()} == {ChunkedAttnProcessor}
    assert "chunked" in attention_kernels(lambda: blank_call(resident.unet, 64, 64, tokens=77)(1))


def test_the_facts_of_a_model_are_those_of_its_weights(fresh: Callable[[str], Parts], directories: dict[str, Path]) -> None:
    """Bytes at half precision are two for each parameter, whatever precision the files have."""
    for kind, directory in directories.items():
        facts, parts = model_facts(directory), fresh(kind)
        assert facts.unet_bytes == 2 * sum(parameter.numel() for parameter in parts.unet.parameters())
        assert facts.vae_bytes == 2 * sum(parameter.numel() for parameter in parts.vae.parameters())
        assert len(facts.text_encoder_bytes) == len(parts.text_encoders)
        assert facts.latent_area == 64
        assert facts.vae_overflows == (kind == "sdxl-inpaint")


# -- kernels --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attention", "kernel"), [("sdpa", "flash_for_cpu"), ("flash", "flash_for_cpu"), ("math", "math")])
def test_the_kernel_that_is_asked_for_runs(fresh: Callable[[str], Parts], attention: Any, kernel: str) -> None:
    """What the profiler saw is what was asked for, in a UNet call that is compiled too."""
    for compiled in (False, True):
        resident = apply(fresh("sd15-inpaint"), replace(PLAIN, attention=attention, compile=compiled), "cpu", backend="eager")
        call = blank_call(resident.unet, 8, 8, tokens=77)
        call(2)
        assert attention_kernels(lambda call=call: call(2)) == (kernel,)  # type: ignore[misc]


def test_kernels_are_chosen_around_the_call_alone() -> None:
    """Outside the context the process's own choice is as it was."""
    query = torch.randn(1, 2, 16, 8)

    def attend() -> object:
        return torch.nn.functional.scaled_dot_product_attention(query, query, query)

    assert attention_kernels(attend) == ("flash_for_cpu",)
    with attention_context("math"):
        assert attention_kernels(attend) == ("math",)
    assert attention_kernels(attend) == ("flash_for_cpu",)


def test_own_and_foreign_kernels_are_known_by_name() -> None:
    """A call in which no attention ran names none; our own attention is named by its record."""
    assert attention_kernels(lambda: torch.ones(2) + 1) == ()

    def own() -> None:
        with torch.profiler.record_function(CHUNKED_OPERATOR):
            torch.ones(2)

    assert attention_kernels(own) == ("chunked",)


# -- the row budget -------------------------------------------------------------------------------------------------------------------

MB = 10**6


def table(*entries: tuple[int, float, int]) -> list[Measurement]:
    return [Measurement(rows, seconds, peak * MB) for rows, seconds, peak in entries]


@pytest.mark.parametrize(
    ("measured", "free_mb", "rows"),
    [
        (table((1, 1.0, 10), (2, 1.1, 20), (4, 1.3, 40), (8, 2.4, 80)), None, 8),  # ever better
        (table((1, 1.0, 10), (2, 1.1, 20), (4, 2.2, 40)), None, 2),  # four rows cost twice as much as two
        (table((1, 1.0, 10), (2, 1.2, 20), (4, 2.3, 40)), None, 2),  # 4.2 % are too little
        (table((1, 1.0, 10), (2, 1.2, 20), (4, 2.2, 40)), None, 4),  # 8.3 % are enough
        (table((1, 1.0, 10), (2, 1.1, 20), (4, 2.2, 40), (8, 2.4, 80)), None, 8),  # four met a busy moment
        (table((1, 1.0, 10), (2, 1.1, 20), (4, 2.2, 40), (8, 4.3, 80)), None, 2),  # neither saved much
        (table((1, 1.0, 10), (2, 1.1, 20), (4, 1.3, 40)), 44, 2),  # 40 are more than nine tenths of 44
        (table((1, 1.0, 10), (2, 1.1, 20), (4, 1.3, 40)), 45, 4),
        (table((1, 1.0, 0), (2, 2.0, 0)), None, 2),  # nothing gained, but a guided picture takes two
        (table((1, 1.0, 10)), None, 2),
    ],
)
def test_the_row_budget(measured: list[Measurement], free_mb: int | None, rows: int) -> None:
    """Memory comes first, then time: more rows only where they save a twentieth."""
    assert rows_from(measured, None if free_mb is None else free_mb * MB) == rows


def test_a_row_takes_its_share_of_the_chosen_call() -> None:
    """Of the call with so many rows as one may have; where none was measured, of the largest below."""
    measured = tuple(table((1, 1.0, 0), (2, 1.1, 0), (4, 1.3, 0), (8, 2.9, 0)))
    assert Measured(4, measured).row_s == 1.3 / 4
    assert Measured(2, measured[:1]).row_s == 1.0


def test_a_peak_is_expected_on_the_line_through_the_last_two() -> None:
    """What a larger call will take is extrapolated before it is made."""
    assert expected_peak(table((1, 1, 999), (2, 1, 30), (4, 1, 50)), 8) == 90 * MB


def test_a_warm_up_calls_with_each_bucket() -> None:
    """Powers of two, up to what it may try, in inference mode."""
    seen: list[int] = []

    def call(rows: int) -> None:
        assert torch.is_inference_mode_enabled()
        seen.append(rows)

    measured = warm_up(call, "cpu", most_rows=1)
    assert sorted(set(seen)) == [1] == [entry.rows for entry in measured.table]
    assert measured.rows == 2


def test_a_warm_up_stops_where_memory_does() -> None:
    """Out of memory at eight rows leaves what was measured before; at one picture it is an error."""

    def call(rows: int) -> None:
        if rows > limit:
            raise torch.OutOfMemoryError

    limit = 2
    assert [entry.rows for entry in warm_up(call, "cpu").table] == [1, 2]
    limit = 1
    with pytest.raises(torch.OutOfMemoryError):
        warm_up(call, "cpu")


@pytest.mark.parametrize(("slow", "tried", "rows"), [((4,), [1, 2, 4, 8, 16, 32], 32), ((4, 8), [1, 2, 4, 8], 2)])
def test_one_size_that_saves_nothing_does_not_end_a_warm_up(
    monkeypatch: pytest.MonkeyPatch, slow: tuple[int, ...], tried: list[int], rows: int
) -> None:
    """It is the second in a row that does."""
    monkeypatch.setattr(residency, "_measure", lambda _, rows, __: Measurement(rows, float(rows) if rows in slow else 0.5 + rows / 4, 0))
    measured = warm_up(lambda _: None, "cpu")
    assert [entry.rows for entry in measured.table] == tried
    assert measured.rows == rows


def test_a_slow_cpu_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first measurement used up the patience there is no second, and one guided picture is the budget."""
    monkeypatch.setattr(residency, "CPU_PATIENCE_S", 0.0)
    measured = warm_up(lambda _rows: None, "cpu")
    assert [entry.rows for entry in measured.table] == [1]
    assert measured.rows == 2


def test_a_real_unet_is_warmed(fresh: Callable[[str], Parts]) -> None:
    """The table of a warm-up holds its calls in order, and the budget is one of them."""
    resident = apply(fresh("sdxl-inpaint"), PLAIN, "cpu")
    measured = warm_up(blank_call(resident.unet, 8, 8, tokens=77), "cpu")
    assert [entry.rows for entry in measured.table] == [2**power for power in range(len(measured.table))]
    assert measured.rows == 2 or measured.rows in {entry.rows for entry in measured.table}
    assert all(entry.seconds > 0 and entry.peak_bytes == 0 for entry in measured.table)


def test_weights_that_group_offload_moves_stay_changeable(fresh: Callable[[str], Parts]) -> None:
    """They are moved out of inference mode, in which they would become tensors whose adapters cannot be switched."""
    seen: list[bool] = []
    for offload in ("group", "none"):
        resident = apply(fresh("sd15-inpaint"), replace(PLAIN, offload=offload), "cpu")
        resident.unet.module.conv_in.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
        with torch.inference_mode():
            predicted = resident.unet(**unet_inputs(resident.unet, 2))[0]
        assert not predicted.requires_grad
    assert seen == [False, True]
