"""From painted pixels to stored outputs: compose, measure, encode, put."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from api_schemas.jobs import JobSpec, Report, StoredOutput
from api_schemas.requests import ImageFormat, OutputOptions, RemoveBackgroundRequest
from core.storage import Storage, output_prefix
from worker.engines.base import Pixels
from worker.images.blend import fill_layer, paste
from worker.images.codec import Frame, encode, encode_mask
from worker.images.crop import restore
from worker.intake import Plan
from worker.report import measure

_PNG = OutputOptions(format=ImageFormat.PNG)
_PREVIEW = OutputOptions(format=ImageFormat.JPEG, quality=85)
_EXTENSIONS = {ImageFormat.PNG: "png", ImageFormat.JPEG: "jpg", ImageFormat.WEBP: "webp"}


@dataclass(frozen=True, eq=False)
class Rendered:
    """One output, encoded."""

    frame: Frame
    data: bytes
    seed: int | None
    report: Report
    layers: dict[str, bytes]
    """PNG files by layer name."""


def render(spec: JobSpec, plan: Plan, painted: Sequence[Pixels]) -> Iterator[Rendered]:
    """Compose, measure and encode each output of a job, in the order of ``plan.requests``."""
    options = spec.request.output
    if isinstance(spec.request, RemoveBackgroundRequest):
        frame = plan.edit.frame
        report = measure(plan.edit, frame)
        yield Rendered(frame, encode(frame, options), None, report, {"mask": encode_mask(plan.edit.alpha)})
        return
    for request, pixels in zip(plan.requests, painted, strict=True):
        frame, layers = _compose(plan, pixels, with_layers=options.layers)
        seed = request.seed if spec.request.seed is not None else None
        yield Rendered(frame, encode(frame, options), seed, measure(plan.edit, frame), layers)


def _compose(plan: Plan, pixels: Pixels, *, with_layers: bool) -> tuple[Frame, dict[str, bytes]]:
    edit, crop = plan.edit, plan.crop
    if crop is None:
        raise ValueError("a painted job has a crop")
    window, alpha = restore(pixels, crop), edit.alpha[crop.box.slices]
    frame = paste(edit.frame, window, alpha, crop.box)
    if not with_layers:
        return frame, {}
    fill = fill_layer(edit.frame, window, alpha, crop.box)
    return frame, {"fill": encode(fill, _PNG), "mask": encode_mask(edit.alpha)}


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
        key = f"{prefix}{number}.{_EXTENSIONS[image_format]}"
        storage.put(key, output.data, f"image/{image_format}")
        layers = {name: f"{prefix}{number}.{name}.png" for name in output.layers}
        for name, layer_key in layers.items():
            storage.put(layer_key, output.layers[name], "image/png")
        stored.append(
            StoredOutput(
                key=key,
                width=output.frame.width,
                height=output.frame.height,
                format=image_format,
                bytes=len(output.data),
                sha256=hashlib.sha256(output.data).hexdigest(),
                seed=output.seed,
                layers=layers,
                report=output.report,
            )
        )
    return tuple(stored)
