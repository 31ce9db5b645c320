"""The choice of slices of a volume, and the axis to cut along, from headers alone.

Axes and spacings (mm) are in the order of the array: (slices, height, width) as stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

GENERATOR_SPACING = 4.0
"""Minimum distance in mm between the slices that a generator sees."""

_ROUNDING = 1e-3
"""Headers store spacings in single precision: 0.8 mm read as 0.79999 is still five to 4 mm."""


MIN_SHORT_SIDE = 5
"""Pixels along the shorter side of a slice: nnU-Net's augmentation mirrors a margin into it."""

MIN_BOTH, MIN_LONG = 15, 23
"""Pixels along both sides, or along the longer one, from which nnU-Net's plan pools twice: its loss
gives the deepest of the outputs no weight, and with a single pooling there is no other."""

PLAN_NEEDS = (
    f"nnU-Net's plan needs {MIN_BOTH} along both sides, or {MIN_LONG} along one and"
    f" {MIN_SHORT_SIDE} along the other"
)


def can_be_planned(plane: Sequence[float]) -> bool:
    """Return whether nnU-Net can train on slices of this size, (height, width) in pixels."""
    short, long = min(plane), max(plane)
    return short >= MIN_BOTH or (long >= MIN_LONG and short >= MIN_SHORT_SIDE)


def slice_axis(spacings: Sequence[Sequence[float]]) -> int:
    """Return the axis along which nnU-Net's `2d` configuration cuts: the greatest median spacing.

    The first of several equal ones; 0 if there are only 2D images.

    Args:
        spacings: three numbers per volume.
    """
    if not spacings:
        return 0
    medians = [median(axis) for axis in zip(*spacings, strict=True)]
    return medians.index(max(medians))


def generator_slices(count: int, spacing: float) -> range:
    """Return the slices that a generator sees: all from 4 mm on, else every ceil(4 / spacing)-th.

    Neighbouring thin slices are near copies, and a generator that sees them learns to copy.

    Args:
        count: number of slices of the volume.
        spacing: mm between them.
    """
    step = max(1, math.ceil(GENERATOR_SPACING / spacing - _ROUNDING))
    return range(min(step // 2, (count - 1) // 2), count, step)
