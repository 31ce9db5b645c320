"""Which of its models a site keeps, by its own validation cases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hyfree_ray.evaluation.regimes import CONTROL, candidates
from hyfree_ray.evaluation.uncertainty import noise_of

CHOICE_VERSION = 2
"""Of the rule of `choose_regime`, which is in no key: raised when it would choose another model."""

MARGIN = 0.02
"""Non-inferiority margin, Dice: a model that loses no more than this to the control at home may be
kept instead, for it travels better. It is the same however many patients there are."""

MAX_PROBABILITY = 0.05
"""That a model which is kept loses more than `MARGIN`."""

MIN_PATIENTS = 7
"""Validation patients with fewer of which the control is kept: nothing can be said of a loss."""


def choose_regime(dice: Mapping[str, Mapping[int, float]]) -> str:
    """Return the candidate that should travel best and was shown not to be inferior at home.

    A test of non-inferiority: what is not shown is not assumed, so that with few patients the
    control is kept, which is the hospital's own model.

    Args:
        dice: of each candidate, by patient of the site's own validation cases.
    """
    return next(
        regime
        for regime in candidates(dice)
        if regime == CONTROL or _is_not_inferior(dice[regime], dice[CONTROL])
    )


def _is_not_inferior(dice: Mapping[int, float], control: Mapping[int, float]) -> bool:
    probability = loss_probability(dice, control)
    return probability is not None and probability <= MAX_PROBABILITY


def loss_probability(dice: Mapping[int, float], control: Mapping[int, float]) -> float | None:
    """Return the probability that a model loses more than `MARGIN` to the control.

    Args:
        dice: by patient.
        control: the control's.

    Returns:
        None with fewer than `MIN_PATIENTS` patients that have both.
    """
    apart_P = np.array(
        [dice[patient] - control[patient] for patient in sorted(dice.keys() & control.keys())]
    )
    if len(apart_P) < MIN_PATIENTS:
        return None
    noise = noise_of([apart_P[:, None]], [[0]])
    return noise.probability_below(float(apart_P.mean()), -MARGIN)
