"""Ranks of methods over data sets, and which of them differ (Demsar 2006, JMLR 7:1-30).

Data sets are the unit: each must be of patients of its own. K methods, N data sets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ALPHA = 0.05
"""Of Nemenyi's test, over all pairs of methods together."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Mean ranks of methods, 1 the best, and the tests on them."""

    methods: tuple[str, ...]
    """Best first."""
    means: tuple[float, ...]
    """Mean ranks, in their order."""
    data_sets: int
    chi2: float
    """Friedman's statistic, of K - 1 degrees of freedom."""
    chi2_p: float
    f: float
    """Iman and Davenport's statistic, of K - 1 and (K - 1)(N - 1): Friedman's is conservative."""
    f_p: float
    critical_difference: float
    """Nemenyi's: mean ranks that are at least so far apart differ at `ALPHA`."""

    def cliques(self) -> list[tuple[int, int]]:
        """Return the widest runs of methods that the test does not tell apart, by first and last
        place in `methods`; two or more each."""
        last = [
            max(k for k, mean in enumerate(self.means) if mean - first < self.critical_difference)
            for first in self.means
        ]
        return [
            (first, end)
            for first, end in enumerate(last)
            if end > first and (first == 0 or end > last[first - 1])
        ]

    def to_json(self) -> dict[str, Any]:
        """Describe them as plain JSON values."""
        return {
            "mean_ranks": dict(zip(self.methods, self.means, strict=True)),
            "data_sets": self.data_sets,
            "friedman": {"chi2": self.chi2, "p": self.chi2_p},
            "iman_davenport": {"f": _finite(self.f), "p": self.f_p},
            "critical_difference": self.critical_difference,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def rank_methods(scores: Mapping[str, Sequence[float]]) -> Ranks:
    """Rank methods on each data set by their scores, the highest first; ties share their ranks.

    Friedman's statistic is as Demsar writes it, without a correction for ties.

    Args:
        scores: by method, one number a data set, of the same data sets in the same order.

    Raises:
        ValueError: fewer than two methods or data sets.
    """
    from scipy.stats import chi2, rankdata
    from scipy.stats import f as f_distribution

    scores_KN = np.array([list(of_method) for of_method in scores.values()], float)
    if scores_KN.ndim != 2 or min(scores_KN.shape) < 2:
        raise ValueError("ranks need two methods and two data sets")
    methods, data_sets = scores_KN.shape
    ranks_KN: npt.NDArray[np.float64] = rankdata(-scores_KN, axis=0)
    means_K = ranks_KN.mean(axis=1)
    spread = float((means_K**2).sum()) - methods * (methods + 1) ** 2 / 4
    statistic = 12 * data_sets / (methods * (methods + 1)) * spread
    rest = data_sets * (methods - 1) - statistic
    f = (data_sets - 1) * statistic / rest if rest > 1e-9 else math.inf
    freedom = methods - 1
    order_K = np.argsort(means_K, kind="stable")
    names = list(scores)
    return Ranks(
        methods=tuple(names[k] for k in order_K),
        means=tuple(float(means_K[k]) for k in order_K),
        data_sets=data_sets,
        chi2=statistic,
        chi2_p=float(chi2.sf(statistic, freedom)),
        f=f,
        f_p=float(f_distribution.sf(f, freedom, freedom * (data_sets - 1))),
        critical_difference=critical_difference(methods, data_sets),
    )


def critical_difference(methods: int, data_sets: int) -> float:
    """Return how far apart mean ranks must be to differ by Nemenyi's test.

    q sqrt(K (K + 1) / 6 N), where q is the studentized range of K means over sqrt(2).
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - ALPHA, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * data_sets))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whether two measures rank things alike."""

    tau: float
    """Kendall's: 1 where all pairs are in the same order, -1 where all are reversed."""
    p: float
    """Exact where nothing is tied, of a tau at least as far from 0 by chance."""
    count: int


def agreement(one: Sequence[float], other: Sequence[float]) -> Agreement | None:
    """Return the rank correlation of two measures of the same things; None below three of these.

    None as well where one of the measures is the same of all of them.
    """
    from scipy.stats import kendalltau

    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    found = kendalltau(one, other)
    return Agreement(tau=float(found.statistic), p=float(found.pvalue), count=len(one))


def complete(
    scores: Mapping[str, Mapping[str, float]],
) -> tuple[dict[str, list[float]], list[str], list[str]]:
    """Return the scores of all methods on those data sets where none of them is missing.

    Methods that are missing on more than half of the data sets are left out first.

    Args:
        scores: by method, then by data set.

    Returns:
        By method, a number a data set; the methods, and the data sets, that were left out.
    """
    data_sets = sorted(set(itertools.chain.from_iterable(scores.values())))
    methods = [name for name, known in scores.items() if 2 * len(known) >= len(data_sets) > 0]
    whole = [one for one in data_sets if all(one in scores[name] for name in methods)]
    return (
        {name: [scores[name][one] for one in whole] for name in methods},
        [name for name in scores if name not in methods],
        [one for one in data_sets if one not in whole],
    )
