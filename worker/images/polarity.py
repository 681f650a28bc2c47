"""Whether a product's mask is upside down: white where the product is not.

A mask of the background given for one of the product (or the other way round) is the most common mistake with masks, and its result is a picture without
its product. Nothing in the mask itself tells: only a look at the picture does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from api_schemas.errors import SubjectNotFound
from worker.images.codec import Frame
from worker.images.mask import iou
from worker.images.subject import Segmenter, subject_of
from worker.images.transparency import visible

_AGREES = 0.6
"""Intersection over union with what is found from which the inverse of a mask agrees with it."""
_DISAGREES = 0.25
"""The same up to which the mask itself does not."""
_AROUND = 1 / 3
"""Share of the picture's border that an inverted mask takes more of: products stand amid their pictures, backgrounds around them."""


def looks_inverted(mask: npt.NDArray[np.uint8], frame: Frame, segmenter: Segmenter) -> bool:
    """Whether ``mask (H, W)``, 255 = product, disagrees with the product that is found in ``frame`` and its inverse agrees.

    ``False`` where nothing is found, and where that cannot be told: there nothing is said of the mask.
    """
    said = visible(mask) > 0
    border = np.concatenate([said[0], said[-1], said[1:-1, 0], said[1:-1, -1]])
    if np.count_nonzero(border) <= _AROUND * border.size:  # as of most that are right, and no look is needed
        return False
    try:
        found = visible(subject_of(frame, segmenter).matte) > 0
    except SubjectNotFound:
        return False
    return bool(iou(said, found) <= _DISAGREES and iou(~said, found) >= _AGREES)
