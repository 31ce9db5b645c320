"""What a model can have been trained by: the names in tables, in files and on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

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

MAY_LOSE_AT_HOME = 0.005
"""Dice that a model which travels better may lose to `local2x` on a site's validation cases."""


def kept(dice: Mapping[str, float]) -> str:
    """What a site keeps: the model that should travel best, unless it is worse at home.

    Args:
        dice: of each candidate, on the site's own validation cases.
    """
    least = dice["local2x"] - MAY_LOSE_AT_HOME
    return next(regime for regime in CANDIDATES if dice[regime] >= least)
