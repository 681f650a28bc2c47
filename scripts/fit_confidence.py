"""Fits the confidence in a product to composites of known truth: ``python -m scripts.fit_confidence PHOTOS OBJECTS GROUNDS``.

``PHOTOS`` are folders parted by colons, as of ``make bench-product``; every second composite, which the bench holds out, is left out here. Prints the
constants of ``worker/images/confidence.py``. Some 20 minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from core.settings import Settings
from scripts.bench_product import RIGHT, agreement_with, photos_with_masks, product_of
from scripts.composites import Corpus
from worker.images.confidence import Evidence, evidence
from worker.images.facts import U2NETP_FACTS
from worker.images.network import Network
from worker.images.subject import Segmenter

LOST = 0.9
"""Intersection over union below which a product counts as lost here: the weights are to tell the border, too."""
DOUBTED = 0.08
"""Share of the right that is to be doubted, at a confidence below 0.5."""
RIDGE = 1.0
_Floats = npt.NDArray[np.float64]


def main() -> None:
    """Measure and fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", help="folders with photos, parted by colons")
    parser.add_argument("objects", type=Path, help="folder of pictures with an alpha channel")
    parser.add_argument("grounds", type=Path, help="folder of photos in which nothing stands out")
    parser.add_argument("--composites", type=int, default=1280)
    arguments = parser.parse_args()
    segmenter = Segmenter(Network(Settings().models.store / "u2netp.onnx", U2NETP_FACTS))
    photos = photos_with_masks([Path(folder) for folder in arguments.photos.split(":")])
    rows, right = [], []
    for composite in Corpus(photos, arguments.objects, arguments.grounds).first(arguments.composites):
        finding = None if composite.held_out else segmenter.look(composite.pixels)
        if finding is not None and finding.looks:
            rows.append(evidence(finding, U2NETP_FACTS.side))
            right.append(agreement_with(product_of(segmenter, composite.pixels, finding).matte, composite.truth))
    none, weights = fitted(np.array(rows), np.array(right))
    print(f"_NONE = {none:.2f}")
    print(f"_WEIGHTS = {Evidence(*(round(float(weight), 2) for weight in weights))}")


def fitted(rows: _Floats, iou: _Floats) -> tuple[float, _Floats]:
    """The constant and the weights ``(4,)`` of evidence ``rows (N, 4)`` of products of this ``iou (N,)``; both kinds count the same."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scaled, lost = (rows - mean) / scale, iou < LOST
    share = np.where(lost, 1.0, lost.mean() / (1 - lost.mean()))

    def loss(values: _Floats) -> tuple[float, _Floats]:
        score = values[0] + scaled @ values[1:]
        wrong = share * (expit(score) - lost)
        total = float((share * (np.logaddexp(0, score) - lost * score)).sum() + RIDGE / 2 * np.square(values[1:]).sum())
        return total, np.concatenate([[wrong.sum()], scaled.T @ wrong + RIDGE * values[1:]])

    values = minimize(loss, np.zeros(rows.shape[1] + 1), jac=True, method="BFGS").x
    weights = np.maximum(values[1:], 0) / scale
    limit = float(np.quantile((rows @ weights)[iou > RIGHT], 1 - DOUBTED))
    return -limit, weights


if __name__ == "__main__":
    main()
