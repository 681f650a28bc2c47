"""LoRA adapters: as the stock pipelines apply them, and gone without a trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import png
from painting import SAMPLING, begun, relative_error, request_for, result_of
from planning import plan_of, rounds_of
from safetensors.torch import load_file, save_file

from api_schemas.errors import EngineFailed
from api_schemas.requests import Scheduler
from scripts.stock import load_stock, run_stock
from scripts.tiny_pipeline import build, write_lora
from worker.engines.base import PaintRequest, Sampling
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    # The stock pipelines do not tell peft that several adapters are meant.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]

Weights = dict[str, torch.Tensor]
BASE = replace(SAMPLING, scheduler=Scheduler.EULER, strength=0.6)
FIRST = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "encoder.layers.0.self_attn.q_proj"


def with_loras(**weights: float) -> PaintRequest:
    return request_for(replace(BASE, loras=tuple(weights.items())))


def directory_of(path: Path, kind: str) -> Path:
    build(path, kind=kind)
    for number, name in enumerate(("ink", "oil"), start=1):
        write_lora(path, name, seed=number)
    return path


@pytest.fixture(scope="module", params=["sd15-inpaint", "sdxl-inpaint"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directory_of(tmp_path_factory.mktemp("lora") / request.param, request.param)


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directory_of(tmp_path_factory.mktemp("lora") / "sd15", "sd15-inpaint")


def load(directory: Path) -> DiffusionEngine:
    return DiffusionEngine.load(directory, card_for(directory, "tiny"))


def stock_latents(directory: Path, request: PaintRequest) -> torch.Tensor:
    """The stock pipeline's, with the LoRAs loaded and set as its documentation says."""
    sampling = request.recipe
    assert isinstance(sampling, Sampling)
    pipeline = load_stock(directory)
    for number, (name, _) in enumerate(sampling.loras):
        pipeline.load_lora_weights(directory / "loras", weight_name=f"{name}.safetensors", adapter_name=f"lora{number}")
    pipeline.set_adapters([f"lora{number}" for number in range(len(sampling.loras))], [weight for _, weight in sampling.loras])
    latents: torch.Tensor = run_stock(pipeline, request, output_type="latent")
    return latents


@pytest.mark.parametrize("weights", [{"ink": 1.0}, {"ink": 0.5}, {"oil": 0.7, "ink": 1.5}], ids=str)
def test_loras_act_as_in_the_stock_pipeline(directory: Path, weights: dict[str, float]) -> None:
    """One LoRA at full and at half weight, and two together, give the stock pipeline's latents; and not those without them."""
    engine, request = load(directory), with_loras(**weights)
    latents = result_of(engine, request)
    assert relative_error(latents, stock_latents(directory, request)) <= 1e-4
    assert relative_error(latents, result_of(engine, with_loras())) > 0.01


def test_loras_leave_no_trace(directory: Path) -> None:
    """After any LoRAs, a request without them gives the latents of an engine that never saw one, to the bit, for a new prompt too."""
    used, untouched = load(directory), load(directory)
    first = result_of(used, with_loras())
    for weights in ({"ink": 1.0}, {"oil": 0.5, "ink": 1.0}, {"oil": 2.0}):
        result_of(used, with_loras(**weights))
    assert torch.equal(result_of(used, with_loras()), first)
    another = request_for(replace(BASE, prompt="a prompt that is in no cache", negative_prompt="nor this"))
    assert torch.equal(result_of(used, another), result_of(untouched, another))


def test_slots_with_different_loras_take_turns(directory: Path) -> None:
    """Slots that alternate step by step, with other LoRAs, other weights or none, each end as they do alone, to the bit."""
    engine = load(directory)
    requests = [with_loras(), with_loras(ink=1.0), with_loras(ink=0.3), with_loras(ink=1.0, oil=0.5)]
    alone = [result_of(engine, request) for request in requests]
    slots = [begun(engine, request) for request in requests]
    while not slots[0].done:
        for slot in slots:
            engine.step([slot])
    for slot, latents in zip(slots, alone, strict=True):
        assert torch.equal(slot.latents, latents)


def test_slots_share_a_step_only_with_the_same_loras(sd15: Path) -> None:
    """The batch key tells LoRAs and their weights apart, but not the order in which they were named."""
    engine = load(sd15)
    requests = [with_loras(), with_loras(ink=1.0), with_loras(ink=0.5), with_loras(ink=1.0, oil=0.5)]
    keys = {begun(engine, request).batch_key for request in requests}
    assert len(keys) == 4
    assert begun(engine, with_loras(oil=0.5, ink=1.0)).batch_key in keys


def test_a_prompt_is_remembered_for_its_loras(sd15: Path) -> None:
    """The same text has other embeddings under a LoRA that changes the text encoder, and comes back as it was."""
    engine = load(sd15)
    slots = [begun(engine, request) for request in (with_loras(), with_loras(ink=1.0), with_loras(ink=0.5), with_loras())]
    plain, strong, weak, again = (slot.prompt.embeds for slot in slots)
    assert not torch.equal(plain, strong)
    assert not torch.equal(strong, weak)
    assert again is plain


