"""Confidence in a product that was found: how likely it is to be found whole, without anything else."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from worker.images.looks import Finding, ambiguity

_LEAST = 0.01
"""Added to an ambiguity before its logarithm: below that a map says no more."""
_CUT, _ALL = 0.5, 0.8
"""Share of the frame's border up to which a product may meet it (of 34 photos one had 0.48), and from which it may as well be the ground."""


class Evidence(NamedTuple):
    """What speaks against a product that was found; or the weights of that, and of none."""

    joined: float
    """Logarithm of the ambiguity of the joined map, which is grey where one look left something open and where looks differ."""
    worst: float
    """The same of the most ambiguous look."""
    best: float
    """The same of the least ambiguous look."""
    beside: float
    """Root of what stands out beside it once it is painted over, in areas of its own, 1 at most."""


_NONE = 2.04
_WEIGHTS = Evidence(joined=0.65, worst=0.39, best=0.19, beside=2.24)
"""Of a logistic regression on composites of known truth (``scripts/fit_confidence.py``): is the intersection over union below 0.9?"""


def evidence(finding: Finding, side: int) -> Evidence:
    """The evidence against what ``finding`` of a network of this ``side`` found, which is something."""
    looks = [math.log(look.ambiguity + _LEAST) for look in finding.looks]
    return Evidence(
        joined=math.log(ambiguity(finding.likely, side) + _LEAST),
        worst=max(looks),
        best=min(looks),
        beside=math.sqrt(min(1.0, finding.beside or 0.0)),
    )


def confidence(finding: Finding, side: int) -> float:
    """Confidence, 0..1, in what ``finding`` of a network of this ``side`` found; 0 where it found nothing.

    Logistic in the evidence; below 0.5 are 8 in 100 of the right products of the composites that it is fitted to. Of what meets more than half of the frame's
    border nobody can say that it is whole: confidence goes to 0 with that.
    """
    if not finding.looks:
        return 0.0
    score = _NONE + sum(weight * value for weight, value in zip(_WEIGHTS, evidence(finding, side), strict=True))
    found = finding.likely > 0.5
    contact = float(np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]]).mean())
    return min(1.0, max(0.0, (_ALL - contact) / (_ALL - _CUT))) / (1 + math.exp(score))
