"""Whether one patient has more of a release near to them than chance allows.

Means over patients do not see it when one of many is copied. A release that is a copy lies
conspicuously nearer to its patient than to any other; how often that happens by chance depends on
the dimension D of the data, for then (d1 / d2) ** D is uniform, d1 and d2 being the distances to
the nearest and the second nearest patient (Facco et al. 2017, TwoNN, equation 3). D is estimated
from the hospital's own images beside all other patients. Few patients tell little of it (P times D
over its estimate is gamma distributed), so that its lower confidence limit counts. A generator that
draws one kind of image only, near which one patient happens to live, is still beside the second
nearest as it should be.

Shapes: N synthetic images, K real images, P patients, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, gamma

from hyfree_ray.evaluation.image_quality import distances
from hyfree_ray.privacy.membership import ROWS, Check, Hospital

CONSPICUOUS = 0.01
"""Share of the releases that lie so much nearer to one patient by chance."""

UNSURE = 0.1
"""Chance that the dimension is below the limit that counts. With the estimate itself, generators
that copied nobody were stopped at both hospitals of four and five training patients of the brain
phantom; with .01, copies of one patient of nine pass."""

MIN_PATIENTS = 4
"""Patients below which no dimension can be estimated."""

_MIN_DISTANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Concentration:
    """The releases that are conspicuously near to one patient."""

    count_P: np.ndarray
    """How many there are near each patient."""
    images: int
    """Number of images in the release."""
    member_P: np.ndarray

    @property
    def share(self) -> float:
        """Share of the release near the trained-on patient who has most."""
        return float(self.count_P[self.member_P].max() / self.images)

    @property
    def p(self) -> float:
        """Probability that some trained-on patient has so many by chance (Bonferroni)."""
        members = int(self.member_P.sum())
        most = int(self.count_P[self.member_P].max())
        return float(min(1.0, members * binom.sf(most - 1, self.images, CONSPICUOUS)))


def concentration(
    sample_NF: np.ndarray, real: Hospital, *, check: Check = lambda: None
) -> Concentration | None:
    """Count the releases that lie conspicuously nearer to one patient than to all others.

    Args:
        sample_NF: features of the released images, of length 1.
        real: the hospital's patients, trained on or held out.
        check: called between steps; an exception from it ends the count.

    Returns:
        None with too few patients to say what is conspicuous.
    """
    if len(real.patients_P) < MIN_PATIENTS:
        return None
    weight_K = 1 / np.bincount(real.index_K)[real.index_K]
    _, log_ratio_K = _nearest(real.features_KF, real, check, own=real.index_K)
    shortfall = max(-(weight_K * log_ratio_K).sum(), _MIN_DISTANCE)
    dimension = gamma.ppf(UNSURE, len(real.patients_P)) / shortfall
    nearest_N, log_ratio_N = _nearest(sample_NF, real, check)
    conspicuous_N = log_ratio_N < np.log(CONSPICUOUS) / dimension
    count_P = np.bincount(nearest_N[conspicuous_N], minlength=len(real.patients_P))
    return Concentration(count_P=count_P, images=len(sample_NF), member_P=real.member_P)


def _nearest(
    query_NF: np.ndarray, real: Hospital, check: Check, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest patient's index_N, and the log of d1 / d2.

    Args:
        query_NF: features.
        real: the patients.
        check: called between steps.
        own: the patient of each query, who does not count; None: the queries are nobody's.
    """
    order_K = np.argsort(real.index_K, kind="stable")
    starts_P = np.searchsorted(real.index_K[order_K], np.arange(len(real.patients_P)))
    known_KF = real.features_KF[order_K]
    nearest, log_ratio = [], []
    for start in range(0, len(query_NF), ROWS):
        check()
        rows = slice(start, start + ROWS)
        to_NP = np.minimum.reduceat(distances(query_NF[rows], known_KF), starts_P, axis=1)
        if own is not None:
            to_NP[np.arange(len(to_NP)), own[rows]] = np.inf
        two_N2 = np.maximum(np.partition(to_NP, 1, axis=1)[:, :2], _MIN_DISTANCE)
        nearest.append(to_NP.argmin(axis=1))
        log_ratio.append(np.log(two_N2[:, 0] / two_N2[:, 1]))
    return np.concatenate(nearest), np.concatenate(log_ratio)
