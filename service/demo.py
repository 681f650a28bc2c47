"""``outfill demo``: real photos through the API of a local stack, with before and after side by side."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw
from rich.console import Console

from service.local import LocalStack, StackError, StackOptions

_LIMIT_S = 180.0
_GAP = 16


@dataclass(frozen=True)
class Scene:
    """One edit of one photo."""

    name: str
    title: str
    photo: str
    """A file of scikit-image's sample data."""
    request: Mapping[str, Any]
    strokes: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Polygons (x, y) that are painted white in the mask."""


SCENES = (
    *(
        Scene(
            f"coffee-on-{name}",
            f"replace_background: coffee cup, “{prompt}”",
            "coffee.png",
            {"operation": "replace_background", "image": "file:photo", "prompt": prompt, "seed": seed},
        )
        for name, prompt, seed in (
            ("marble", "white marble table, dark grey wall", 2),
            ("dark-wood", "dark wooden table, teal wall", 1),
            ("pink-paper", "pink paper backdrop, soft shadow", 1),
        )
    ),
    Scene(
        "coffee-on-gradient",
        "replace_background: coffee cup on a gradient, with a contact shadow",
        "coffee.png",
        {
            "operation": "replace_background",
            "image": "file:photo",
            "background": {"gradient": {"start": "#f7efe4", "end": "#c9b79c", "angle_deg": 180}},
            "shadow": {"opacity": 0.55, "softness": 0.5},
        },
    ),
    Scene(
        "rocket-without-mast",
        "erase: the mast beside the rocket",
        "rocket.jpg",
        {"operation": "erase", "image": "file:photo", "mask": "file:mask", "seed": 1},
        strokes=(((180, 112), (206, 112), (206, 400), (166, 400), (166, 350), (178, 220)),),
    ),
    Scene(
        "sky-with-room",
        "outpaint: more sky on both sides of a deep field",
        "hubble_deep_field.jpg",
        {"operation": "outpaint", "image": "file:photo", "expand": {"left": 120, "right": 120}, "seed": 1},
    ),
)


def run_demo(out: Path, data: Path, console: Console) -> int:
    """Run all scenes; the exit status. Pictures go to ``out``, the stack's data to ``data``."""
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    try:
        with LocalStack(StackOptions(data), say=console.print) as stack:
            console.print(f"local stack up in {time.perf_counter() - began:.1f} s at {stack.url}", highlight=False)
            headers = {"Authorization": f"Bearer {stack.api_key}"}
            with httpx.Client(base_url=stack.url, headers=headers, timeout=30) as client:
                results = [_run(client, scene, out, console) for scene in SCENES]
    except StackError as error:
        console.print(str(error), style="red", highlight=False)
        return 1
    console.print("\nBefore and after, side by side:", highlight=False)
    for path, seconds in results:
        if path is not None:
            print(f"{path}  {seconds:.1f} s")
    return 0 if all(path is not None for path, _ in results) else 1


def _run(client: httpx.Client, scene: Scene, out: Path, console: Console) -> tuple[Path | None, float]:
    photo = (files("skimage.data") / scene.photo).read_bytes()
    parts = {"photo": photo}
    if scene.strokes:
        parts["mask"] = _mask(photo, scene)
    console.print(f"\n{scene.title}", highlight=False)
    began = time.perf_counter()
    answer = client.post("/v1/jobs", data={"request": json.dumps(dict(scene.request))}, files=parts)
    if answer.status_code != httpx.codes.ACCEPTED:
        console.print(f"  refused: {answer.text}", style="red", highlight=False)
        return None, 0.0
    job = _follow(client, answer.json(), console)
    seconds = time.perf_counter() - began
    if job["status"] != "succeeded":
        console.print(f"  {job['status']}: {job.get('error')}", style="red", highlight=False)
        return None, seconds
    output = job["outputs"][0]
    after = httpx.get(output["url"]).raise_for_status().content
    (out / f"{scene.name}.png").write_bytes(after)
    kept = output["report"]["preserved"]
    console.print(f"  {kept['kept_pixels']} pixels were to be kept; {kept['changed_pixels']} of them changed", highlight=False)
    path = out / f"{scene.name}-before-after.png"
    _side_by_side(photo, parts.get("mask"), after).save(path)
    return path.resolve(), seconds


def _follow(client: httpx.Client, job: dict[str, Any], console: Console) -> dict[str, Any]:
    """Poll the job to its end and say each change."""
    deadline, shown = time.monotonic() + _LIMIT_S, ""
    while True:
        progress = job.get("progress") or {}
        line = f"  {job['status']}" + (f", step {progress['step']} of {progress['steps']}" if progress else "")
        if line != shown:
            console.print(line, highlight=False)
            shown = line
        if job["status"] not in ("queued", "running") or time.monotonic() > deadline:
            return job
        time.sleep(0.1)
        job = client.get(job["urls"]["self"]).raise_for_status().json()


def _mask(photo: bytes, scene: Scene) -> bytes:
    with Image.open(io.BytesIO(photo)) as image:
        mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    for polygon in scene.strokes:
        draw.polygon(polygon, fill=255)
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return buffer.getvalue()


def _side_by_side(photo: bytes, mask: bytes | None, after: bytes) -> Image.Image:
    """Before and after on one sheet; what was masked is tinted red."""
    left, right = (Image.open(io.BytesIO(data)).convert("RGB") for data in (photo, after))
    if mask is not None:
        region = Image.open(io.BytesIO(mask)).point([value // 2 for value in range(256)])
        left.paste(Image.new("RGB", left.size, "red"), mask=region)
    sheet = Image.new("RGB", (left.width + _GAP + right.width, max(left.height, right.height)), "#808080")
    sheet.paste(left, (0, (sheet.height - left.height) // 2))
    sheet.paste(right, (left.width + _GAP, (sheet.height - right.height) // 2))
    return sheet
