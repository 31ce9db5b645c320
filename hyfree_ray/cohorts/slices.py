"""Which slices of a volume count, and along which axis: known from headers alone.

Axes and spacings (mm) are in the order of the array: (slices, height, width) as stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

GENERATOR_SPACING = 4.0
"""mm between the slices that a generator sees, at least."""

_ROUNDING = 1e-3
"""Headers keep spacings in single precision: 0.8 mm read as 0.79999 is still five to 4 mm."""


def slice_axis(spacings: Sequence[Sequence[float]]) -> int:
    """The axis along which nnU-Net's `2d` configuration cuts: that of the greatest median spacing.

    The first of several equal ones; 0 where there are only 2D images.

    Args:
        spacings: of each volume, three numbers.
    """
    if not spacings:
        return 0
    medians = [median(axis) for axis in zip(*spacings, strict=True)]
    return medians.index(max(medians))


def generator_slices(count: int, spacing: float) -> range:
    """The slices that a generator sees: all from 4 mm on, else every ceil(4 / spacing)-th.

    Neighbouring thin slices are near copies, and a generator that sees them learns to copy.

    Args:
        count: slices of the volume.
        spacing: mm between them.
    """
    step = max(1, math.ceil(GENERATOR_SPACING / spacing - _ROUNDING))
    return range(min(step // 2, (count - 1) // 2), count, step)
