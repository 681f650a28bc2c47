"""Confidence in what several looks found."""

from __future__ import annotations

import numpy as np

from core.settings import Quality
from worker.images.confidence import confidence
from worker.images.looks import Finding, Look, ambiguity
from worker.images.mask import Box


def finding(*maps: np.ndarray, beside: float | None = None) -> Finding:
    """What looks at the whole with these maps found, each by the same weight."""
    whole = Box(0, 0, maps[0].shape[1], maps[0].shape[0])
    likely = [each.astype(np.float32) for each in maps]
    return Finding(
        np.mean(likely, axis=0, dtype=np.float32), tuple(Look(each, whole, ambiguity(each, 320), 1.0) for each in likely), 1.0, beside
    )


def disc(height: int = 320, width: int = 320, radius: int = 90) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    return np.asarray(np.clip((radius - np.hypot(down - height / 2, across - width / 2)) / 3 + 0.5, 0, 1))


def test_a_crisp_map_is_sure_and_a_grey_one_is_not() -> None:
    """A thing with a plain edge passes; the same with a grey half warns, the more the greyer it is."""
    crisp = disc()
    half = crisp.copy()
    half[:, :160] *= 0.6
    faint = crisp * 0.55
    values = [confidence(finding(each), 320) for each in (crisp, half, faint)]
    assert values[0] > Quality().confidence_warn + 0.2
    assert values[0] > values[1] > values[2]
    assert values[2] < Quality().confidence_warn


def test_looks_that_differ_lower_it() -> None:
    """A part that one of two looks does not see makes the joined map grey, and the confidence less."""
    one, other = disc(), disc()
    other[:, 200:] = 0
    assert confidence(finding(one, other), 320) < confidence(finding(one, one), 320) - 0.1


def test_what_stands_out_beside_it_lowers_it() -> None:
    """The same maps are worth less the more is found once the product is painted over."""
    values = [confidence(finding(disc(), disc(), beside=beside), 320) for beside in (0.0, 0.1, 0.5)]
    assert values[0] > values[1] > values[2]
    assert values[2] < values[0] - 0.05


def test_a_thing_along_most_of_the_frame_is_doubtful() -> None:
    """What is certain everywhere but covers two thirds of the frame's border is no product of which one can be sure."""
    most = np.zeros((320, 320))
    most[:, 60:] = 1
    assert confidence(finding(most), 320) < Quality().confidence_warn
    assert confidence(Finding(np.zeros((320, 320), np.float32), (), 1.0), 320) == 0
