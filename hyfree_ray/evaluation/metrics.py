"""How well a predicted label map fits the reference: each case and label alone.

Dice, HD95, surface Dice at a tolerance (NSD), and volume error: the difference of the volumes over
their mean.

Every mask falls into one of four outcomes, and each has a stated value, so that no case is lost:

- `scored`: in both. All four measured.
- `both-empty`: in neither. None is; counted.
- `missed`: only in the reference. Dice and NSD 0, HD95 = the diagonal, volume error 2; counted.
- `false-alarm`: only in the prediction. As missed; counted.

A metric that leaves out the missed cases, as HD95 commonly does, looks best for the model that
misses most.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice

from hyfree_ray.cohorts.label_sets import IGNORE, Labels, foreground, mask_of
from hyfree_ray.evaluation.scores import NSD_TOLERANCE_MM

Outcome = Literal["scored", "both-empty", "missed", "false-alarm"]
OUTCOMES: tuple[Outcome, ...] = ("scored", "both-empty", "missed", "false-alarm")

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """One label of one case."""

    label: str
    dice: float | None
    hd95: float | None
    """mm."""
    nsd: float | None
    """At `NSD_TOLERANCE_MM`."""
    volume_error: float | None
    """0 where the volumes are equal, 2 where one of them is nothing."""
    outcome: Outcome


def score_case(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    labels: Labels,
    spacing: Sequence[float],
) -> list[LabelScore]:
    """Score every label of one case on the reference's grid.

    Args:
        prediction: label values, of any number of axes.
        reference: label values, of the same shape.
        labels: names to classes or regions; `background` is left out, and where the reference
            has `ignore` nothing is scored.
        spacing: mm between the elements, one an axis.

    Axes of length 1 are left out: an image handed in as (1, H, W) is an image, not a volume of
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
    diagonal = math.hypot(*(n * mm for n, mm in zip(reference.shape, steps, strict=True)))
    return [
        _score_label(
            name,
            mask_of(prediction, classes) & annotated,
            mask_of(reference, classes),
            steps,
            diagonal,
        )
        for name, classes in foreground(labels).items()
    ]


def _score_label(
    name: str, found: _Mask, true: _Mask, spacing: Sequence[float], diagonal: float
) -> LabelScore:
    if not true.any() and not found.any():
        return LabelScore(
            label=name, dice=None, hd95=None, nsd=None, volume_error=None, outcome="both-empty"
        )
    if not true.any() or not found.any():
        return LabelScore(
            label=name,
            dice=0.0,
            hd95=diagonal,
            nsd=0.0,
            volume_error=volume_error(found, true),
            outcome="missed" if true.any() else "false-alarm",
        )
    return LabelScore(
        label=name,
        dice=dice(found, true),
        hd95=hd95(found, true, spacing),
        nsd=nsd(found, true, spacing),
        volume_error=volume_error(found, true),
        outcome="scored",
    )


def dice(found: _Mask, true: _Mask) -> float:
    """2 |A and B| / (|A| + |B|), as nnU-Net's evaluator; neither may be empty."""
    return 2.0 * int(np.count_nonzero(found & true)) / int(found.sum() + true.sum())


def volume_error(found: _Mask, true: _Mask) -> float:
    """| |A| - |B| | over the mean of |A| and |B|, from 0 to 2; one of them may be empty."""
    one, other = int(np.count_nonzero(found)), int(np.count_nonzero(true))
    return 2.0 * abs(one - other) / (one + other)


def nsd(found: _Mask, true: _Mask, spacing: Sequence[float]) -> float:
    """Share of both masks' surface elements within `NSD_TOLERANCE_MM` of the other's surface.

    MONAI's definition (Nikolov et al. 2018, elements counted); neither mask may be empty.
    """
    one, other = (torch.from_numpy(mask)[None, None] for mask in (found, true))
    with _monai_warnings():
        share = compute_surface_dice(
            one, other, [NSD_TOLERANCE_MM], include_background=True, spacing=list(spacing)
        )
    return float(share.item())


def hd95(found: _Mask, true: _Mask, spacing: Sequence[float]) -> float:
    """The 95th percentile of the distances from each mask's surface to the other's, in mm.

    Of the two directions the greater (MONAI's definition). Surface: elements with a neighbour,
    along an axis, outside of the mask or of the image. Neither mask may be empty.
    """
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
