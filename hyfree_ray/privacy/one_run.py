"""A lower bound of epsilon from the one training that there is.

Steinke, Nasr & Jagielski 2023 (arXiv 2305.08846, theorem 5.2, with delta 0): members and held-out
patients are paired, and an attack says of each pair who was trained on. A training with epsilon
cannot be guessed right more often than by coins that show the truth with probability
exp(epsilon) / (1 + exp(epsilon)). Who of a pair was trained on is a fair coin, for patients were
parted by chance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import beta

from hyfree_ray.privacy.membership import LEVEL


def epsilon_bound(score_P: np.ndarray, member_P: np.ndarray) -> dict[str, Any] | None:
    """Return how private the training cannot have been, by an attack's scores of patients.

    The attack, its direction and the pairs are fixed before anything is seen, so that nothing is
    chosen by what it would show.

    Returns:
        JSON for `privacy_card.EpsilonBound`; None where nobody is held out.
    """
    pairs = min(int(member_P.sum()), int((~member_P).sum()))
    if not pairs:
        return None
    random = np.random.default_rng(0)
    one, other = (
        random.permutation(np.flatnonzero(chosen_P))[:pairs] for chosen_P in (member_P, ~member_P)
    )
    # An equal score is no guess: it counts as a wrong one.
    right = int((score_P[one] > score_P[other]).sum())
    return {
        "pairs": pairs,
        "at_least": round(_at_least(right, pairs), 2),
        "visible": round(_at_least(pairs, pairs), 2),
    }


def _at_least(right: int, pairs: int) -> float:
    """Return the largest epsilon with which so many right guesses have a chance below `LEVEL`."""
    if not right:
        return 0.0
    share = float(beta.ppf(LEVEL, right, pairs - right + 1))  # Clopper & Pearson's lower bound
    return math.log(share / (1 - share)) if share > 0.5 else 0.0
