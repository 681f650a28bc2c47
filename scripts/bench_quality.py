"""The same edits by Outfill, by the stock diffusers pipeline and by OpenCV: ``make bench-quality``.

On real photos from packages a region of about a seventh is filled: by Outfill (``erase``, and ``inpaint`` with the model that the stock pipeline
uses too), by the stock pipeline as its documentation shows it (the photo resized to the model's size), by stock with
``padding_mask_crop``, and by OpenCV's ``inpaint`` (Telea). All outputs are measured alike, and so is the photo itself, which nobody edited: an
output is best where it measures as its photo does, for a smear has less of a seam than any photo. Outfill is asked over HTTP; PNG in and out.

Then: time against canvas size, ten edits in a row, and the worker's peak memory, at 8000×8000 too, with a small mask and with one of three quarters. One table, build/bench/quality.json, and a
contact sheet in build/bench/quality.png.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import sys
import tempfile
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
from rich.console import Console
from rich.table import Table

from scripts import photos
from scripts.figures import exit_status, figure, timed, write_figures
from scripts.stock import load_stock
from service.local import LocalStack, StackOptions
from worker.images.mask import edit_alpha
from worker.images.measures import Border

Array = npt.NDArray[np.uint8]
PROMPT = "grey concrete wall, soft light"
COLUMNS = ("Outfill erase", "Outfill inpaint", "stock", "stock, padding_mask_crop", "OpenCV Telea", "photo")
OURS, OTHERS = COLUMNS[:2], COLUMNS[2:5]
SMALL, LARGE, LARGEST = (768, 768), (6000, 4000), (8000, 8000)
MASK_PX, ROUNDS, EDITS = 256, 9, 10
CELL = 150
LIMITS = {"kept_share": 1.0, "seam": 1.1, "colour_shift": 1.0, "large_over_small": 1.5, "drift": 0, "worker_peak_gib_at_8000": 2.5}


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
        return _pixels(self.run(_png(picture), _png(mask), **fields))

    def run(self, image: bytes, mask: bytes, **fields: Any) -> bytes:
        """One job, from its files to that of its output."""
        request = {"image": "file:image", "mask": "file:mask", "mask_options": {"grow_px": 0, "feather_px": 4}, "seed": 1, **fields}
        parts = {"image": image, "mask": mask}
        answer = self._api.post("/v1/jobs", data={"request": json.dumps(request)}, files=parts).raise_for_status().json()
        while answer["status"] in ("queued", "running"):
            time.sleep(0.02)
            answer = self._api.get(f"/v1/jobs/{answer['id']}").raise_for_status().json()
        if answer["status"] != "succeeded":
            raise RuntimeError(f"{answer['id']}: {answer['error']}")
        return httpx.get(answer["outputs"][0]["url"]).raise_for_status().content


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a diffusers inpainting directory")
    model: Path = parser.parse_args().model.resolve()
    environment = {"OUTFILL_MODELS__DIRECTORIES": json.dumps({"bench": str(model)}), "OUTFILL_WORKER__SERVE": "bench,exemplar"}
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalStack(StackOptions(Path(folder), environment=environment), say=lambda _: None) as stack,
        httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=120) as api,
    ):
        outfill = Outfill(api)
        measured, sheet = _compare(outfill, model)
        ratio = _against_canvas(outfill)
        peak = _peak(stack)
        drift = _drift(outfill)
        for side in (MASK_PX, LARGEST[0] * 7 // 8):
            _edit_of_one_size(outfill, _files(LARGEST, side))
        largest_peak = _peak(stack)
    figures = _figures(measured, ratio, drift, largest_peak)
    _report(measured, figures, peak)
    Path("build/bench").mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save("build/bench/quality.png")
    write_figures("quality", figures | {"worker_peak_bytes": {"value": peak, "limit": None, "holds": True}})
    return exit_status(figures)


def _compare(outfill: Outfill, model: Path) -> tuple[dict[str, list[Measured]], Array]:
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
            measured[column].append(_measure(picture, mask, output, seconds))
            cells.append(_cell(output))
        rows.append(np.concatenate(cells, axis=1))
        print(f"{name} {picture.shape[1]}×{picture.shape[0]}", flush=True)
    return measured, np.concatenate(rows, axis=0)


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


def _measure(picture: Array, mask: Array, output: Array, seconds: float) -> Measured:
    """What has another size is scaled back first, as its user would have to."""
    same = output.shape == picture.shape
    if not same:
        output = np.asarray(cv2.resize(output, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    kept = mask == 0
    alpha = edit_alpha(mask, 0, 4)  # one border for all: where Outfill fades
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


def _against_canvas(outfill: Outfill) -> float:
    """How much longer the same mask takes in a photo of 24 megapixels than in a small one."""
    files = {size: _files(size) for size in (SMALL, LARGE)}
    seconds: dict[tuple[int, int], list[float]] = {size: [] for size in files}
    for _ in range(ROUNDS + 1):
        for size, both in files.items():
            seconds[size].append(_edit_of_one_size(outfill, both))
    small, large = (statistics.median(values[1:]) for values in seconds.values())
    print(f"{SMALL[0]}×{SMALL[1]}: {small:.2f} s; {LARGE[0]}×{LARGE[1]}: {large:.2f} s")
    return large / small


def _files(size: tuple[int, int], masked: int = MASK_PX) -> tuple[bytes, bytes]:
    """A photo of ``size`` as a JPEG, and a mask with a square of ``masked`` pixels a side in its middle."""
    photo, picture, mask = Image.fromarray(photos.load()["astronaut"]), io.BytesIO(), Image.new("L", size)
    photo.resize(size, Image.Resampling.BICUBIC).save(picture, "JPEG", quality=90)
    left, top = (side // 2 - masked // 2 for side in size)
    mask.paste(255, (left, top, left + masked, top + masked))
    return picture.getvalue(), _png(np.asarray(mask))


def _edit_of_one_size(outfill: Outfill, files: tuple[bytes, bytes]) -> float:
    """Seconds of one edit, JPEG in and out."""
    return timed(lambda: outfill.run(*files, operation="inpaint", model="bench", prompt=PROMPT, output={"format": "jpeg"}))


def _peak(stack: LocalStack) -> int:
    """The most memory that a worker of the stack has had, bytes."""
    found = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            environment = (status.parent / "environ").read_bytes()
            if b"worker\0paint" in command and stack.bucket.encode() in environment and str(stack.redis_port).encode() in environment:
                peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                found = max(found, int(peak.split()[1]) * 1024)
        except (OSError, StopIteration):
            continue
    return found


def _drift(outfill: Outfill) -> int:
    """Pixels outside all masks that ten edits in a row have changed."""
    picture = first = photos.load()["coffee"]
    masked = np.zeros(picture.shape[:2], np.bool_)
    for number in range(EDITS):
        mask = np.zeros(picture.shape[:2], np.uint8)
        top, left = np.random.default_rng(number).integers((0, 0), (picture.shape[0] - 60, picture.shape[1] - 60))
        mask[top : top + 60, left : left + 60] = 255
        masked |= mask > 0
        picture = outfill.edit(picture, mask, operation="erase", model="exemplar")
    return int(np.count_nonzero((picture != first).any(axis=2) & ~masked))


def _figures(measured: Mapping[str, list[Measured]], ratio: float, drift: int, peak: int) -> dict[str, dict[str, Any]]:
    def median(column: str, name: str) -> float:
        return float(np.nanmedian([getattr(each, name) for each in measured[column]]))

    figures: dict[str, dict[str, Any]] = {}
    kept = min(each.kept for column in OURS for each in measured[column])
    figures["kept_share"] = {"value": kept, "limit": LIMITS["kept_share"], "holds": kept == 1}
    for column in OURS:
        key = column.split()[-1]
        for name in ("seam", "colour_shift"):
            value, off = median(column, name), median(column, f"{name}_off")
            figures[f"{key}_{name}"] = figure(value, LIMITS[name])
            best = min(median(other, f"{name}_off") for other in OTHERS)
            figures[f"{key}_{name}_off_the_photo_s"] = figure(off, best)
    figures["large_over_small"] = figure(ratio, LIMITS["large_over_small"])
    figures["worker_peak_gib_at_8000"] = figure(peak / 2**30, LIMITS["worker_peak_gib_at_8000"])
    figures["drift_pixels_of_ten_edits"] = figure(drift, LIMITS["drift"])
    return figures


def _report(measured: Mapping[str, list[Measured]], figures: Mapping[str, Mapping[str, Any]], peak: int) -> None:
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
    console = Console(width=140)
    console.print(table)
    lines = Table("figure", "value", "limit", "holds")
    for name, entry in figures.items():
        lines.add_row(name, str(entry["value"]), f"{entry['limit']:.4g}", "yes" if entry["holds"] else "NO")
    console.print(lines)
    console.print(f"peak memory of the worker: {peak / 2**30:.2f} GiB; contact sheet: build/bench/quality.png")


def _cell(picture: Array) -> Array:
    """Scaled to fit a square cell."""
    scale = (CELL - 4) / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.full((CELL, CELL, 3), 255, np.uint8)
    cell[2 : 2 + small.shape[0], 2 : 2 + small.shape[1]] = small
    return cell


def _png(pixels: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _pixels(data: bytes) -> Array:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"), np.uint8)


if __name__ == "__main__":
    sys.exit(main())
