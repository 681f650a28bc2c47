"""What a pipeline directory says about itself, read without torch.

A supported directory is one that ``StableDiffusionInpaintPipeline.save_pretrained`` writes, with a UNet of nine input channels
(latents, mask, masked-image latents) and weights in safetensors. An ``outfill.json`` in it adds what diffusers does not record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from api_schemas.models import SAMPLING_PARAMETERS, EngineKind, Licence, ModelCard, SamplingDefaults
from api_schemas.requests import Operation

PIPELINE = "StableDiffusionInpaintPipeline"
COMPONENTS = {
    "unet": {"UNet2DConditionModel"},
    "vae": {"AutoencoderKL"},
    "text_encoder": {"CLIPTextModel"},
    "tokenizer": {"CLIPTokenizer", "CLIPTokenizerFast"},
}
WEIGHTS = ("text_encoder", "unet", "vae")
LIBRARIES = {"diffusers", "transformers"}


class UnsupportedPipelineError(ValueError):
    """The directory does not hold a pipeline that this engine can run."""


class OutfillNotes(BaseModel):
    """The optional ``outfill.json``: what only the person who installs the model knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = "Stable Diffusion inpainting."
    licence: Licence = Licence(id="unknown")
    revision: str | None = None
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

    Raises ``UnsupportedPipelineError``, which says what is missing, for any other directory.
    """
    _check_components(path)
    unet, vae = _json(path / "unet" / "config.json"), _json(path / "vae" / "config.json")
    _check_unet(path, unet, latent_channels=vae.get("latent_channels", 4))
    notes = _notes(path)
    factor: int = 2 ** (len(vae["block_out_channels"]) - 1)
    sample_size = unet.get("sample_size") or 64
    native_size: int = (max(sample_size) if isinstance(sample_size, list) else sample_size) * factor
    return ModelCard(
        id=model_id,
        engine=EngineKind.DIFFUSION,
        operations=notes.operations,
        description=notes.description,
        licence=notes.licence,
        revision=notes.revision or weights_digest(path),
        native_size=notes.native_size or native_size,
        size_multiple=factor * 2 ** (len(unet["block_out_channels"]) - 1),
        parameters=SAMPLING_PARAMETERS,
        sampling=notes.sampling,
    )


def weights_digest(path: Path) -> str:
    """``sha256:`` and the digest of what ``sha256sum`` prints for the weights, sorted by path.

    The weights are the safetensors files of the text encoder, UNet and VAE; configurations, tokenizer and any safety checker are not in
    it. A file's digest is kept in this process until its size or modification time changes.
    """
    lines = (
        f"{_sha256(str(file), file.stat().st_size, file.stat().st_mtime_ns)}  {file.relative_to(path).as_posix()}\n"
        for file in _weights(path)
    )
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256(file: str, _size: int, _mtime_ns: int) -> str:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _weights(path: Path) -> Iterator[Path]:
    for component in WEIGHTS:
        yield from sorted((path / component).glob("*.safetensors"))


def _check_components(path: Path) -> None:
    index = _json(path / "model_index.json")
    if index.get("_class_name") != PIPELINE:
        raise UnsupportedPipelineError(f"{path}: it is a {index.get('_class_name')}, not a {PIPELINE}")
    for component, classes in COMPONENTS.items():
        library, name = index.get(component) or (None, None)
        # Another library would be code that comes with the model.
        if library not in LIBRARIES or name not in classes:
            raise UnsupportedPipelineError(f"{path}: {component} is {name} of {library}, expected {' or '.join(sorted(classes))}")
    for component in WEIGHTS:
        if not any((path / component).glob("*.safetensors")):
            raise UnsupportedPipelineError(f"{path}: no safetensors weights in {component}/; other formats are not loaded")


def _check_unet(path: Path, unet: dict[str, Any], *, latent_channels: int) -> None:
    expected = 2 * latent_channels + 1
    if unet.get("in_channels") != expected:
        raise UnsupportedPipelineError(f"{path}: the UNet has {unet.get('in_channels')} input channels, an inpainting model has {expected}")
    for option in ("time_cond_proj_dim", "addition_embed_type", "class_embed_type", "encoder_hid_dim"):
        if unet.get(option) is not None:
            raise UnsupportedPipelineError(f"{path}: the UNet's {option} is not supported")


def _notes(path: Path) -> OutfillNotes:
    file = path / "outfill.json"
    if not file.exists():
        return OutfillNotes()
    try:
        return OutfillNotes.model_validate(_json(file))
    except ValidationError as error:
        raise UnsupportedPipelineError(f"{file}: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsupportedPipelineError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnsupportedPipelineError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedPipelineError(f"{file} is not a JSON object")
    return content
