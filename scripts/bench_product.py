"""Products found in real photos, against outlines drawn by hand: ``make bench-product``.

The photos of ``scripts/product_masks`` that are at hand: five of scikit-image's, and those of the folders in ``PHOTOS``. For the default segmenter with
one look and with all, and for a segmenter's directory if one is given (``SEGMENTER=…``, ``python -m scripts.fetch_isnet`` brings one): the intersection
over union, the share of the outline that is met within 3 pixels in 1000, the CPU seconds, the largest part that is missing where the network was
sure of it, and how the confidence parts what is right from what is not. One table, build/bench/product.json, and a sheet of all cut-outs on white,
build/bench/product-*.png, to be looked at.

With folders of things (``OBJECTS``: pictures with an alpha channel) and of grounds (``GROUNDS``: photos in which nothing stands out) the confidence is
measured on composites as well (``scripts/composites.py``), of which the half that it was not fitted to counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
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
from scripts.composites import COUNTS_NOT, Composite, Corpus
from scripts.figures import at_least, exit_status, figure, figure_table, write_figures
from worker.engines.segmenter import load_network
from worker.images.blend import estimate_foreground
from worker.images.facts import U2NETP_FACTS
from worker.images.looks import MOST, Finding
from worker.images.network import CPU, Network
from worker.images.subject import Product, Segmenter

Array = npt.NDArray[np.uint8]
MASKS = Path(__file__).parent / "product_masks"
SKIMAGE = {"astronaut": "astronaut.png", "camera": "camera.png", "chelsea": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg"}
BEFORE = {"astronaut": 0.974, "backpack": 0.816, "birdlamp": 0.933, "bowl": 0.995, "brushes": 0.178, "camera": 0.950, "car1": 0.973, "car2": 0.983,
          "chelsea": 0.866, "cloth": 0.965, "coffee": 0.993, "cola": 0.981, "dahlia": 0.996, "dragonfly": 0.000, "dragonhead": 0.952, "elephant": 0.992,
          "garden": 0.971, "girl": 0.780, "goldfish": 0.986, "groceries": 0.992, "hopper": 0.991, "ladybird": 0.878, "motoL": 0.839, "motoR": 0.811,
          "mouse": 0.821, "mugs": 0.430, "plants": 0.272, "quokka": 1.000, "rocket": 0.976, "sneaker": 0.958, "strawberries": 0.994, "truck": 0.986,
          "wine": 0.992, "yellowflower": 0.135}  # fmt: skip
"""Intersection over union before there were several looks (b1c49c7), measured by these outlines."""
LIMIT = 0.7
"""Share of the error before that may be left."""
WRONG, RIGHT = 0.85, 0.95
"""Intersection over union below which a product is lost, and above which it is right."""
SURE = 0.7
"""Likelihood from which the network's map is to be believed."""
TILE = 400


@dataclass(frozen=True)
class Result:
    """One photo by one segmenter."""

    iou: float
    outline: float
    """F-score of the outline within 3 pixels in 1000."""
    seconds: float
    confidence: float
    missing: float
    """Largest part of the product that is missing where the joined map is sure of it, as a share of the product."""
    matte: Array


@dataclass(frozen=True)
class Judged:
    """One composite: how right it is, and how sure."""

    iou: float
    confidence: float
    held_out: bool


