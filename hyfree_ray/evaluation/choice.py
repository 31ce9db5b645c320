"""Which of its models a site keeps, by its own validation cases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import stdev

from hyfree_ray.evaluation.regimes import CONTROL, candidates
from hyfree_ray.evaluation.scores import mean_over_patients

CHOICE_VERSION = 1
"""Of the rule of `choose_regime`, which is in no key: raised when it would choose another model."""

MARGIN = 0.005
"""Dice that a model which travels better may lose to the control on a site's validation cases."""


def choose_regime(dice: Mapping[str, Mapping[int, float]]) -> str:
    """Return the candidate that should travel best, unless it is worse at home.

    Worse is by over `MARGIN`, or where a few patients cannot tell so little, by over a standard
    error of the difference (Breiman et al. 1984, Classification and Regression Trees, section
    3.4.3: the simplest within one standard error of the best).

    Args:
        dice: of each candidate, by patient of the site's own validation cases.
    """
    return next(
        regime
        for regime in candidates(dice)
        if mean_over_patients(dice[regime]) - mean_over_patients(dice[CONTROL])
        >= -non_inferiority_margin(dice[regime], dice[CONTROL])
    )


def non_inferiority_margin(dice: Mapping[int, float], control: Mapping[int, float]) -> float:
    """Return what a model may lose to the control and be no worse (see `choose_regime`).

    Args:
        dice: by patient.
        control: the control's; where less than two patients have both, there is no error to tell.
    """
    apart = [dice[patient] - control[patient] for patient in dice.keys() & control.keys()]
    error = stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
    return max(MARGIN, error)
