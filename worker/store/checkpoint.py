"""Single-file checkpoints of the original layout (LDM keys): turned into a diffusers directory once, when they are pulled."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from worker.engines.diffusion.card import LIBRARIES
from worker.engines.diffusion.families import PIPELINES
from worker.engines.notes import read_json
from worker.engines.weights import FLOATS, MODEL_INDEX, read_header
from worker.store.digests import files_of
from worker.store.errors import StoreError

CONFIGURATION = {".json", ".txt", ".model"}
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that no engine loads."""
_UNET = "model.diffusion_model."
_DTYPES = {"F16": "float16", "BF16": "bfloat16"}


def convert(checkpoint: Path, config: Path, into: Path, work: Path) -> None:
    """Write the pipeline of a ``.safetensors`` checkpoint as a diffusers directory, in the precision that it has.

    ``config`` is a local directory with ``model_index.json``, component configurations and tokenizers; weights in it are not looked at.
    Nothing is fetched from the network. ``work`` is an empty directory that may be written to.

    Raises ``StoreError`` where the two do not fit or a weight is missing, ``NotSafetensorsError``, ``UnsupportedModelError``.
    """
    header = read_header(checkpoint)
    dtypes = {tensor.dtype for tensor in header.values() if tensor.dtype in FLOATS}
    dtype = _DTYPES.get(dtypes.pop(), "float32") if len(dtypes) == 1 else "float32"
    class_name = _copy_configuration(config, work)
    if not find_spec("accelerate"):
        raise StoreError("accelerate is not installed: without it missing weights would go unnoticed")
    import diffusers
    import torch

    try:
        pipeline: Any = getattr(diffusers, class_name).from_single_file(
            str(checkpoint), config=str(work), local_files_only=True, dtype=getattr(torch, dtype)
        )
        _check_complete(pipeline, unet_tensors=sum(name.startswith(_UNET) for name in header))
        pipeline.save_pretrained(into, safe_serialization=True)
    except StoreError as error:
        raise StoreError(f"{checkpoint.name} does not fit {config}: {error}") from error
    except Exception as error:
        raise StoreError(f"{checkpoint.name} does not fit {config}: {type(error).__name__}: {str(error).strip()}") from error


def _copy_configuration(config: Path, into: Path) -> str:
    """Copy without weights, so that only the checkpoint can give them; the pipeline's class."""
    index = read_json(config / MODEL_INDEX)
    class_name = index.get("_class_name")
    if class_name not in PIPELINES:
        raise StoreError(f"{config}: it is of a {class_name}, not of a {' or '.join(PIPELINES)}")
    index |= {component: [None, None] for component in UNUSED if component in index}
    for component, entry in index.items():
        # Another library would be imported, and be code that comes with the model.
        if isinstance(entry, list) and entry[0] is not None and entry[0] not in LIBRARIES:
            raise StoreError(f"{config}: {component} is {entry[1]} of {entry[0]}, which is not loaded")
    for name in files_of(config):
        if Path(name).suffix in CONFIGURATION:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(config / name, into / name)
    (into / MODEL_INDEX).write_text(json.dumps({**index, "requires_safety_checker": False}), encoding="utf-8")
    return str(class_name)


def _check_complete(pipeline: Any, *, unet_tensors: int) -> None:
    """Nothing is left uninitialised, and no layer of the checkpoint is left out. The layouts have the same UNet tensors, otherwise named."""
    for component, module in pipeline.components.items():
        for name, parameter in getattr(module, "named_parameters", dict)():
            if parameter.is_meta:
                raise StoreError(f"the checkpoint has no {name} for the {component}")
    described = len(pipeline.unet.state_dict())
    if unet_tensors != described:
        raise StoreError(f"its UNet has {unet_tensors} tensors, the configuration describes {described}")
