"""What a pipeline directory tells of itself, and which directories are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from api_schemas.models import SAMPLING_PARAMETERS, EngineKind, SamplingDefaults
from api_schemas.requests import Operation, Scheduler
from scripts.tiny_pipeline import KINDS, build, write_lora
from worker.engines.diffusion.card import card_for, weights_digest
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.notes import UnsupportedModelError


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {kind: tmp_path_factory.mktemp("models") / kind for kind in KINDS}
    for kind, directory in found.items():
        build(directory, kind=kind)
    return found


@pytest.fixture(scope="module")
def tiny(directories: dict[str, Path]) -> Path:
    return directories["sd15-inpaint"]


@pytest.fixture
def copy_of(directories: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies a tiny pipeline, to be spoiled."""
    return lambda kind: Path(shutil.copytree(directories[kind], tmp_path / "copy"))


@pytest.fixture
def copy(copy_of: Callable[[str], Path]) -> Path:
    return copy_of("sd15-inpaint")


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_card_says_what_the_directory_says(tiny: Path) -> None:
    """Sizes come from the model's configuration, licence and defaults from outfill.json, and the revision from the weights."""
    card = card_for(tiny, "tiny")
    assert (card.id, card.engine, card.licence.id, card.native_size, card.size_multiple) == (
        "tiny",
        EngineKind.DIFFUSION,
        "CC0-1.0",
        64,
        16,
    )
    assert card.operations == (Operation.INPAINT, Operation.OUTPAINT, Operation.REPLACE_BACKGROUND)
    assert card.sampling == SamplingDefaults(steps=4, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DPMPP_2M_KARRAS)
    assert card.revision == weights_digest(tiny)


def test_a_directory_without_outfill_json_claims_no_licence(copy: Path) -> None:
    """Where nobody wrote down the licence, the card says that it is not known."""
    (copy / "outfill.json").unlink()
    card = card_for(copy, "tiny")
    assert card.licence.id == "unknown"
    assert card.licence.commercial_use is None
    assert card.native_size == 64


def test_outfill_json_pins_the_revision_and_offers_erase(copy: Path) -> None:
    """A pinned revision is taken as it is, and erase is offered only where it is named."""
    edit(copy / "outfill.json", revision="8a4288a", operations=["inpaint", "erase"])
    card = card_for(copy, "tiny")
    assert card.revision == "8a4288a"
    assert card.operations == (Operation.INPAINT, Operation.ERASE)


def test_the_digest_is_that_of_sha256sum(tiny: Path, copy: Path) -> None:
    """The revision can be checked with standard tools, is the same for a copy, and changes with any weight file."""
    files = sorted(file.relative_to(tiny).as_posix() for file in tiny.rglob("*.safetensors"))
    lines = "".join(f"{hashlib.sha256((tiny / file).read_bytes()).hexdigest()}  {file}\n" for file in files)
    assert weights_digest(tiny) == weights_digest(copy) == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    with (copy / files[-1]).open("ab") as weights:
        weights.write(b"\0")
    assert weights_digest(copy) != weights_digest(tiny)


def five_channels(path: Path) -> None:
    edit(path / "unet" / "config.json", in_channels=5)


def consistency_model(path: Path) -> None:
    edit(path / "unet" / "config.json", time_cond_proj_dim=256)


def other_pipeline(path: Path) -> None:
    edit(path / "model_index.json", _class_name="FluxFillPipeline")


def no_text_encoder(path: Path) -> None:
    edit(path / "model_index.json", text_encoder=[None, None])


def other_text_encoder(path: Path) -> None:
    edit(path / "model_index.json", text_encoder=["transformers", "RobertaSeriesModelWithTransformation"])


def other_noise(path: Path) -> None:
    edit(path / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])


def sdxl_unet(path: Path) -> None:
    edit(path / "unet" / "config.json", addition_embed_type="text_time")


def noise_at_zero_snr(path: Path) -> None:
    edit(path / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)


def own_code(path: Path) -> None:
    edit(path / "model_index.json", unet=["my_unet", "UNet2DConditionModel"])


def pickled_weights(path: Path) -> None:
    (path / "vae" / "diffusion_pytorch_model.safetensors").rename(path / "vae" / "diffusion_pytorch_model.bin")


def no_index(path: Path) -> None:
    (path / "model_index.json").unlink()


def no_json(path: Path) -> None:
    (path / "model_index.json").write_text("[")


def unknown_note(path: Path) -> None:
    edit(path / "outfill.json", license="MIT")


