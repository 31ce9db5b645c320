"""Comparison of the places that two images of a case state: origin and directions of their axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

TURNED = 0.1
"""Difference of direction cosines from which axes run otherwise; below it headers are rounded."""

_DEFAULTS = ((1.0, 1.0, 1.0), (-1.0, -1.0, 1.0))
"""Directions that libraries write where they are given none: ITK's, and nibabel's in ITK's axes."""


def is_turned(place: Sequence[float], image: Sequence[float]) -> bool:
    """Return whether a volume is mirrored or turned against the image that it belongs to.

    One that states nothing (the directions that libraries write by default, from an origin of 0)
    is not.

    Args:
        place: its origin and directions, as in `FileFacts.place`.
        image: those of the image.
    """
    if len(place) != len(image) or _states_nothing(place):
        return False
    axes = _axes_of(place)
    pairs = zip(place[axes:], image[axes:], strict=True)
    return any(abs(a - b) > TURNED for a, b in pairs)


def _axes_of(place: Sequence[float]) -> int:
    """Return the number of axes: a place has so many numbers, and their square."""
    return (math.isqrt(1 + 4 * len(place)) - 1) // 2


def _states_nothing(place: Sequence[float]) -> bool:
    axes = _axes_of(place)
    along = place[axes :: axes + 1]
    return not any(place[:axes]) and any(
        all(abs(cosine - given) < 1e-6 for cosine, given in zip(along, default, strict=False))
        for default in _DEFAULTS
    )
