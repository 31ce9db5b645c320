"""How sure a mean over patients is: how patients differ, how skewed they are, how trainings differ.

Patients and trainings are crossed, as cases and readers are in a reading study: both were drawn,
and what one training did it did to all of its patients. Each source of noise has a variance of its
own, a training's from the spread of its means over *all* sites together: sites that share a seed
are not independent. Legend: P patients of a site, C columns (trainings), L levels of a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import stdtrit

CONFIDENCE = 0.95

Side = Literal["below", "above"]
"""Of the mean, where the truth may lie."""

_Values = npt.NDArray[np.float64]

_TAIL = (1.0 - CONFIDENCE) / 2

_LEAST_TAIL = 1e-15
"""Smaller probabilities are not told apart."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one source of noise does to the mean."""

    variance: float
    """Of the mean, not of single values."""
    freedom: float
    """Degrees of freedom of that estimate."""
    of_patients: float = 0.0
    """What patients have in it, where trainings were not all tested on the same ones."""

    def quantile(self, tail: float) -> float:
        """Return the quantile of Student's t with this probability above it."""
        return _t_above(self.freedom, tail)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """All that makes a mean unsure."""

    patients: Source
    trainings: tuple[Source, ...] = ()
    """By factor, e.g. seeds; those of which there are two levels or more."""
    number: int
    """Patients, of all sites."""
    third: float = 0.0
    """Third central moment of the mean, from the patients: below nought, a few lost much."""

    def reach(self, tail: float, side: Side) -> float:
        """Return how far to a side of the mean the truth lies further with this probability.

        At 95 % Student's t, and to the side on which patients lie far out as far as Hall's
        transformation of t for skewed samples reaches (Journal of the Royal Statistical Society B
        54, 1992: a cubic that is inverted in closed form), where that is further;
        `_weight_of_skew` says how far skewness is trusted. Beyond 95 %, where contrasts are read
        together, that grows as Student's t of half the degrees of freedom does, for tails of
        skewed samples fall off more slowly, and both sides are as skewed as `_unseen_skew` says.
        `benchmarks/coverage.py` measures what comes of it.
        """
        scale = math.sqrt(max(sum(one.variance for one in self._sources), self.patients.variance))
        if scale == 0.0:
            return 0.0
        at_most = max(tail, _TAIL)
        quantile = self._symmetric(at_most) / scale
        skewness = _weight_of_skew(self._deciding) * self.third / scale**3
        to_side = -skewness if side == "below" else skewness
        reached = scale * _skewed(quantile, to_side + _unseen_skew(self.number, tail))
        if tail >= _TAIL:
            return reached
        half = max(1.0, self.patients.freedom / 2)
        growth = max(
            _t_above(half, tail) / _t_above(half, _TAIL),
            self._symmetric(tail) / self._symmetric(_TAIL),
        )
        return reached * growth

    def probability(self, distance: float, side: Side) -> float:
        """Return how probable it is that the truth lies further than that from the mean.

        The inverse of `reach`, so that a p-value and an interval can never disagree; with a flat
        prior the posterior probability (Christodoulou et al. 2025, arXiv 2505.04720). At most .5:
        distances are of a sentence that the mean speaks for.
        """
        if distance <= self.reach(0.5, side):
            return 0.5
        if self.reach(_LEAST_TAIL, side) <= distance:
            return _LEAST_TAIL

        def excess(log_tail: float) -> float:
            return self.reach(math.exp(log_tail), side) - distance

        found = brentq(excess, math.log(_LEAST_TAIL), math.log(0.5), xtol=1e-12)
        return math.exp(float(found))

    def probability_below(self, mean: float, bound: float) -> float:
        """Return the probability that the truth lies below a bound."""
        if bound <= mean:
            return self.probability(mean - bound, "below")
        return 1.0 - self.probability(bound - mean, "above")

    @property
    def _deciding(self) -> float:
        """Return the patients that decide: where sites are uneven, those of the small ones do, for
        sites have equal weights. No fewer than have an interval at one site."""
        return max(7.0, self.patients.freedom + 1)

    @cached_property
    def _sources(self) -> tuple[Source, ...]:
        """Patients without what they have in trainings already, and trainings."""
        counted = sum(one.of_patients for one in self.trainings)
        left = replace(self.patients, variance=max(0.0, self.patients.variance - counted))
        return tuple(one for one in (left, *self.trainings) if one.variance > 0.0)

    def _symmetric(self, tail: float) -> float:
        """Return what Student's t reaches, without skewness.

        Of several sources between two solutions of the Behrens-Fisher problem, by what trainings
        have in the variance, tried on drawn numbers: Cochran's (Biometrics 20, 1964), the mean of
        the sources' quantiles by what each has in the variance, holds the truth too often where
        patients decide (up to 99 %), and Satterthwaite's degrees of freedom too rarely where
        trainings do (down to 92 %), for where few seeds agree by chance their spread is taken for
        small and well known.
        """
        alone = self.patients.quantile(tail) * math.sqrt(self.patients.variance)
        sources = self._sources
        variance = sum(one.variance for one in sources)
        if not self.trainings or variance == 0.0:
            return alone
        cochran = sum(one.quantile(tail) * one.variance for one in sources) / variance
        freedom = variance**2 / sum(one.variance**2 / one.freedom for one in sources)
        of_trainings = sum(one.variance for one in self.trainings) / variance
        satterthwaite = _t_above(freedom, tail)
        quantile = satterthwaite + of_trainings * (cochran - satterthwaite)
        return max(alone, quantile * math.sqrt(variance))


