"""From finished pictures to stored outputs: encode, put."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from api_schemas.downloads import EXTENSIONS
from api_schemas.jobs import JobSpec, Report, StoredOutput
from api_schemas.profiles import ProfileReport
from api_schemas.requests import ImageFormat, JobRequest, OutputOptions, RemoveBackgroundRequest, ReplaceBackgroundRequest
from core.storage import Storage, output_prefix
from profiles.catalogue import profile
from profiles.check import check
from profiles.picture import read
from worker.engines.base import Pixels
from worker.images.byte_limit import encode_within
from worker.images.codec import Frame, encode, encode_mask
from worker.images.resolution import Dpi
from worker.images.sizing import sized
from worker.intake import Edit

_PNG = OutputOptions(format=ImageFormat.PNG)
_PREVIEW = OutputOptions(format=ImageFormat.JPEG, quality=85)


@dataclass(frozen=True, eq=False)
class Rendered:
    """One output, encoded."""

    width: int
    height: int
    data: bytes
    quality: int | None
    seed: int | None
    report: Report
    layers: dict[str, bytes]
    """PNG files by layer name."""

    def tried(self, attempts: int) -> Rendered:
        """The same, as the best of ``attempts``."""
        return replace(self, report=self.report.model_copy(update={"attempts": attempts}))


def encode_output(spec: JobSpec, edit: Edit, frame: Frame, seed: int | None, report: Report, fill: Frame | None) -> Rendered:
    """``frame`` as the file that was asked for. ``fill`` is what was pasted, where layers are wanted: these are of the frame's size.

    Its resolution is the source's, unless another was asked for. Raises ``OutputTooLarge``.
    """
    request, layers = spec.request, {}
    dpi = edit.source.dpi if request.output.dpi is None else (float(request.output.dpi),) * 2
    frame = replace(frame, dpi=dpi)
    if isinstance(request, RemoveBackgroundRequest):
        layers = _masks_of_product(edit, dpi)
    elif fill is not None:
        is_behind = isinstance(request, ReplaceBackgroundRequest)
        layers = {"fill": encode(replace(_exact(edit, frame, fill), dpi=dpi), _PNG)}
        layers |= _masks_of_product(edit, dpi) if is_behind else {"mask": encode_mask(edit.alpha, dpi)}
        if is_behind:
            layers["cutout"] = encode(replace(frame, pixels=edit.frame.pixels, alpha=255 - edit.alpha), _PNG)
    if edit.landing is None:  # else it was brought to its place before it was painted
        frame = sized(frame, request.output)
    data, quality = encode_within(frame, request.output)
    if (name := getattr(request, "profile", None)) is not None:
        report = report.model_copy(update={"profile": _held(name, request, edit, data)})
    return Rendered(frame.width, frame.height, data, quality, seed, report, layers)


def _held(name: str, request: JobRequest, edit: Edit, data: bytes) -> ProfileReport:
    """The file as it is delivered, held against a profile. The product is known where it was told from its background."""
    is_told = isinstance(request, ReplaceBackgroundRequest | RemoveBackgroundRequest)
    return check(profile(name), read(data), Image.fromarray(255 - edit.alpha) if is_told else None)


def _masks_of_product(edit: Edit, dpi: Dpi | None) -> dict[str, bytes]:
    """The product's matte, and for one more release the same upside down, as it was called before."""
    return {"product_mask": encode_mask(255 - edit.alpha, dpi), "mask": encode_mask(edit.alpha, dpi)}


def _exact(edit: Edit, frame: Frame, fill: Frame) -> Frame:
    """A layer that, composited over the input, gives the output.

    Where the fill was pasted onto the input itself that is the fill. Elsewhere (behind a product freed of its old background, over an
    extended canvas, where what is pasted may be translucent itself) it is the output's own pixels, as opaque as these, in the input's place.
    """
    if edit.frame is edit.source and edit.cover is None:
        return fill
    painted = edit.alpha > 0
    seen = np.full_like(edit.alpha, 255) if frame.alpha is None else frame.alpha
    return Frame(np.where(painted[..., None], frame.pixels, 0).astype(np.uint8), np.where(painted, seen, 0).astype(np.uint8), frame.icc)


def store_preview(storage: Storage, spec: JobSpec, execution_id: str, pixels: Pixels) -> str:
    """Put a small picture ``uint8 (h, w, 3)`` beside where the outputs will be, in place of the one before; its key."""
    key = f"{output_prefix(spec.tenant, spec.id, execution_id)}preview.jpg"
    storage.put(key, encode(Frame(pixels), _PREVIEW), "image/jpeg")
    return key


def store(storage: Storage, spec: JobSpec, execution_id: str, outputs: Sequence[Rendered]) -> tuple[StoredOutput, ...]:
    """Put outputs under the execution's own prefix. They are durable, and invisible until the job is committed."""
    prefix = output_prefix(spec.tenant, spec.id, execution_id)
    stored = []
    for number, output in enumerate(outputs):
        image_format = spec.request.output.format
        key = f"{prefix}{number}.{EXTENSIONS[image_format]}"
        storage.put(key, output.data, f"image/{image_format}")
        layers = {name: f"{prefix}{number}.{name}.png" for name in output.layers}
        for name, layer_key in layers.items():
            storage.put(layer_key, output.layers[name], "image/png")
        stored.append(
            StoredOutput(
                key=key,
                width=output.width,
                height=output.height,
                format=image_format,
                bytes=len(output.data),
                sha256=hashlib.sha256(output.data).hexdigest(),
                quality=output.quality,
                seed=output.seed,
                layers=layers,
                report=output.report,
            )
        )
    return tuple(stored)
