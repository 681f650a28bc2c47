"""Photos extended to 4:5 and 16:9 without a prompt: ``make bench-outpaint``.

The samples of scikit-image, or the photos of a folder (``PHOTOS=…``), each on the two canvases that add the fewest pixels. Of every extension: the verdict,
the seconds of its painting, the gradients of what is new against those of the ground that it continues, and whether the detector of second
copies finds one. The detector is tried too: a copy of the product is planted in every extension that has room for a third of it, shifted,
mirrored, smaller and larger. One table, build/bench/outpaint.json, and contact sheets in build/bench/outpaint-*.png, to be looked at.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Table

from api_schemas.jobs import InputRef, JobSpec, Report, new_id, utc_now
from api_schemas.models import EXEMPLAR
from api_schemas.requests import Level, job_request
from core.settings import Settings
from scripts.figures import exit_status, figure, timed, write_figures
from scripts.photos import SKIMAGE
from worker.engines.base import begin
from worker.engines.exemplar import ExemplarEngine
from worker.images.copies import second_copy
from worker.images.ground import PRODUCT
from worker.images.subject import Segmenter
from worker.intake import Plan, prepare
from worker.report import Examiner
from worker.rounds import Rounds

Array = npt.NDArray[np.uint8]
RATIOS = ((4, 5), (16, 9))
PLANTED = {"mirrored": 1.0, "shifted": 1.0, "smaller": 0.88, "larger": 1.12}
"""Kinds of planted copies, and their size."""
LEAST_SEEN = 0.33
"""Share of a planted copy that must be within the new area: of less nobody can say whether it is the product or another thing of its colours."""
LEAST_GRADIENT = 0.1
"""Mean gradient in levels of a ground in which there is anything to go on with: less is a frame of one colour."""
SEAM, BESIDE = 3, 0.25
"""Pixels on both sides of the old border that are not looked at, and how deep the ground is that goes on there, as a share of what is added: further in
other things stand."""
LEAST_TEXTURE = 0.6
"""Share of the ground's gradients that what is new must have."""
LIMITS = {
    "second_copies": 0,
    "planted_missed": 0,
    "looking_seconds_most": 1.0,
    "texture_lost_median": 1 - LEAST_TEXTURE,
    "texture_lost_extensions": 0,
    "not_passed_share": 0.4,
}
CELL, ACROSS, DOWN = 420, 4, 4


@dataclass(frozen=True)
class Extension:
    """One photo on one canvas."""

    name: str
    picture: Array
    report: Report
    seconds: float
    texture: float | None
    """Mean gradient of what is new, over that of the ground beside it; ``None`` where no ground is seen there, or nothing in it."""
    copied: float
    planted: tuple[float, ...]
    """What the detector says of each planted copy; 0 is missed."""
    looking: float
    """Seconds of a processor that looking for a copy takes where there is none, or before it is found."""


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder of JPEG and PNG files (default: the samples of scikit-image)")
    settings = Settings()
    segmenter = Segmenter(settings.models.store / "u2netp.onnx")
    examiner, engine = Examiner(segmenter, settings.quality), ExemplarEngine()
    extensions = []
    for name, data in _photos(parser.parse_args().photos):
        for ratio in RATIOS:
            extension = _extended(name, data, ratio, segmenter, examiner, engine)
            if extension is not None:
                extensions.append(extension)
                print(f"{extension.name}: {extension.report.verdict.level}", flush=True)
    _report(extensions)
    _write_sheets(extensions)
    figures = _figures(extensions)
    write_figures("outpaint", figures)
    return exit_status(figures)


def _photos(folder: Path | None) -> Iterator[tuple[str, bytes]]:
    if folder is None:
        yield from ((Path(name).stem, (files("skimage.data") / name).read_bytes()) for name in SKIMAGE)
    else:
        chosen = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        yield from ((path.stem, path.read_bytes()) for path in chosen)


