"""The same edits of the same photos by Outfill and by what else there is, all measured alike."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.table import Table

from api_schemas.requests import Operation
from scripts import photos
from scripts.stock import load_stock
from service.resolve import MASK_DEFAULTS
from worker.images.mask import edit_alpha
from worker.images.measures import Border

Array = npt.NDArray[np.uint8]
PROMPT = "grey concrete wall, soft light"
COLUMNS = ("Outfill erase", "Outfill inpaint", "stock", "stock, padding_mask_crop", "OpenCV Telea", "photo")
OURS = COLUMNS[:2]
EDGES = {"Outfill erase": MASK_DEFAULTS[Operation.ERASE], "Outfill inpaint": MASK_DEFAULTS[Operation.INPAINT]}
"""How far a mask grows and over how many pixels an edit fades, as customers get it who say nothing of it."""
_HARD = 0, 4
"""What is pasted by the mask alone is measured around the mask's own border."""
CELL = 150


@dataclass(frozen=True)
class Measured:
    """One output against its input."""

    kept: float
    """Share of the pixels outside the mask that are the input's."""
    seam: float
    colour_shift: float
    seam_off: float
    """From the photo's own, as a logarithm."""
    colour_shift_off: float
    """From the photo's own, ΔE2000."""
    size_kept: bool
    seconds: float


class Outfill:
    """A running service."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api

    def edit(self, picture: Array, mask: Array, **fields: Any) -> Array:
        """One job, PNG in and out."""
        return _pixels(self.run(png(picture), png(mask), **fields))

    def run(self, image: bytes, mask: bytes, **fields: Any) -> bytes:
        """One job, from its files to that of its output."""
        request = {"image": "file:image", "mask": "file:mask", "seed": 1, **fields}
        parts = {"image": image, "mask": mask}
        answer = self._api.post("/v1/jobs", data={"request": json.dumps(request)}, files=parts).raise_for_status().json()
        while answer["status"] in ("queued", "running"):
            time.sleep(0.02)
            answer = self._api.get(f"/v1/jobs/{answer['id']}").raise_for_status().json()
        if answer["status"] != "succeeded":
            raise RuntimeError(f"{answer['id']}: {answer['error']}")
        return httpx.get(answer["outputs"][0]["url"]).raise_for_status().content


def compare(outfill: Outfill, model: Path) -> tuple[dict[str, list[Measured]], Array]:
    """Measures by column, and the contact sheet: a row for each photo, the mask's outline in the first column."""
    fills = _fills(outfill, model)
    measured: dict[str, list[Measured]] = {column: [] for column in fills}
    rows = []
    for number, (name, picture) in enumerate(photos.load().items()):
        mask = photos.ellipse(picture, number)
        outlined = picture.copy()
        cv2.drawContours(outlined, cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], -1, (255, 0, 0), 3)
        cells = [_cell(outlined)]
        for column, fill in fills.items():
            began = time.perf_counter()
            output = fill(picture, mask)
            seconds = time.perf_counter() - began
            measured[column].append(_measure(picture, output, edit_alpha(mask, *EDGES.get(column, _HARD)), seconds))
            cells.append(_cell(output))
        rows.append(np.concatenate(cells, axis=1))
        print(f"{name} {picture.shape[1]}×{picture.shape[0]}", flush=True)
    return measured, np.concatenate(rows, axis=0)


def comparison(measured: Mapping[str, list[Measured]]) -> Table:
    """Medians by column."""
    table = Table("median of " + str(len(next(iter(measured.values())))) + " photos", *measured)
    rows: tuple[tuple[str, Callable[[list[Any]], str]], ...] = (
        ("kept", lambda values: f"{min(values):.1%} … {max(values):.1%}"),
        ("seam", lambda values: f"{np.nanmedian(values):.2f}"),
        ("colour_shift", lambda values: f"{np.nanmedian(values):.2f}"),
        ("seam_off", lambda values: f"{np.nanmedian(values):.2f}"),
        ("colour_shift_off", lambda values: f"{np.nanmedian(values):.2f}"),
        ("size_kept", lambda values: "yes" if all(values) else "no"),
        ("seconds", lambda values: f"{np.median(values):.2f}"),
    )
    for name, shown in rows:
        table.add_row(name, *(shown([getattr(each, name) for each in column]) for column in measured.values()))
    return table


def png(pixels: Array) -> bytes:
    """A file, written fast."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _fills(outfill: Outfill, model: Path) -> Mapping[str, Callable[[Array, Array], Array]]:
    stock = load_stock(model)
    side = json.loads((model / "unet" / "config.json").read_text())["sample_size"] * stock.vae_scale_factor

    def run_stock(picture: Array, mask: Array, **options: Any) -> Array:
        small, small_mask = (Image.fromarray(each).resize((side, side)) for each in (picture, mask))
        if options:  # with padding_mask_crop stock scales the crop itself, and pastes it into the photo
            small, small_mask = Image.fromarray(picture), Image.fromarray(mask)
        generator = torch.Generator("cpu").manual_seed(1)
        arguments = {"height": side, "width": side, "num_inference_steps": 20, "guidance_scale": 2.5, "generator": generator}
        images = stock(prompt=PROMPT, image=small, mask_image=small_mask, **arguments, **options).images
        return np.array(images[0].convert("RGB"), np.uint8)

    calls: tuple[Callable[[Array, Array], Array], ...] = (
        lambda picture, mask: outfill.edit(picture, mask, operation="erase", model="exemplar"),
        lambda picture, mask: outfill.edit(
            picture, mask, operation="inpaint", model="bench", prompt=PROMPT, steps=20, guidance_scale=2.5, scheduler="ddim"
        ),
        run_stock,
        lambda picture, mask: run_stock(picture, mask, padding_mask_crop=32),
        lambda picture, mask: np.asarray(cv2.inpaint(picture, mask, 3, cv2.INPAINT_TELEA), np.uint8),
        lambda picture, _: picture,
    )
    return dict(zip(COLUMNS, calls, strict=True))


def _measure(picture: Array, output: Array, alpha: Array, seconds: float) -> Measured:
    """At the border of ``alpha``, in the output and in the photo. What has another size is scaled back first, as its user would have to."""
    same = output.shape == picture.shape
    if not same:
        output = np.asarray(cv2.resize(output, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    kept = alpha == 0
    border = Border.of(alpha)
    if border is None:
        raise ValueError("the mask has no border")
    (its_seam, shift), (own_seam, own_shift) = (
        (border.seam(each) or math.nan, border.colour_shift(each) or 0.0) for each in (output, picture)
    )
    return Measured(
        kept=float((output == picture).all(axis=2)[kept].mean()),
        seam=its_seam,
        colour_shift=shift,
        seam_off=abs(math.log(its_seam / own_seam)),
        colour_shift_off=abs(shift - own_shift),
        size_kept=same,
        seconds=seconds,
    )


def _cell(picture: Array) -> Array:
    """Scaled to fit a square cell."""
    scale = (CELL - 4) / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.full((CELL, CELL, 3), 255, np.uint8)
    cell[2 : 2 + small.shape[0], 2 : 2 + small.shape[1]] = small
    return cell


def _pixels(data: bytes) -> Array:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"), np.uint8)
