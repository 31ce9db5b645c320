"""How sure a mean over patients is when networks were trained more than once.

Patients and trainings are crossed, as cases and readers are in a reading study: both were drawn,
and what one training did it did to all of its patients. Each source of noise has a variance of its
own, a training's from the spread of its means over *all* sites together: sites that share a seed
are not independent. Legend: P patients of a site, C columns (trainings), L levels of a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

CONFIDENCE = 0.95
POWER = 0.8

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one source of noise does to the mean."""

    variance: float
    """Of the mean, not of single values."""
    freedom: float
    """Degrees of freedom of that estimate."""
    of_patients: float = 0.0
    """What patients have in it, where trainings were not all tested on the same ones."""

    def quantile(self, probability: float) -> float:
        """Return a quantile of Student's t with these degrees of freedom."""
        return float(stdtrit(self.freedom, probability))  # as scipy.stats does, 100 times faster


@dataclass(frozen=True, kw_only=True)
class Noise:
    """All that makes a mean unsure."""

    patients: Source
    trainings: tuple[Source, ...]
    """By factor, e.g. seeds; those of which there are two levels or more."""

    def reach(self, probability: float) -> float:
        """Return how far to a side of the mean its quantile lies.

        Student's t averaged by what each source has in the variance: Cochran's solution of the
        Behrens-Fisher problem (Biometrics 20, 1964), which errs to the wide side. Satterthwaite's
        degrees of freedom were tried: with two and three seeds they hold the truth too rarely,
        for where seeds agree by chance their spread is taken for small and well known.
        """
        counted = sum(one.of_patients for one in self.trainings)
        left = replace(self.patients, variance=max(0.0, self.patients.variance - counted))
        sources = (left, *self.trainings)
        variance = sum(one.variance for one in sources)
        alone = self.patients.quantile(probability) * math.sqrt(self.patients.variance)
        if variance == 0.0:
            return alone
        weighed = sum(one.quantile(probability) * one.variance for one in sources) / variance
        return max(alone, weighed * math.sqrt(variance))

    def shows(self, difference: float) -> bool:
        """Return whether so large a difference would be seen, `POWER` of the time."""
        return self.reach((1 + CONFIDENCE) / 2) + self.reach(POWER) <= abs(difference)

    def with_patients(self, times: float) -> Noise:
        """Return the noise of the same trainings on `times` as many patients."""
        patients = replace(
            self.patients,
            variance=self.patients.variance / times,
            freedom=self.patients.freedom * times,
        )
        trainings = tuple(
            Source(
                variance=max(0.0, one.variance - one.of_patients) + one.of_patients / times,
                freedom=one.freedom,
                of_patients=one.of_patients / times,
            )
            for one in self.trainings
        )
        return Noise(patients=patients, trainings=trainings)

    def with_levels(self, number: int) -> Noise:
        """Return the noise of as many levels of the first factor, on the same patients.

        Where each level has patients of its own it then has fewer of them: what these do to the
        mean stays as it is.
        """
        first, *others = self.trainings
        times = number / (first.freedom + 1)
        of_trainings = max(0.0, first.variance - first.of_patients)
        more = replace(first, variance=of_trainings / times + first.of_patients, freedom=number - 1)
        return replace(self, trainings=(more, *others))


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
        trainings=tuple(
            _of_factor(strata, spreads, labels_C)
            for labels_C in labels
            if len(np.unique(labels_C)) > 1
        ),
    )


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