def cutout(path: Path) -> None:
    edit(path / "outfill.json", operations=["remove_background"])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (five_channels, "5 input channels; an inpainting model has 9, a plain one 4"),
        (consistency_model, "time_cond_proj_dim is not supported"),
        (other_pipeline, "it is a FluxFillPipeline"),
        (no_text_encoder, "it has no text_encoder"),
        (other_text_encoder, "expected CLIPTextModel"),
        (other_noise, "scheduler is FlowMatchEulerDiscreteScheduler"),
        (sdxl_unet, "addition_embed_type is text_time"),
        (noise_at_zero_snr, "predicts v, not epsilon"),
        (own_code, "unet is UNet2DConditionModel of my_unet"),
        (pickled_weights, "no safetensors weights in vae/"),
        (no_index, "model_index.json cannot be read"),
        (no_json, "is not JSON"),
        (unknown_note, "license"),
        (cutout, "does not do remove_background"),
    ],
)
def test_an_unsupported_directory_says_why(copy: Path, spoil: Callable[[Path], None], says: str) -> None:
    """A directory that this engine cannot run is refused with what is wrong and where."""
    spoil(copy)
    with pytest.raises(UnsupportedModelError, match=says) as caught:
        card_for(copy, "tiny")
    assert str(copy) in str(caught.value)


def refiner(path: Path) -> None:
    edit(path / "model_index.json", requires_aesthetics_score=True, text_encoder=[None, None], tokenizer=[None, None])


def no_second_text_encoder(path: Path) -> None:
    edit(path / "model_index.json", text_encoder_2=[None, None])


def lost_second_text_encoder(path: Path) -> None:
    shutil.rmtree(path / "text_encoder_2")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (refiner, "it is a refiner"),
        (no_second_text_encoder, "it has no text_encoder_2"),
        (lost_second_text_encoder, "no safetensors weights in text_encoder_2/"),
    ],
)
def test_an_unsupported_sdxl_directory_says_why(copy_of: Callable[[str], Path], spoil: Callable[[Path], None], says: str) -> None:
    """A refiner, or an SDXL checkpoint without both text encoders, is refused with what is missing."""
    path = copy_of("sdxl")
    spoil(path)
    with pytest.raises(UnsupportedModelError, match=says):
        card_for(path, "tiny")


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_is_described(copy_of: Callable[[str], Path], kind: str) -> None:
    """Where outfill.json is silent, the family says what the model is, its sizes come from the files, and SDXL does not begin from noise."""
    path = copy_of(kind)
    edit(path / "unet" / "config.json", sample_size=128)
    (path / "outfill.json").unlink()
    card = card_for(path, kind)
    assert card.description == ("Stable Diffusion XL inpainting." if "sdxl" in kind else "Stable Diffusion inpainting.")
    assert (card.native_size, card.size_multiple) == (1024, 16)
    assert card.sampling == SamplingDefaults(strength=0.99 if "sdxl" in kind else 1.0)


def test_outfill_json_has_the_last_word_on_strength(copy_of: Callable[[str], Path]) -> None:
    """A strength that the person who installs the model wrote down is the default, for SDXL too."""
    path = copy_of("sdxl-inpaint")
    edit(path / "outfill.json", sampling={"strength": 1.0})
    card = card_for(path, "tiny")
    assert card.sampling == SamplingDefaults(strength=1.0)


def test_a_small_vae_as_it_is_published_is_understood(copy_of: Callable[[str], Path]) -> None:
    """An AutoencoderTiny that writes its channels for each direction alone has the same factor."""
    path = copy_of("zero-snr")
    config = json.loads((path / "vae" / "config.json").read_text())
    del config["block_out_channels"]
    (path / "vae" / "config.json").write_text(json.dumps(config))
    assert card_for(path, "tiny").size_multiple == 16


def test_zero_terminal_snr_rules_out_pndm(directories: dict[str, Path], copy_of: Callable[[str], Path]) -> None:
    """A model trained to zero terminal SNR offers every sampler but PNDM, which does not know that schedule; others offer all."""
    assert card_for(directories["sd15-inpaint"], "tiny").schedulers == tuple(Scheduler)
    assert set(Scheduler) - set(card_for(directories["zero-snr"], "tiny").schedulers) == {Scheduler.PNDM}
    path = copy_of("zero-snr")
    edit(path / "outfill.json", sampling={"scheduler": "pndm"})
    with pytest.raises(UnsupportedModelError, match="cannot be run with pndm"):
        card_for(path, "tiny")


def test_the_card_names_the_loras(copy: Path) -> None:
    """The safetensors files in loras/ are offered by name; without any, the parameter is not. They do not change the revision."""
    before = card_for(copy, "tiny")
    write_lora(copy, "watercolour")
    write_lora(copy, "brand.v2")
    (copy / "loras" / "pickled.bin").write_bytes(b"")
    card = card_for(copy, "tiny")
    assert (before.loras, before.parameters) == ((), SAMPLING_PARAMETERS)
    assert card.loras == ("brand.v2", "watercolour")
    assert card.parameters == SAMPLING_PARAMETERS | {"loras"}
    assert card.revision == before.revision


def test_pickled_weights_are_never_loaded(copy: Path) -> None:
    """Weights in pickle's format are not read even by one who skips the check of the directory."""
    card = card_for(copy, "tiny")
    pickled_weights(copy)
    with pytest.raises(OSError, match="safetensors"):
        DiffusionEngine.load(copy, card)


def test_reading_a_card_imports_no_torch(tiny: Path) -> None:
    """The API can list the models of a store without the weight of torch."""
    code = (
        "import sys; from pathlib import Path; from worker.engines.registry import discover; "
        f"discover({{'tiny': Path({str(tiny)!r})}}); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
