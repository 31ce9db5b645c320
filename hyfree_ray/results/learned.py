"""Whether the general model was trained long enough to find every structure.

Rare structures are learned last: on the brain phantom the general model found none of two in 750
batches and both in 3,000, on the same images (docs/RESULTS.md). Scores of a model that was stopped
before that say nothing of the images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean

from hyfree_ray.evaluation.regimes import CONTROL, GENERAL
from hyfree_ray.evaluation.scores import PRIMARY, ScoreRow

FOUND = 0.02
"""Mean Dice below which a structure was not learned."""
LEARNABLE = 0.2
"""Mean Dice at home that some hospital's own network reaches where it can be."""


def unlearned(rows: Iterable[ScoreRow]) -> tuple[str, ...]:
    """Return the structures that the general model finds nowhere and some hospital's network does.

    Args:
        rows: of one run.
    """
    general: dict[str, list[float]] = defaultdict(list)
    own: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row.metric != PRIMARY:
            continue
        if row.regime == GENERAL:
            general[row.label].append(row.value)
        elif row.regime == CONTROL and row.train_site == row.test_site:
            own[row.label, row.test_site].append(row.value)
    learnable = {label for (label, _), dice in own.items() if fmean(dice) >= LEARNABLE}
    return tuple(
        label
        for label, dice in sorted(general.items())
        if label in learnable and fmean(dice) < FOUND
    )


def describe_unlearned(labels: Iterable[str], epochs: int) -> str:
    """Say what was not learned and what to do; empty where everything was.

    Args:
        labels: see `unlearned`.
        epochs: of the general training.
    """
    names = " and ".join(labels)
    if not names:
        return ""
    return (
        f"the general model was trained too short: it finds {names} nowhere, where hospitals' own "
        "networks do, and what is fine-tuned from it starts from there; train all networks longer: "
        f"--set budget.unet.epochs={4 * epochs}"
    )