def test_eight_loras_stay_in_memory(tmp_path: Path) -> None:
    """The ninth LoRA takes the room of the one used longest ago, which is read again when it is wanted, with the same result."""
    build(tmp_path / "sd15")
    names = [f"style{number}" for number in range(9)]
    for number, name in enumerate(names):
        write_lora(tmp_path / "sd15", name, seed=number)
    engine = load(tmp_path / "sd15")
    first = result_of(engine, with_loras(style0=1.0))
    for name in names[1:8]:
        begun(engine, with_loras(**{name: 1.0}))
    begun(engine, with_loras(style0=0.5, style2=0.5))
    begun(engine, with_loras(style8=1.0))
    assert set(engine._loras._resident) == set(names) - {"style1"}
    models = [engine._unet.module, *engine._parts.text_encoders.values()]
    assert [len(model.peft_config) for model in models] == [8, 8]
    assert {adapter for model in models for adapter in adapters_in(model)} == set(engine._loras._resident.values())
    begun(engine, with_loras(style1=1.0))
    for name in names[3:9]:
        begun(engine, with_loras(**{name: 1.0}))
    assert "style0" not in engine._loras._resident
    assert torch.equal(result_of(engine, with_loras(style0=1.0)), first)


def test_a_lora_that_made_room_is_read_again_between_steps(tmp_path: Path) -> None:
    """A slot whose LoRA was put out of memory by others ends as if it had stayed."""
    build(tmp_path / "sd15")
    for number in range(9):
        write_lora(tmp_path / "sd15", f"style{number}", seed=number)
    engine = load(tmp_path / "sd15")
    expected = result_of(engine, with_loras(style0=1.0))
    slot = begun(engine, with_loras(style0=1.0))
    engine.step([slot])
    for number in range(1, 9):
        begun(engine, with_loras(**{f"style{number}": 1.0}))
    assert "style0" not in engine._loras._resident
    while not slot.done:
        engine.step([slot])
    assert torch.equal(slot.latents, expected)


def adapters_in(model: Any) -> set[str]:
    """The names of adapters that have weights in ``model``."""
    return {name.split(".lora_")[1].split(".")[1] for name, _ in model.named_parameters() if ".lora_" in name}


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def missing(file: Path) -> None:
    file.unlink()


def read(file: Path) -> Weights:
    """A copy: ``load_file`` maps the file, which is then written to."""
    return {key: value.clone() for key, value in load_file(file).items()}


def pickled(file: Path) -> None:
    torch.save(read(file), file)


def rewritten(change: Callable[[Weights], Weights]) -> Callable[[Path], None]:
    def rewrite(file: Path) -> None:
        save_file(change(read(file)), file)

    return rewrite


def of_sdxl(weights: Weights) -> Weights:
    return weights | {f"text_encoder_2.{TEXT}.lora_A.weight": torch.zeros(4, 32)}


def of_a_larger_unet(weights: Weights) -> Weights:
    return {key: torch.cat([value, value], dim=1) if "unet" in key and "lora_A" in key else value for key, value in weights.items()}


def of_a_larger_text_encoder(weights: Weights) -> Weights:
    return {key: torch.cat([value, value], dim=1) if "text" in key and "lora_A" in key else value for key, value in weights.items()}


def of_a_deeper_unet(weights: Weights) -> Weights:
    return weights | {key.replace("blocks.1", "blocks.9"): value.clone() for key, value in weights.items() if "down_blocks.1" in key}


def of_a_deeper_text_encoder(weights: Weights) -> Weights:
    return weights | {key.replace("layers.1", "layers.9"): value.clone() for key, value in weights.items() if "layers.1" in key}


def half_a_pair(weights: Weights) -> Weights:
    del weights[f"unet.{FIRST}.lora_B.weight"]
    return weights


def a_whole_model(_weights: Weights) -> Weights:
    return {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4)}


def nothing(_weights: Weights) -> Weights:
    return {}


def dora(weights: Weights) -> Weights:
    return weights | {f"unet.{FIRST}.dora_scale": torch.ones(64)}


