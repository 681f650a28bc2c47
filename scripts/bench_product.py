"""Products found in real photos, against outlines drawn by hand: ``make bench-product``.

The photos of ``scripts/product_masks`` that are at hand: five of scikit-image's, and those of the folders in ``PHOTOS``. For the default segmenter with
one look and with all, and for a segmenter's directory if one is given (``SEGMENTER=…``, ``python -m scripts.fetch_isnet`` brings one): the intersection
over union, the share of the outline that is met within 3 pixels in 1000, the CPU seconds, and how the confidence parts what is right from
what is not. One table, build/bench/product.json, and a sheet of all cut-outs on white, build/bench/product-*.png, to be looked at.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Table

from api_schemas.errors import SubjectNotFound
from core.settings import Settings
from scripts.figures import at_least, exit_status, figure, figure_table, write_figures
from worker.engines.segmenter import load_network
from worker.images.blend import estimate_foreground
from worker.images.facts import U2NETP_FACTS
from worker.images.looks import MOST
from worker.images.network import CPU, Network
from worker.images.subject import Product, Segmenter

Array = npt.NDArray[np.uint8]
MASKS = Path(__file__).parent / "product_masks"
SKIMAGE = {"astronaut": "astronaut.png", "camera": "camera.png", "chelsea": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg"}
COUNTS_NOT = 128
BEFORE = {"astronaut": 0.974, "backpack": 0.816, "birdlamp": 0.933, "bowl": 0.995, "brushes": 0.178, "camera": 0.950, "car1": 0.973, "car2": 0.983,
          "chelsea": 0.866, "cloth": 0.965, "coffee": 0.993, "cola": 0.981, "dahlia": 0.996, "dragonfly": 0.000, "dragonhead": 0.952, "elephant": 0.992,
          "garden": 0.971, "girl": 0.780, "goldfish": 0.986, "groceries": 0.992, "hopper": 0.991, "ladybird": 0.878, "motoL": 0.839, "motoR": 0.811,
          "mouse": 0.821, "mugs": 0.430, "plants": 0.272, "quokka": 1.000, "rocket": 0.976, "sneaker": 0.958, "strawberries": 0.994, "truck": 0.986,
          "wine": 0.992, "yellowflower": 0.135}  # fmt: skip
"""Intersection over union before there were several looks (b1c49c7), measured by these outlines."""
LIMIT = 0.7
"""Share of the error before that may be left."""
TILE = 400


@dataclass(frozen=True)
class Result:
    """One photo by one segmenter."""

    iou: float
    outline: float
    """F-score of the outline within 3 pixels in 1000."""
    seconds: float
    confidence: float
    matte: Array


def main() -> int:
    """Measure; 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", default="", help="folders with photos, parted by colons")
    parser.add_argument("--segmenter", type=Path, help="directory of a segmenter to compare with")
    arguments = parser.parse_args()
    photos = dict(_photos([Path(folder) for folder in arguments.photos.split(":") if folder]))
    network = Network(Settings().models.store / "u2netp.onnx", U2NETP_FACTS)
    segmenters = {"one look": Segmenter(network, 1), "default": Segmenter(network, MOST)}
    if arguments.segmenter:
        segmenters[arguments.segmenter.name] = Segmenter(load_network(arguments.segmenter, (CPU,)), MOST)
    found = {
        name: {photo: _measure(segmenter, photo, pixels) for photo, pixels in photos.items()} for name, segmenter in segmenters.items()
    }
    _say(found)
    for name, results in found.items():
        _sheet(Path("build/bench") / f"product-{name.replace(' ', '-')}.png", photos, results)
    figures = _figures(found)
    Console().print(figure_table(figures))
    write_figures("product", figures)
    return exit_status(figures)


