"""Statistics of labels: how much of the images each structure fills, and in how many pieces.

Shapes: N images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyfree_ray.cohorts.label_sets import Labels, foreground, mask_of
from hyfree_ray.evaluation.image_statistics import component_sizes

LEAST_SHARE = 1e-4
"""Share of an image below which one is as good as another: a pixel or less of 64 x 64, or so."""


@dataclass(frozen=True, kw_only=True)
class LabelStatistics:
    """How one structure is labelled in a set of images."""

    share: float
    """Share of all pixels."""
    presence: float
    """Share of the images that have it."""
    components: float
    """Connected components, the mean over the images that have it; 0 where none has."""
    size: float
    """Share of an image that a component fills, the median over all components; 0 without any."""


def label_statistics(
    labels_NHW: npt.NDArray[np.uint8], labels: Labels
) -> dict[str, LabelStatistics]:
    """Measure each label or region of `dataset.json`'s labels in a set of label maps."""
    return {
        name: _measured(mask_of(labels_NHW, classes))
        for name, classes in foreground(labels).items()
    }


def _measured(mask_NHW: npt.NDArray[np.bool_]) -> LabelStatistics:
    sizes = component_sizes(mask_NHW)
    counts = [len(of_image) for of_image in sizes if of_image]
    pixels = [size for of_image in sizes for size in of_image]
    return LabelStatistics(
        share=float(mask_NHW.mean()),
        presence=len(counts) / len(mask_NHW),
        components=float(np.mean(counts)) if counts else 0.0,
        size=float(np.median(pixels)) / mask_NHW[0].size if pixels else 0.0,
    )


def label_distances(
    one: Mapping[str, LabelStatistics], other: Mapping[str, LabelStatistics]
) -> dict[str, float]:
    """Compare two sets by each statistic, the mean over the structures.

    Shares, components and sizes by the logarithm of their ratio, since a lesion of a third of its
    size is as wrong as one of three times its size; presence by the difference.
    """
    pairs = [(one[name], other[name]) for name in one]
    return {
        "label share": _mean(_log_ratio(a.share, b.share, LEAST_SHARE) for a, b in pairs),
        "label presence": _mean(abs(a.presence - b.presence) for a, b in pairs),
        "label components": _mean(_log_ratio(a.components, b.components, 0.5) for a, b in pairs),
        "label size": _mean(_log_ratio(a.size, b.size, LEAST_SHARE) for a, b in pairs),
    }


def _mean(values: object) -> float:
    return float(np.mean(list(values)))  # type: ignore[call-overload]


def _log_ratio(one: float, other: float, least: float) -> float:
    return float(abs(np.log((one + least) / (other + least))))
