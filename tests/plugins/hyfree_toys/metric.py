"""A metric: the share of the reference that is found, the median over patients."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from hyfree_ray.evaluation.metrics import Mask, Metric


def recall(found: Mask, true: Mask, spacing: Sequence[float]) -> float:
    return float((found & true).sum() / true.sum())


def nothing_found(found: Mask, true: Mask, spacing: Sequence[float]) -> float:
    return 0.0


TOY_RECALL = Metric(
    name="toy_recall",
    label="toy recall",
    description="toy recall (median of patients)",
    better="higher",
    measure=recall,
    miss=nothing_found,
    miss_counts="0",
    aggregate=median,
)
