"""What a model can have been trained by: the names in tables, in files and on the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import stdev
from typing import Literal, get_args

from hyfree_ray.evaluation.scores import mean_over_patients

PROTOCOL = ("local", "local2x", "general", "finetuned")
"""The paper's protocol, with its control."""

CONTROL = "local2x"
"""What a site has without sharing, after as many steps."""

Setting = Literal[
    "personalised",
    "real-all",
    "syn",
    "own-syn",
    "leave-one-out",
    "mix-25",
    "mix-50",
    "mix-75",
    "mix-100",
    "fedavg",
]
SETTINGS: tuple[Setting, ...] = get_args(Setting)
"""What can be trained and scored beside the paper's protocol:

- `personalised`: fine-tuned with replay, a quarter of each batch the others' synthetic images; and
  `chosen`, what each site would keep by its validation cases;
- `real-all`: all sites' real data in one place, the ceiling;
- `syn`: the release of one site alone;
- `own-syn`: a general model from twice the site's own release only, then fine-tuned;
- `leave-one-out`: the general model without a site's release, at that site, which is foreign to it;
- `mix-P`: P % synthetic and the rest real images of all sites, as many as there are real ones;
- `fedavg`: nnU-Net by federated averaging, on real-all's plan.
"""

LEAVE_ONE_OUT = "leave-one-out"
"""Its `train_site` is the site that was left out, which is also the one that it is tested at."""
THE_OTHERS = "(the others)"
"""Whose model it is, in tables of models and test sites; no site can be called so."""

MIXES = {
    "real-all": 0.0,
    "mix-25": 0.25,
    "mix-50": 0.5,
    "mix-75": 0.75,
    "mix-100": 1.0,
}
"""Share of synthetic images in what the oracle trains one network on."""

ORACLE_SETTINGS = (*MIXES, "fedavg")
"""Settings that need the real data of all sites in one place."""

REGIMES = (*PROTOCOL, "personalised", "chosen", *SETTINGS[1:])
"""The order of columns."""

CANDIDATES = ("personalised", "finetuned", "local2x")
"""What a site chooses from, in the order in which it should travel best."""

CHOICE_VERSION = 1
"""Of the rule of `kept`, which is in no key: raised when it would keep another model."""

MAY_LOSE_AT_HOME = 0.005
"""Dice that a model which travels better may lose to `local2x` on a site's validation cases."""


def kept(dice: Mapping[str, Mapping[int, float]]) -> str:
    """What a site keeps: the model that should travel best, unless it is worse at home.

    Worse is by over `MAY_LOSE_AT_HOME`, or where a few patients cannot tell so little, by over a
    standard error of the difference (Breiman et al. 1984, Classification and Regression Trees,
    section 3.4.3: the simplest within one standard error of the best).

    Args:
        dice: of each candidate, by patient of the site's own validation cases.
    """
    return next(
        regime
        for regime in CANDIDATES
        if mean_over_patients(dice[regime]) - mean_over_patients(dice[CONTROL])
        >= -may_lose(dice[regime], dice[CONTROL])
    )


def may_lose(dice: Mapping[int, float], control: Mapping[int, float]) -> float:
    """What a model may lose to the control and be no worse: see `kept`.

    Args:
        dice: by patient.
        control: the control's; where less than two patients have both, there is no error to tell.
    """
    apart = [dice[patient] - control[patient] for patient in dice.keys() & control.keys()]
    error = stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
    return max(MAY_LOSE_AT_HOME, error)
