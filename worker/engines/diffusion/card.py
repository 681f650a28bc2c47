"""What a pipeline directory says about itself, read without torch.

A supported directory is one that ``save_pretrained`` of a Stable Diffusion pipeline writes (``families.PIPELINES``), with weights in
safetensors. An ``outfill.json`` in it adds what diffusers does not record; ``loras/NAME.safetensors`` are adapters for it, and a
``vocabulary.json`` says which words it knows, if those are few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import field_validator

from api_schemas.models import SAMPLING_PARAMETERS, EngineKind, ModelCard, SamplingDefaults
from api_schemas.requests import Operation, Scheduler
from worker.engines.diffusion.families import PIPELINES, Family
from worker.engines.notes import NOTES, Notes, UnsupportedModelError, digest_of, read_json, read_notes
from worker.engines.vocabulary import Vocabulary, VocabularyError
from worker.engines.weights import NotSafetensorsError, half_precision_bytes

LIBRARIES = {"diffusers", "transformers"}
VAES = {"AutoencoderKL", "AutoencoderTiny"}
TOKENIZERS = {"CLIPTokenizer", "CLIPTokenizerFast"}
SCHEDULERS = {
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "DDPMScheduler",
}
"""Whose files describe a noise schedule that every sampler here can take. Others (EDM, flow matching, consistency) mean another one."""
RESIDENT_LORAS = 8
"""Adapters of one model that stay in memory."""


class OutfillNotes(Notes):
    """The optional ``outfill.json`` of a pipeline."""

    native_size: int | None = None
    operations: tuple[Operation, ...] = (Operation.INPAINT, Operation.OUTPAINT, Operation.REPLACE_BACKGROUND)
    """``erase`` must be named to be offered: a text model erases with an empty prompt, which not every one does well."""
    sampling: SamplingDefaults = SamplingDefaults()

    @field_validator("operations")
    @classmethod
    def _painted(cls, value: tuple[Operation, ...]) -> tuple[Operation, ...]:
        if Operation.REMOVE_BACKGROUND in value:
            raise ValueError("a diffusion model does not do remove_background")
        return value


def card_for(path: Path, model_id: str) -> ModelCard:
    """The card of the pipeline in directory ``path``.

    ``native_size`` is in pixels: the UNet's sample size times the VAE's factor. ``size_multiple`` is the VAE's factor times the UNet's,
    so that no skip connection has to be resized. Where ``outfill.json`` pins no revision, it is ``weights_digest``.

    Raises ``UnsupportedModelError``, which says what is missing, for any other directory.
    """
    index = read_json(path / "model_index.json")
    family = _family(path, index)
    _check_components(path, index, family)
    unet, vae = read_json(path / "unet" / "config.json"), read_json(path / "vae" / "config.json")
    _check_unet(path, unet, family, latent_channels=vae.get("latent_channels", 4))
    notes = read_notes(path, OutfillNotes)
    _check_vocabulary(path)
    factor = _vae_factor(vae)
    sample_size = unet.get("sample_size") or 64
    native_size: int = (max(sample_size) if isinstance(sample_size, list) else sample_size) * factor
    loras = _loras(path)
    schedulers = _schedulers(path)
    return ModelCard(
        id=model_id,
        engine=EngineKind.DIFFUSION,
        operations=notes.operations,
        description=notes.description or family.description,
        licence=notes.licence,
        revision=notes.revision or weights_digest(path),
        native_size=notes.native_size or native_size,
        memory_bytes=_memory_bytes(path),
        size_multiple=factor * 2 ** (len(unet["block_out_channels"]) - 1),
        parameters=SAMPLING_PARAMETERS | ({"loras"} if loras else set()),
        sampling=_sampling(path, notes.sampling, family, schedulers),
        schedulers=schedulers,
        loras=loras,
    )


def family_of(path: Path) -> Family:
    """The family of a directory that ``card_for`` accepts."""
    return _family(path, read_json(path / "model_index.json"))


def lora_file(path: Path, name: str) -> Path:
    """Where the weights of the LoRA ``name`` lie in the model directory ``path``."""
    return path / "loras" / f"{name}.safetensors"


def loras_bytes(path: Path) -> int:
    """Return what the LoRAs of the model directory ``path`` may take of memory: the sizes of the ``RESIDENT_LORAS`` largest files."""
    sizes = sorted((file.stat().st_size for file in (path / "loras").glob("*.safetensors")), reverse=True)
    return sum(sizes[:RESIDENT_LORAS])


def weights_digest(path: Path) -> str:
    """``sha256:`` and the digest of what ``sha256sum`` prints for the weights, sorted by path.

    The weights are the safetensors files of the text encoders, UNet and VAE; configurations, tokenizers, LoRAs and any safety checker are
    not in it.
    """
    lines = (f"{digest_of(file)}  {file.relative_to(path).as_posix()}\n" for file in _weights(path))
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def _weights(path: Path) -> Iterator[Path]:
    for component in ("text_encoder", "text_encoder_2", "unet", "vae"):
        yield from sorted((path / component).glob("*.safetensors"))


def _memory_bytes(path: Path) -> int:
    try:
        return half_precision_bytes(_weights(path))
    except NotSafetensorsError as error:
        raise UnsupportedModelError(str(error)) from error


def _loras(path: Path) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in (path / "loras").glob("*.safetensors")))


def _vae_factor(vae: dict[str, Any]) -> int:
    """Pixels to a side of a latent. ``AutoencoderTiny`` writes its channels for each direction."""
    channels: list[int] = vae.get("block_out_channels") or vae.get("decoder_block_out_channels") or [64] * 4
    return 1 << (len(channels) - 1)


def _family(path: Path, index: dict[str, Any]) -> Family:
    name = str(index.get("_class_name"))
    if name not in PIPELINES:
        raise UnsupportedModelError(f"{path}: it is a {name}, not a {' or '.join(PIPELINES)}")
    if index.get("requires_aesthetics_score"):
        raise UnsupportedModelError(f"{path}: it is a refiner (requires_aesthetics_score), which finishes pictures of another model")
    return PIPELINES[name]


def _check_components(path: Path, index: dict[str, Any], family: Family) -> None:
    expected: dict[str, set[str]] = {"unet": {"UNet2DConditionModel"}, "vae": VAES, "scheduler": SCHEDULERS}
    expected |= {component: {name} for component, name in family.text_encoders.items()}
    weights = [component for component in expected if component != "scheduler"]
    expected |= dict.fromkeys(family.tokenizers, TOKENIZERS)
    for component, classes in expected.items():
        library, name = index.get(component) or (None, None)
        if name is None:
            raise UnsupportedModelError(f"{path}: it has no {component}")
        # Another library would be code that comes with the model.
        if library not in LIBRARIES or name not in classes:
            raise UnsupportedModelError(f"{path}: {component} is {name} of {library}, expected {' or '.join(sorted(classes))}")
    for component in weights:
        if not any((path / component).glob("*.safetensors")):
            raise UnsupportedModelError(f"{path}: no safetensors weights in {component}/; other formats are not loaded")


def _check_unet(path: Path, unet: dict[str, Any], family: Family, *, latent_channels: int) -> None:
    plain, inpainting = latent_channels, 2 * latent_channels + 1
    if unet.get("in_channels") not in (plain, inpainting):
        raise UnsupportedModelError(
            f"{path}: the UNet has {unet.get('in_channels')} input channels; an inpainting model has {inpainting}, a plain one {plain}"
        )
    if unet.get("addition_embed_type") not in family.addition_embed_types:
        expected = " or ".join(map(str, family.addition_embed_types))
        raise UnsupportedModelError(f"{path}: the UNet's addition_embed_type is {unet.get('addition_embed_type')}, expected {expected}")
    for option in ("time_cond_proj_dim", "class_embed_type", "encoder_hid_dim"):
        if unet.get(option) is not None:
            raise UnsupportedModelError(f"{path}: the UNet's {option} is not supported")


def _check_vocabulary(path: Path) -> None:
    try:
        Vocabulary.of(path)
    except VocabularyError as error:
        raise UnsupportedModelError(str(error)) from error


def _schedulers(path: Path) -> tuple[Scheduler, ...]:
    """The samplers that the model's noise schedule allows."""
    config = read_json(path / "scheduler" / "scheduler_config.json")
    prediction_type = config.get("prediction_type", "epsilon")
    if not config.get("rescale_betas_zero_snr"):
        return tuple(Scheduler)
    if prediction_type == "epsilon":
        # Where there is only noise, predicting the noise says nothing about the picture (Lin et al. 2023, arXiv 2305.08891, 3.2).
        raise UnsupportedModelError(f"{path}: rescale_betas_zero_snr needs a model that predicts v, not epsilon")
    # diffusers' PNDM does not know the option: it would walk down a noise schedule that the model was not trained on.
    return tuple(scheduler for scheduler in Scheduler if scheduler is not Scheduler.PNDM)


def _sampling(path: Path, noted: SamplingDefaults, family: Family, schedulers: tuple[Scheduler, ...]) -> SamplingDefaults:
    if noted.scheduler not in schedulers:
        raise UnsupportedModelError(f"{path / NOTES}: the model cannot be run with {noted.scheduler}")
    return noted if "strength" in noted.model_fields_set else noted.model_copy(update={"strength": family.strength})