def _t_above(freedom: float, tail: float) -> float:
    return -float(stdtrit(freedom, tail))  # as scipy.stats does, 100 times faster


def _weight_of_skew(patients: float) -> float:
    """Return by how much a sample's skewness is raised before it is believed.

    Few patients show less skewness than they were drawn with, and none at all where the few that
    lose much are missing. The numbers are fitted to drawn ones (normal, exponential, lognormal
    with a sigma of 1): so raised, 7 to 200 patients hold the truth in 93 to 98 %.
    """
    return 1.0 + 4.2 / math.sqrt(patients) + (10.0 / patients) ** 6


def _unseen_skew(patients: int, tail: float) -> float:
    """Return how skewed the mean may be to a side although the sample does not show it.

    Of many contrasts some show a gain because by chance none of the few who lose much is among
    their patients, and then the sample does not look skewed either. The numbers are fitted so that
    of 20 contrasts of lognormal differences (sigma 1) without any effect at most 5 % of runs have
    one that leaves out nought, at 7 to 200 patients; with 7 next to nothing is left to be said.
    """
    further = max(0.0, math.log(_TAIL / tail) - 0.5)
    return 0.32 * further * (1.0 + (10.0 / patients) ** 5) / math.sqrt(patients)


def _skewed(quantile: float, skewness: float) -> float:
    """Return how far, in standard errors, an interval reaches to a side.

    Args:
        quantile: Student's.
        skewness: of the mean, to that side. From about 1 / quantile on a larger one would shorten
            what Hall's cubic reaches; it is held where that reaches furthest.
    """
    if skewness <= 0.0 or quantile <= 0.0:
        return quantile
    bent = min(skewness, 1.1 / quantile)
    if bent < 1e-6:
        return quantile
    reached = 3.0 / bent * (1.0 - float(np.cbrt(1.0 - bent * quantile - bent**2 / 6.0)))
    return max(quantile, reached)


def noise_of(strata: Sequence[_Values], factors: Sequence[Sequence[int]]) -> Noise:
    """Find where the noise of the unweighted mean of the strata's means comes from.

    Args:
        strata: for every site (P, C), two patients or more; NaN where a patient lacks a training,
            none lacks all.
        factors: for each source of training noise a label a column: equal labels, same level.
    """
    spreads = [float(np.var(_means(values_PC), ddof=1)) for values_PC in strata]
    parts = [
        (spread / len(values_PC) / len(strata) ** 2, len(values_PC) - 1)
        for spread, values_PC in zip(spreads, strata, strict=True)
    ]
    variance = sum(part for part, _ in parts)
    squares = sum(part**2 / freedom for part, freedom in parts)
    # Strata of unlike spread: Satterthwaite 1946.
    freedom = variance**2 / squares if squares > 0 else sum(freedom for _, freedom in parts)
    seen_C = np.any([np.isfinite(values_PC).any(axis=0) for values_PC in strata], axis=0)
    strata = [values_PC[:, seen_C] for values_PC in strata]
    labels = [np.asarray(factor)[seen_C] for factor in factors]
    return Noise(
        patients=Source(variance=variance, freedom=freedom),
        number=sum(map(len, strata)),
        third=sum(_third_moment(_means(values_PC)) for values_PC in strata) / len(strata) ** 3,
        trainings=tuple(
            _of_factor(strata, spreads, labels_C)
            for labels_C in labels
            if len(np.unique(labels_C)) > 1
        ),
    )


def _third_moment(means_P: _Values) -> float:
    """Return that of a site's mean."""
    count = len(means_P)
    moment = float(np.mean((means_P - means_P.mean()) ** 3))
    return moment * math.pow(count / (count - 1), 1.5) / count**2


def _of_factor(
    strata: Sequence[_Values], spreads: Sequence[float], labels_C: npt.NDArray[np.int64]
) -> Source:
    """Estimate from the means of the levels, each over all sites that have it."""
    member_CL = (labels_C[:, None] == np.unique(labels_C)).astype(float)
    levels = member_CL.shape[1]
    counts = [np.isfinite(values_PC) @ member_CL for values_PC in strata]
    sites_L = np.sum([(count_PL > 0).any(axis=0) for count_PL in counts], axis=0)
    mean_L, share_L, of_patients = np.zeros(levels), np.zeros(levels), 0.0
    for values_PC, count_PL, spread in zip(strata, counts, spreads, strict=True):
        known_PC = np.isfinite(values_PC)
        moved_PC = np.where(known_PC, values_PC - _means(values_PC).mean(), 0.0)
        moved_PL = (moved_PC @ member_CL) / np.maximum(count_PL, 1)
        has_PL = (count_PL > 0).astype(float)
        weight_PL = has_PL / np.maximum(has_PL.sum(axis=0), 1) / sites_L
        mean_L += (weight_PL * moved_PL).sum(axis=0)
        share_PL = count_PL / count_PL.sum(axis=1, keepdims=True)
        share_L += share_PL.mean(axis=0) / len(strata)
        # Levels on other patients differ by these too; on the same ones this is nought.
        apart_PL = weight_PL - weight_PL.mean(axis=1, keepdims=True)
        of_patients += spread * float((apart_PL**2).sum()) / (levels - 1)
    in_the_mean = float((share_L**2).sum())
    return Source(
        variance=float(mean_L.var(ddof=1)) * in_the_mean,
        freedom=levels - 1,
        of_patients=of_patients * in_the_mean,
    )


def _means(values_PC: _Values) -> _Values:
    """Average each patient over the trainings that it has."""
    means_P: _Values = np.nanmean(values_PC, axis=1)
    return means_P
