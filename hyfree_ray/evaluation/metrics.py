"""How well a predicted label map fits the reference: each case and label alone, by each metric.

A metric is a record; the project's are Dice, HD95, surface Dice at a tolerance (NSD), and volume
error: the difference of the volumes over their mean.

Every mask falls into one of four outcomes, and each has a stated value, so that no case is lost:

- `scored`: in both. All metrics are measured.
- `both-empty`: in neither. None is; counted.
- `missed`: only in the reference. Each metric says what that counts: Dice and NSD 0, HD95 the
  diagonal, volume error 2.
- `false-alarm`: only in the prediction. As missed.

A metric that leaves out the missed cases, as HD95 commonly does, looks best for the model that
misses most.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hyfree_ray.cohorts.label_sets import IGNORE, Labels, foreground, mask_of
from hyfree_ray.core.registry import Registry
from hyfree_ray.evaluation.scores import PRIMARY

Outcome = Literal["scored", "both-empty", "missed", "false-alarm"]
OUTCOMES: tuple[Outcome, ...] = ("scored", "both-empty", "missed", "false-alarm")

Mask = npt.NDArray[np.bool_]
Measure = Callable[[Mask, Mask, Sequence[float]], float]
"""A number from the predicted mask, the reference's, and the spacing in mm, one an axis."""

NSD_TOLERANCE_MM = 2.0
"""Surfaces that are no further apart agree."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """All that files, tables and figures have to know of a metric."""

    name: str
    """In files: the column `metric` of `results.csv`."""
    label: str
    """Over a column of a table."""
    description: str
    """What is measured, with its unit, for captions."""
    unit: str = ""
    """"mm"; empty for a share or a ratio."""
    better: Literal["higher", "lower"]
    measure: Measure
    """Of two masks of which neither is empty."""
    miss: Measure
    """What counts where one of the two is empty: a missed mask or a false alarm."""
    miss_counts: str
    """The same in words."""
    aggregate: Callable[[Iterable[float]], float] = fmean
    """Over a test site's patients; a patient is the mean of the cases, a case of its labels."""
    layout: bool = True
    """Whether runs that are pooled get a table of it in the paper's layout."""

    @property
    def heading(self) -> str:
        """Over a table of it alone, whose values are multiplied by `scale`."""
        name = f"{self.label} in {self.unit}" if self.unit else f"{self.label} x {self.scale:g}"
        return name if self.better == "higher" else f"{name} (lower is better)"

    @property
    def scale(self) -> float:
        """What values are multiplied by below `heading`: shares are shown in per cent."""
        return 1.0 if self.unit else 100.0

    def text(self, value: float | None) -> str:
        """Write a value as it stands in tables: .812, 14.3."""
        if value is None:
            return "-"
        return f"{value:.1f}" if self.unit else f"{value:.3f}".removeprefix("0")


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """One label of one case."""

    label: str
    outcome: Outcome
    values: Mapping[str, float | None]
    """By metric; None where nothing is measured."""


def score_case(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    labels: Labels,
    spacing: Sequence[float],
    metrics: Sequence[Metric] | None = None,
) -> list[LabelScore]:
    """Score every label of one case on the reference's grid.

    Args:
        prediction: label values, of any number of axes.
        reference: label values, of the same shape.
        labels: names to classes or regions; `background` is left out, and where the reference
            has `ignore` nothing is scored.
        spacing: mm between the elements, one an axis.
        metrics: what is measured; None: the project's own.

    Axes of length 1 are left out: an image given as (1, H, W) is an image, not a volume of
    which every pixel would be surface.

    Raises:
        ValueError: the shapes or the spacing do not fit each other.
    """
    if prediction.shape != reference.shape or len(spacing) != reference.ndim:
        raise ValueError(
            f"prediction {prediction.shape}, reference {reference.shape}, spacing {len(spacing)}"
        )
    kept = [axis for axis, length in enumerate(reference.shape) if length > 1]
    steps = [float(spacing[axis]) for axis in kept]
    prediction, reference = prediction.squeeze(), reference.squeeze()
    annotated = reference != labels[IGNORE] if IGNORE in labels else np.True_
    measured = METRICS.built_in() if metrics is None else metrics
    return [
        _score_label(
            name,
            mask_of(prediction, classes) & annotated,
            mask_of(reference, classes),
            steps,
            measured,
        )
        for name, classes in foreground(labels).items()
    ]