def _photos(folders: list[Path]) -> Iterator[tuple[str, Array]]:
    for mask in sorted(MASKS.glob("*.png")):
        paths = [
            path for folder in folders for path in sorted(folder.glob(f"{mask.stem}.*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        ]
        if not paths and mask.stem in SKIMAGE:
            paths = [Path(str(files("skimage.data") / SKIMAGE[mask.stem]))]
        if paths:
            yield mask.stem, np.array(Image.open(paths[0]).convert("RGB"), np.uint8)


def _measure(segmenter: Segmenter, name: str, pixels: Array) -> Result:
    began = time.process_time()
    try:
        product = segmenter.find(pixels)
    except SubjectNotFound:
        product = Product(np.zeros(pixels.shape[:2], np.uint8), 0.0)
    seconds = time.process_time() - began
    truths = [np.array(Image.open(path), np.uint8) for path in (MASKS / f"{name}.png", *sorted(MASKS.glob(f"{name}_*.png")))]
    iou, outline = max((_iou(product.matte, truth), _outline(product.matte, truth)) for truth in truths)
    return Result(iou, outline, seconds, product.confidence or 0.0, product.matte)


def _iou(matte: Array, truth: Array) -> float:
    counts, found, real = truth != COUNTS_NOT, matte > 127, truth == 255
    return float(np.count_nonzero(found & real & counts)) / max(1, int(np.count_nonzero((found | real) & counts)))


def _outline(matte: Array, truth: Array) -> float:
    """Boundary F-score: of each outline's pixels the share that has the other within the tolerance."""
    reach = max(1, round(3 * max(matte.shape) / 1000))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    counts = cv2.dilate((truth == COUNTS_NOT).astype(np.uint8), disc) == 0
    lines = [
        cv2.morphologyEx(side.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0 for side in (matte > 127, truth == 255)
    ]
    near = [cv2.dilate(line.astype(np.uint8), disc) > 0 for line in lines]
    met = [
        np.count_nonzero(line & other & counts) / max(1, int(np.count_nonzero(line & counts)))
        for line, other in zip(lines, reversed(near), strict=True)
    ]
    return 2 * met[0] * met[1] / max(1e-9, met[0] + met[1])


def _say(found: Mapping[str, Mapping[str, Result]]) -> None:
    table = Table("photo", "before", *(f"{name}: IoU, outline, confidence, s" for name in found))
    for photo in next(iter(found.values())):
        cells = (results[photo] for results in found.values())
        row = (f"{each.iou:.3f} {each.outline:.2f} {each.confidence:.2f} {each.seconds:.1f}" for each in cells)
        table.add_row(photo, f"{BEFORE.get(photo, float('nan')):.3f}", *row)
    Console().print(table)


def _figures(found: Mapping[str, Mapping[str, Result]]) -> dict[str, dict[str, object]]:
    default = found["default"]
    known = [name for name in default if name in BEFORE]
    before = statistics.mean(1 - BEFORE[name] for name in known)
    wrong = [each for each in default.values() if each.iou < 0.85]
    right = [each for each in default.values() if each.iou > 0.95]
    figures = {
        "error_against_before": figure(statistics.mean(1 - default[name].iou for name in known) / before, LIMIT),
        "wrong_flagged_share": at_least(_flagged(wrong), 0.9),
        "right_flagged_share": figure(_flagged(right), 0.1),
        "seconds_one_look": figure(statistics.median(each.seconds for each in found["one look"].values()), 0.4),
        "seconds_default": figure(statistics.median(each.seconds for each in default.values()), 1.6),
    }
    for name in found.keys() - {"one look", "default"}:
        figures[f"{name}_above_0.9_share"] = at_least(statistics.mean(each.iou > 0.9 for each in found[name].values()), 28 / 30)
    return figures


def _flagged(results: list[Result]) -> float:
    limit = Settings().quality.confidence_warn
    return statistics.mean(each.confidence < limit for each in results) if results else 0.0


def _sheet(path: Path, photos: Mapping[str, Array], results: Mapping[str, Result]) -> None:
    tiles = []
    for name, pixels in photos.items():
        matte = results[name].matte
        alpha = matte[..., None].astype(np.float32) / 255
        shown = estimate_foreground(pixels, matte) * alpha + 255 * (1 - alpha)
        scale = TILE / max(pixels.shape[:2])
        small = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        tile = np.full((TILE + 20, TILE, 3), 230, np.uint8)
        tile[: small.shape[0], : small.shape[1]] = np.clip(small, 0, 255)
        cv2.putText(
            tile,
            f"{name} {results[name].iou:.2f} {results[name].confidence:.2f}",
            (4, TILE + 14),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.45,
            (0, 0, 0),
        )
        tiles.append(tile)
    blank = np.full((TILE + 20, TILE, 3), 255, np.uint8)
    rows = [tiles[start : start + 5] for start in range(0, len(tiles), 5)]
    sheet = np.vstack([np.hstack(row + [blank] * (5 - len(row))) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), sheet[..., ::-1])


if __name__ == "__main__":
    raise SystemExit(main())
