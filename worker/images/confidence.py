"""Confidence in a product that was found: how likely it is to be found whole, without anything else."""

from __future__ import annotations

import math

import numpy as np

from worker.images.looks import Finding, ambiguity

_GREY, _OPEN, _NONE = -0.40, -0.51, -1.55
"""Of a logistic regression on composites of known truth: is the intersection over union 0.9 or more? ``make bench-product`` says how well it does."""
_CUT, _ALL = 0.5, 0.8
"""Share of the frame's border up to which a product may meet it (of 34 photos one had 0.48), and from which it may as well be the ground."""
_LEAST_GREY, _LEAST_OPEN = 0.03, 0.01
"""Added before the logarithm: below that a map says no more."""


def confidence(finding: Finding, side: int) -> float:
    """Confidence, 0..1, in what ``finding`` of a network of this ``side`` found; 0 where it found nothing.

    Two measures of the joined map, which is grey where one look left something open and where looks differ: its grey, 4 p (1 - p) over p, which
    edges add to, and the share that is grey over more than an edge. Logistic in their logarithms; 0.5 parted the doubtful from the good best. Of what meets
    more than half of the frame's border nobody can say that it is whole: confidence goes to 0 with that.
    """
    likely = finding.likely
    mass = float(likely.sum())
    if not finding.looks or not mass:
        return 0.0
    grey = float((4 * likely * (1 - likely)).sum()) / mass
    score = _NONE + _GREY * math.log(grey + _LEAST_GREY) + _OPEN * math.log(ambiguity(np.asarray(likely, np.float32), side) + _LEAST_OPEN)
    found = likely > 0.5
    contact = float(np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]]).mean())
    return min(1.0, max(0.0, (_ALL - contact) / (_ALL - _CUT))) / (1 + math.exp(-score))