def _extended(
    name: str, data: bytes, ratio: tuple[int, int], segmenter: Segmenter, examiner: Examiner, engine: ExemplarEngine
) -> Extension | None:
    with Image.open(io.BytesIO(data)) as opened:
        width, height = opened.size
    canvas = max(width, -(-height * ratio[0] // ratio[1])), max(height, -(-width * ratio[1] // ratio[0]))
    if canvas == (width, height):
        return None
    fields = {"operation": "outpaint", "image": "image", "seed": 1, "canvas": {"width": canvas[0], "height": canvas[1]}}
    ref = InputRef(key="k", format="png", width=width, height=height, bytes=len(data), sha256="0")
    request = job_request.validate_python(fields)
    spec = JobSpec(
        id=new_id("job"),
        tenant="bench",
        model=EXEMPLAR.id,
        model_revision="1",
        request=request,
        inputs={"image": ref},
        created_at=utc_now(),
    )
    plan = prepare(spec, EXEMPLAR, {"image": data}.__getitem__, segmenter, max_pixels=10**8)
    rounds = Rounds(spec, plan, examiner)
    seconds = timed(lambda: _paint(rounds, engine))
    (rendered,) = rounds.rendered
    with Image.open(io.BytesIO(rendered.data)) as opened:
        picture = np.asarray(opened.convert("RGB"))
    new, product = plan.edit.alpha > 0, _product(plan)
    planted = tuple(second_copy(each, product, new) for each in _planted(picture, product, plan))
    begun = time.process_time()
    found = second_copy(picture, product, new)
    looking = time.process_time() - begun
    label = f"{name} {ratio[0]}:{ratio[1]}"
    return Extension(label, picture, rendered.report, seconds, _texture(picture, plan), found, planted, looking)


def _paint(rounds: Rounds, engine: ExemplarEngine) -> None:
    while rounds.requests:
        slots = begin(engine, rounds.requests)
        engine.step(slots)
        if error := next((slot.error for slot in slots if slot.error), None):
            raise error
        rounds.take(engine.finish(slots))


def _product(plan: Plan) -> npt.NDArray[np.bool_]:
    things = plan.edit.things
    return np.zeros(plan.edit.alpha.shape, np.bool_) if things is None else things == PRODUCT


def _texture(picture: Array, plan: Plan) -> float | None:
    """The mean gradient of what is new over that of the ground beside it; ``None`` where no ground is seen, or nothing in it.

    Where the border cuts a thing, that is continued there, and no ground.
    """
    edit, (height, width) = plan.edit, plan.edit.alpha.shape
    things = np.zeros((height, width), np.uint8) if edit.things is None else (edit.things > 0).astype(np.uint8)
    halo = 2 * max(4, min(edit.source.width, edit.source.height) // 50) + 1
    hidden = cv2.dilate(things, np.ones((halo, halo), np.uint8)) > 0
    y, x = np.gradient(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32))
    gradient, place = np.hypot(x, y), edit.place
    sides = (
        (place.left, gradient, hidden),
        (width - place.right, gradient[:, ::-1], hidden[:, ::-1]),
        (place.top, gradient.T, hidden.T),
        (height - place.bottom, gradient[::-1].T, hidden[::-1].T),
    )
    new, ground, looked = [], [], 0
    for count, values, things_there in sides:
        if count:
            # The seam itself belongs to neither.
            deep = slice(count + SEAM, count + SEAM + max(4, int(BESIDE * count)))
            new.append(values[:, : max(0, count - SEAM)][~things_there[:, count : count + SEAM].any(axis=1)].reshape(-1))
            ground.append(values[:, deep][~things_there[:, deep]])
            looked += values[:, deep].size
    added, seen = np.concatenate(new), np.concatenate(ground)
    if not added.size or seen.size < 0.05 * looked or seen.mean() < LEAST_GRADIENT:
        return None
    return float(added.mean() / seen.mean())


def _planted(picture: Array, product: npt.NDArray[np.bool_], plan: Plan) -> Iterator[Array]:
    """``picture`` with a second copy of the product amid what was added on one side, once for each kind that is seen there well enough."""
    rows, columns = np.flatnonzero(product.any(axis=1)), np.flatnonzero(product.any(axis=0))
    if not rows.size:
        return
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    left, top = plan.edit.origin
    for kind, size in PLANTED.items():
        thing, mask = picture[box], product[box].astype(np.uint8)
        if kind == "mirrored":
            thing, mask = np.flip(thing, axis=1 if left else 0), np.flip(mask, axis=1 if left else 0)
        shape = max(1, round(thing.shape[1] * size)), max(1, round(thing.shape[0] * size))
        thing = np.asarray(cv2.resize(thing, shape, interpolation=cv2.INTER_AREA), np.uint8)
        mask = np.asarray(cv2.resize(mask, shape, interpolation=cv2.INTER_NEAREST), np.uint8)
        # Centred on what was added before the photo, and cut by the frame and by the photo.
        aside = 0 if kind == "mirrored" else min(thing.shape[:2]) // 5
        x, y = (left // 2 - shape[0] // 2, box[0].start + aside) if left else (box[1].start + aside, top // 2 - shape[1] // 2)
        seat = slice(max(0, y), max(0, y + shape[1])), slice(max(0, x), max(0, x + shape[0]))
        target = picture.copy()
        view = target[seat]
        part = slice(max(0, -y), max(0, -y) + view.shape[0]), slice(max(0, -x), max(0, -x) + view.shape[1])
        there = (mask[part] > 0) & (plan.edit.alpha[seat] > 0)
        if np.count_nonzero(there) >= LEAST_SEEN * np.count_nonzero(mask):
            view[there] = thing[part][there]
            yield target


def _figures(extensions: list[Extension]) -> dict[str, dict[str, object]]:
    planted = [found for extension in extensions for found in extension.planted]
    textures = [extension.texture for extension in extensions if extension.texture is not None]
    passed = sum(extension.report.verdict.level is Level.PASS for extension in extensions)
    values = {
        "second_copies": sum(extension.copied > 0 for extension in extensions),
        "planted_missed": planted.count(0.0),
        "looking_seconds_most": max(extension.looking for extension in extensions),
        "texture_lost_median": 1 - statistics.median(textures),
        "texture_lost_extensions": sum(texture < LEAST_TEXTURE for texture in textures),
        "not_passed_share": 1 - passed / len(extensions),
    }
    others = {
        "extensions": len(extensions),
        "planted": len(planted),
        "texture_least": round(min(textures), 3),
        "seconds_median": round(statistics.median(extension.seconds for extension in extensions), 2),
        "seconds_most": round(max(extension.seconds for extension in extensions), 2),
    }
    judged = {name: figure(value, LIMITS[name]) for name, value in values.items()}
    return judged | {name: {"value": value, "limit": None, "holds": True} for name, value in others.items()}


def _report(extensions: list[Extension]) -> None:
    table = Table("extension", "verdict", "texture", "copy", "planted", "looking", "seconds", "reasons")
    for each in extensions:
        verdict, texture = each.report.verdict, "-" if each.texture is None else f"{each.texture:.2f}"
        planted = " ".join(f"{found:.2f}" for found in each.planted)
        table.add_row(
            each.name,
            verdict.level,
            texture,
            f"{each.copied:.2f}",
            planted,
            f"{each.looking:.2f}",
            f"{each.seconds:.1f}",
            "; ".join(verdict.reasons),
        )
    Console(width=200).print(table)


def _write_sheets(extensions: list[Extension]) -> None:
    folder = Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(0, len(extensions), ACROSS * DOWN):
        sheet = Image.new("RGB", (ACROSS * CELL, DOWN * CELL), "white")
        for place, each in enumerate(extensions[number : number + ACROSS * DOWN]):
            thumbnail = Image.fromarray(each.picture)
            thumbnail.thumbnail((CELL - 8, CELL - 8), Image.Resampling.LANCZOS)
            sheet.paste(thumbnail, (place % ACROSS * CELL, place // ACROSS * CELL))
        sheet.save(folder / f"outpaint-{number // (ACROSS * DOWN)}.png")


if __name__ == "__main__":
    sys.exit(main())