def _score_label(
    name: str, found: Mask, true: Mask, spacing: Sequence[float], metrics: Sequence[Metric]
) -> LabelScore:
    if not true.any() and not found.any():
        return LabelScore(
            label=name, outcome="both-empty", values=dict.fromkeys(one.name for one in metrics)
        )
    both = true.any() and found.any()
    return LabelScore(
        label=name,
        outcome="scored" if both else "missed" if true.any() else "false-alarm",
        values={
            one.name: (one.measure if both else one.miss)(found, true, spacing) for one in metrics
        },
    )


def dice(found: Mask, true: Mask, spacing: Sequence[float]) -> float:  # noqa: ARG001
    """2 |A and B| / (|A| + |B|), as nnU-Net's evaluator; neither may be empty."""
    return 2.0 * int(np.count_nonzero(found & true)) / int(found.sum() + true.sum())


def volume_error(found: Mask, true: Mask, spacing: Sequence[float]) -> float:  # noqa: ARG001
    """| |A| - |B| | over the mean of |A| and |B|, from 0 to 2; one of them may be empty."""
    one, other = int(np.count_nonzero(found)), int(np.count_nonzero(true))
    return 2.0 * abs(one - other) / (one + other)


def nsd(found: Mask, true: Mask, spacing: Sequence[float]) -> float:
    """Share of both masks' surface elements within `NSD_TOLERANCE_MM` of the other's surface.

    MONAI's definition (Nikolov et al. 2018, elements counted); neither mask may be empty.
    """
    import torch
    from monai.metrics.surface_dice import compute_surface_dice

    one, other = (torch.from_numpy(mask)[None, None] for mask in (found, true))
    with _monai_warnings():
        share = compute_surface_dice(
            one, other, [NSD_TOLERANCE_MM], include_background=True, spacing=list(spacing)
        )
    return float(share.item())


def hd95(found: Mask, true: Mask, spacing: Sequence[float]) -> float:
    """The 95th percentile of the distances from each mask's surface to the other's, in mm.

    Of the two directions the greater (MONAI's definition). Surface: elements with a neighbour,
    along an axis, outside of the mask or of the image. Neither mask may be empty.
    """
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    one, other = (torch.from_numpy(mask)[None, None] for mask in (found, true))
    with _monai_warnings():
        distance = compute_hausdorff_distance(
            one, other, include_background=True, percentile=95, spacing=list(spacing)
        )
    return float(distance.item())


@contextmanager
def _monai_warnings() -> Iterator[None]:
    """MONAI 1.5 and later warn of an argument that MONAI itself passes on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        yield


def diagonal(found: Mask, true: Mask, spacing: Sequence[float]) -> float:  # noqa: ARG001
    """The image's diagonal in mm: no distance within it is longer."""
    return math.hypot(*(n * mm for n, mm in zip(true.shape, spacing, strict=True)))


def nothing(found: Mask, true: Mask, spacing: Sequence[float]) -> float:  # noqa: ARG001
    """0: what two masks that share nothing get."""
    return 0.0


DICE = Metric(
    name=PRIMARY,
    label="Dice",
    description="Dice",
    better="higher",
    measure=dice,
    miss=nothing,
    miss_counts="0",
)
HD95 = Metric(
    name="hd95",
    label="HD95",
    description="HD95 in mm",
    unit="mm",
    better="lower",
    measure=hd95,
    miss=diagonal,
    miss_counts="the diagonal",
)
NSD = Metric(
    name="nsd",
    label="NSD",
    description=f"surface Dice at {NSD_TOLERANCE_MM:g} mm (NSD)",
    better="higher",
    measure=nsd,
    miss=nothing,
    miss_counts="0",
    layout=False,
)
VOLUME_ERROR = Metric(
    name="volume_error",
    label="volume",
    description="volume error (of the mean volume)",
    better="lower",
    measure=volume_error,
    miss=volume_error,
    miss_counts="2",
    layout=False,
)

METRICS = Registry(
    "metric",
    "hyfree_ray.metrics",
    Metric,
    {
        PRIMARY: f"{__name__}:DICE",
        "hd95": f"{__name__}:HD95",
        "nsd": f"{__name__}:NSD",
        "volume_error": f"{__name__}:VOLUME_ERROR",
    },
)


def metrics_in_order(names: Iterable[str]) -> tuple[Metric, ...]:
    """The project's metrics and the named ones beside them, each once: the order of columns."""
    own = [metric.name for metric in METRICS.built_in()]
    return tuple(METRICS[name] for name in (*own, *sorted(set(names) - set(own))))
