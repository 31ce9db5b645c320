"""Learning curves of a run's trainings, as they lie in its folder's `curves.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import write_json

CURVES = "curves.json"
MAX_POINTS = 60
"""Of one training that are kept: a figure has no room for more."""

_NO_METRICS = frozenset({"step", "total", "time"})


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """How one training went."""

    owner: str
    purpose: str
    """The regime that it was for, or `regimes.RELEASE`."""
    metric: str
    points: tuple[tuple[float, float], ...]
    """(share of the training's steps, value), in order."""


def learning_curve(
    owner: str, purpose: str, curve: Sequence[Mapping[str, Any]]
) -> LearningCurve | None:
    """Return the last metric that a training reports, which is the one it is judged by.

    Args:
        owner: who trained.
        purpose: what for.
        curve: points with `step`, `total`, `time` and metrics; None is returned of fewer than two.
    """
    names = [name for point in curve[:1] for name in point if name not in _NO_METRICS]
    if not names or len(curve) < 2:
        return None
    every = -(-len(curve) // MAX_POINTS)
    kept = [*curve[:-1:every], curve[-1]]
    points = tuple(
        (float(point["step"]) / float(point["total"]), float(point[names[-1]]))
        for point in kept
        if names[-1] in point and point["total"]
    )
    return LearningCurve(owner=owner, purpose=purpose, metric=names[-1], points=points)


def write_curves(folder: Path, curves: Iterable[LearningCurve]) -> None:
    """Write `curves.json` whole or not at all."""
    write_json(folder / CURVES, [vars(one) for one in curves])


def read_curves(folder: Path) -> tuple[LearningCurve, ...]:
    """Read what `write_curves` wrote; nothing where an earlier version wrote the run.

    Raises:
        HyfreeError: one that is not ours.
    """
    path = folder / CURVES
    if not path.exists():
        return ()
    try:
        return tuple(
            LearningCurve(
                owner=str(one["owner"]),
                purpose=str(one["purpose"]),
                metric=str(one["metric"]),
                points=tuple((float(at), float(value)) for at, value in one["points"]),
            )
            for one in json.loads(path.read_text())
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HyfreeError("run.damaged", f"{path}: cannot be read as curves ({error})") from error