def main() -> int:
    """Measure; 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", default="", help="folders with photos, parted by colons")
    parser.add_argument("--segmenter", type=Path, help="directory of a segmenter to compare with")
    parser.add_argument("--objects", type=Path, help="folder of pictures with an alpha channel, for composites")
    parser.add_argument("--grounds", type=Path, help="folder of photos in which nothing stands out, for composites")
    parser.add_argument("--composites", type=int, default=640, help="number of composites, where there are folders for them")
    arguments = parser.parse_args()
    masked = photos_with_masks([Path(folder) for folder in arguments.photos.split(":") if folder])
    photos = {name: pixels for name, (pixels, _) in masked.items()}
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
    if arguments.objects and arguments.grounds:
        corpus = Corpus(masked, arguments.objects, arguments.grounds)
        judged = [_judged(segmenters["default"], each) for each in corpus.first(arguments.composites)]
        figures |= _of_composites(judged)
    Console().print(figure_table(figures))
    write_figures("product", figures)
    return exit_status(figures)


def photos_with_masks(folders: list[Path]) -> dict[str, tuple[Array, Array]]:
    """Photos at hand by name: their pixels, and the outline of the product in the first reading."""
    return {name: (pixels, np.array(Image.open(MASKS / f"{name}.png"), np.uint8)) for name, pixels in _photos(folders)}


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
    finding = segmenter.look(pixels)
    product = product_of(segmenter, pixels, finding)
    seconds = time.process_time() - began
    truths = [np.array(Image.open(path), np.uint8) for path in (MASKS / f"{name}.png", *sorted(MASKS.glob(f"{name}_*.png")))]
    iou, outline, truth = max(
        ((_iou(product.matte, each), _outline(product.matte, each), each) for each in truths), key=lambda found: found[0]
    )
    return Result(iou, outline, seconds, product.confidence or 0.0, _missing(finding, product.matte, truth), product.matte)


def product_of(segmenter: Segmenter, pixels: Array, finding: Finding) -> Product:
    """The product of ``finding``; an empty one, without confidence, where nothing is found."""
    try:
        return segmenter.product(pixels, finding)
    except SubjectNotFound:
        return Product(np.zeros(pixels.shape[:2], np.uint8), 0.0)


def _missing(finding: Finding, matte: Array, truth: Array) -> float:
    likely = cv2.resize(finding.likely, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    lost = ((likely >= SURE) & (truth == 255) & (matte <= 127)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(lost, connectivity=8)
    return float(stats[1:, cv2.CC_STAT_AREA].max(initial=0)) / max(1, int(np.count_nonzero(truth == 255)))


def _judged(segmenter: Segmenter, composite: Composite) -> Judged:
    product = product_of(segmenter, composite.pixels, segmenter.look(composite.pixels))
    return Judged(agreement_with(product.matte, composite.truth), product.confidence or 0.0, composite.held_out)


def agreement_with(matte: Array, truth: Array) -> float:
    """Intersection over union of a matte and a true one, both ``uint8 (H, W)``; 3 pixels in 1000 on both sides of the outline do not count."""
    thing = np.where(truth > 127, 255, 0).astype(np.uint8)
    reach = 2 * max(1, round(3 * max(truth.shape) / 1000)) + 1
    band = cv2.morphologyEx(thing, cv2.MORPH_GRADIENT, np.ones((reach, reach), np.uint8)) > 0
    return _iou(matte, np.where(band, COUNTS_NOT, thing).astype(np.uint8))


def _of_composites(judged: list[Judged]) -> dict[str, dict[str, object]]:
    table = Table("composites", f"IoU below {WRONG}", "flagged", f"IoU above {RIGHT}", "flagged", title="Confidence")
    for name, half in (("fitted to", False), ("held out", True)):
        wrong, right = _wrong_and_right(each for each in judged if each.held_out == half)
        table.add_row(name, str(len(wrong)), f"{_flagged(wrong):.0%}", str(len(right)), f"{_flagged(right):.1%}")
    Console().print(table)
    wrong, right = _wrong_and_right(each for each in judged if each.held_out)
    return {
        "composites_wrong_flagged_share": at_least(_flagged(wrong), 0.9),
        "composites_right_flagged_share": figure(_flagged(right), 0.1),
    }


def _wrong_and_right(results: Iterable[Judged] | Iterable[Result]) -> tuple[list[float], list[float]]:
    """The confidences of what is wrong, and of what is right."""
    found = [(each.iou, each.confidence) for each in results]
    return [confidence for iou, confidence in found if iou < WRONG], [confidence for iou, confidence in found if iou > RIGHT]


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
    table = Table("photo", "before", *(f"{name}: IoU, outline, confidence, missing, s" for name in found))
    for photo in next(iter(found.values())):
        cells = (results[photo] for results in found.values())
        row = (f"{each.iou:.3f} {each.outline:.2f} {each.confidence:.2f} {each.missing:.3f} {each.seconds:.1f}" for each in cells)
        table.add_row(photo, f"{BEFORE.get(photo, float('nan')):.3f}", *row)
    Console().print(table)


def _figures(found: Mapping[str, Mapping[str, Result]]) -> dict[str, dict[str, object]]:
    default = found["default"]
    known = [name for name in default if name in BEFORE]
    before = statistics.mean(1 - BEFORE[name] for name in known)
    wrong, right = _wrong_and_right(default.values())
    figures = {
        "error_against_before": figure(statistics.mean(1 - default[name].iou for name in known) / before, LIMIT),
        "wrong_flagged_share": at_least(_flagged(wrong), 0.9),
        "right_flagged_share": figure(_flagged(right), 0.1),
        "largest_missing_sure_part": figure(max(each.missing for each in default.values()), 0.005),
        "seconds_one_look": figure(statistics.median(each.seconds for each in found["one look"].values()), 0.4),
        "seconds_default": figure(statistics.median(each.seconds for each in default.values()), 1.6),
    }
    for name in found.keys() - {"one look", "default"}:
        figures[f"{name}_above_0.9_share"] = at_least(statistics.mean(each.iou > 0.9 for each in found[name].values()), 28 / 30)
    return figures


def _flagged(confidences: list[float]) -> float:
    limit = Settings().quality.confidence_warn
    return statistics.mean(each < limit for each in confidences) if confidences else 0.0


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
