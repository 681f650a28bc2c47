"""``scripts/composites.py`` and ``scripts/fit_confidence.py``: composites whose truth is true, and a fit that learns of one half alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scripts.composites import Composite, Corpus
from scripts.fit_confidence import DOUBTED, fitted

RED, GREEN = (230, 20, 30), (40, 130, 60)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Red rings on green photos, and red discs in a folder; grounds are green as well."""
    photos = {}
    for name in ("a", "b"):
        pixels, mask = np.full((600, 800, 3), GREEN, np.uint8), np.zeros((600, 800), np.uint8)
        cv2.circle(pixels, (650, 300), 90, RED, 40)
        cv2.circle(mask, (650, 300), 90, 255, 40)
        photos[name] = pixels, mask
    for name in ("objects", "grounds"):
        (tmp_path / name).mkdir()
    for number in range(4):
        disc = np.zeros((128, 128, 4), np.uint8)
        cv2.circle(disc, (64, 64), 50, (*RED, 255), -1)
        Image.fromarray(disc).save(tmp_path / f"objects/{number}.png")
        Image.fromarray(np.full((500, 700, 3), GREEN, np.uint8)).save(tmp_path / f"grounds/{number}.png")
    return Corpus(photos, tmp_path / "objects", tmp_path / "grounds")


def test_a_thing_is_where_its_mask_says(corpus: Corpus) -> None:
    """Each composite is red where its truth is 255 and green where it is 0, holes too."""
    for composite in corpus.first(12):
        red = composite.pixels[..., 0].astype(int) - composite.pixels[..., 1]
        solid, clear = (cv2.erode((composite.truth == value).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0 for value in (255, 0))
        assert solid.any()
        assert red[solid].min() > 60
        assert red[clear].max() < 0


def test_what_is_held_out_shares_nothing_with_the_rest(corpus: Corpus) -> None:
    """The halves have no thing and no ground in common, and each composite is the same every time."""
    first = list(corpus.first(40))
    assert [composite.held_out for composite in first[:4]] == [False, True, False, True]
    learnt, held_out = ({part for each in first if each.held_out == half for part in _parts(each)} for half in (False, True))
    assert learnt.isdisjoint(held_out)
    np.testing.assert_array_equal(first[7].pixels, list(corpus.first(8))[7].pixels)


def _parts(composite: Composite) -> tuple[str, str]:
    _, thing, ground = composite.name.split("-")
    return f"thing {thing}", f"ground {ground}"


def test_a_fit_doubts_what_the_evidence_is_against() -> None:
    """Of products that are lost where the evidence is high nearly all are doubted, and of the right ones the wanted share."""
    random = np.random.default_rng(0)
    lost = np.arange(400) < 80
    rows = random.normal(0, 1, (400, 4))
    rows[lost, 0] += 5
    none, weights = fitted(rows, np.where(lost, 0.3, 0.99))
    doubted = none + rows @ weights > 0
    assert doubted[lost].mean() > 0.95
    assert doubted[~lost].mean() == pytest.approx(DOUBTED, abs=0.01)
    assert weights[0] == weights.max()