@pytest.mark.parametrize(
    "spoil",
    [truncated, missing, pickled]
    + [
        rewritten(change)
        for change in (
            of_sdxl,
            of_a_larger_unet,
            of_a_larger_text_encoder,
            of_a_deeper_unet,
            of_a_deeper_text_encoder,
            half_a_pair,
            a_whole_model,
            nothing,
            dora,
        )
    ],
    ids=[
        "truncated",
        "missing",
        "pickled",
        "sdxl",
        "larger_unet",
        "larger_text",
        "deeper_unet",
        "deeper_text",
        "half",
        "model",
        "nothing",
        "dora",
    ],
)
@pytest.mark.parametrize("after_another", [False, True])
def test_a_broken_lora_fails_its_job_alone(sd15: Path, tmp_path: Path, spoil: Callable[[Path], None], *, after_another: bool) -> None:
    """A broken or foreign file is an error that names the LoRA and leaves nothing of it; other requests get what they got before."""
    directory = Path(shutil.copytree(sd15, tmp_path / "sd15"))
    engine = load(directory)
    plain = result_of(engine, with_loras())
    painted = result_of(load(directory), with_loras(oil=1.0))
    if after_another:
        assert torch.equal(result_of(engine, with_loras(oil=1.0)), painted)
    spoil(directory / "loras" / "ink.safetensors")
    with pytest.raises(EngineFailed, match=r"the LoRA 'ink' cannot be used: .+") as caught:
        begun(engine, with_loras(ink=1.0, oil=0.5))
    assert str(tmp_path) not in caught.value.detail
    expected = {"oil": engine._loras._resident["oil"]} if after_another else {}
    assert engine._loras._resident == expected
    for model in (engine._unet.module, *engine._parts.text_encoders.values()):
        assert adapters_in(model) == set(getattr(model, "peft_config", {})) == set(expected.values())
    assert torch.equal(result_of(engine, with_loras()), plain)
    assert torch.equal(result_of(engine, with_loras(oil=1.0)), painted)


def test_a_lora_lost_between_steps_fails_the_step(tmp_path: Path) -> None:
    """Where a LoRA has made room and cannot be read again, the step is an error that names it, and slots without it go on."""
    build(tmp_path / "sd15")
    for number in range(9):
        write_lora(tmp_path / "sd15", f"style{number}", seed=number)
    engine = load(tmp_path / "sd15")
    lost, plain = begun(engine, with_loras(style0=1.0)), begun(engine, with_loras())
    for number in range(1, 9):
        begun(engine, with_loras(**{f"style{number}": 1.0}))
    (tmp_path / "sd15" / "loras" / "style0.safetensors").unlink()
    with pytest.raises(EngineFailed, match="'style0'"):
        engine.step([lost])
    while not plain.done:
        engine.step([plain])
    assert torch.equal(plain.latents, result_of(load(tmp_path / "sd15"), with_loras()))


def test_loras_of_other_tools_are_understood(sd15: Path, tmp_path: Path) -> None:
    """A LoRA in the format of kohya's scripts, with its own alphas, for the UNet alone too, acts as in the stock pipeline."""
    directory = Path(shutil.copytree(sd15, tmp_path / "sd15"))
    weights = load_file(directory / "loras" / "ink.safetensors")
    kohya: Weights = {}
    for key, value in weights.items():
        model, _, layer = key.removesuffix(".weight").partition(".")
        layer, _, side = layer.rpartition(".")
        layer = ("lora_unet_" if model == "unet" else "lora_te_text_model_") + layer.replace(".", "_")
        kohya[f"{layer}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        kohya[f"{layer}.alpha"] = torch.tensor(2.0)
    save_file(kohya, directory / "loras" / "kohya.safetensors")
    save_file({key: value for key, value in kohya.items() if "unet" in key}, directory / "loras" / "unet.safetensors")
    engine = load(directory)
    halved = result_of(engine, with_loras(kohya=1.0))
    assert relative_error(halved, stock_latents(directory, with_loras(kohya=1.0))) <= 1e-4
    assert relative_error(halved, result_of(engine, with_loras(ink=0.5))) <= 1e-4  # alpha 2 of rank 4
    both = with_loras(unet=1.0, oil=0.5)
    assert relative_error(result_of(engine, both), stock_latents(directory, both)) <= 1e-4


def test_many_changes_of_loras_leak_nothing(sd15: Path) -> None:
    """Going to and fro between LoRAs keeps the number of tensors in the model what it is."""
    engine = load(sd15)
    sizes = []
    for _ in range(3):
        for weights in ({"ink": 1.0}, {"oil": 1.0}, {}):
            result_of(engine, with_loras(**weights))
        sizes.append(sum(1 for _ in engine._unet.module.parameters()))
    assert np.ptp(sizes) == 0


def test_the_loras_of_a_job_reach_the_engine(sd15: Path) -> None:
    """What a request names is what every one of its pictures is painted with."""
    plain = request_for()
    files = {"image": png(plain.image), "mask": png(plain.mask)}
    loras = [{"name": "ink"}, {"name": "oil", "weight": 0.5}]
    request = {"operation": "inpaint", "image": "image", "mask": "mask", "prompt": "a sofa", "num_images": 2, "loras": loras, "seed": 1}
    settings = {"steps": 4, "guidance_scale": 5.0, "strength": 1.0, "scheduler": "ddim"}
    recipes = [paint.recipe for paint in rounds_of(*plan_of(request | settings, card_for(sd15, "tiny"), files)).requests]
    assert [recipe.loras for recipe in recipes if isinstance(recipe, Sampling)] == [(("ink", 1.0), ("oil", 0.5))] * 2
