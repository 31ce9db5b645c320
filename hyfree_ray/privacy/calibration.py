"""The calibration of the memorisation filter: how near honest images come to other patients'.

Shapes: M images, N samples, D distances, P patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

MIN_DISTANCE = 0.02
"""Nearer than this is a copy whatever the calibration says, for it knows no better where two
patients share an image; rounding to 8 bits and resampling leave less of an exact copy."""

MAX_CALIBRATING = 400
"""Training images, of as many patients as possible, by which a large site's filter is calibrated:
each is compared with all."""


def calibrating(patients_M: np.ndarray) -> np.ndarray:
    """Return the indices of at most `MAX_CALIBRATING` images, the first of each patient first."""
    order_M = np.argsort(patients_M, kind="stable")
    _, start_P, images_P = np.unique(patients_M[order_M], return_index=True, return_counts=True)
    number_M = np.arange(len(patients_M)) - np.repeat(start_P, images_P)
    first_M = order_M[np.argsort(number_M, kind="stable")]
    return np.sort(first_M[:MAX_CALIBRATING])


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One scale for all distances, and the level on it below which an image counts as a copy.

    Distances are put on it by their logarithms, by their median and their median deviation from it;
    an image's score is its lowest.
    """

    centre_D1: np.ndarray
    spread_D1: np.ndarray
    level: float
    highest: float
    """The level at which the wanted share of the calibrating images themselves is rejected, the
    mean over patients. Where patients are few `level` lies lower, for a new patient may come nearer
    than any of these."""

    @classmethod
    def of(cls, nearest_DM: np.ndarray, patients_M: np.ndarray, share: float) -> Calibration:
        """Set the level below which a new patient's image has any distance with chance `share`.

        It is calibrated by conformal risk control (Angelopoulos et al. 2024): over the patients and
        one more, all of whose images are rejected, the mean share of rejected images stays within
        `share`. A rank per distance would not do: every one has a lowest image of its own, so a new
        image has as many chances to be lower as there are distances. Patients count, not images:
        those of one patient are alike.

        19 patients are needed for 5 %. With fewer, ranks cannot tell, and the level is the lower
        prediction limit of a normal distribution of scores (Student's t, a degree of freedom less
        than there are patients).

        Args:
            nearest_DM: distances of M honest images.
            patients_M: whose image each is.
            share: of a new patient's images that may be rejected, below 1.
        """
        log_DM = _logarithms(nearest_DM)
        centre_D1, spread_D1 = _scale(log_DM)
        lowest_M = ((log_DM - centre_D1) / spread_D1).min(axis=0)
        _, index_M, images_P = np.unique(patients_M, return_inverse=True, return_counts=True)
        order_M = np.argsort(lowest_M, kind="stable")
        rejected_M = np.cumsum(1 / images_P[index_M[order_M]])

        def accepted_from(patients: float) -> float:
            first = int(np.searchsorted(rejected_M, patients + 1e-9, side="right"))
            return float(lowest_M[order_M[min(first, len(order_M) - 1)]])

        count = len(images_P)
        highest = accepted_from(share * count)
        if share * (count + 1) < 1:
            level = _prediction_limit(_scored_by_others(log_DM, index_M), index_M, share)
        else:
            level = accepted_from(share * (count + 1) - 1)
        return cls(
            centre_D1=centre_D1, spread_D1=spread_D1, level=level, highest=max(level, highest)
        )

    def thresholds(self, level: float) -> np.ndarray:
        """Return the distances_D of a level."""
        logs_D = (self.centre_D1 + self.spread_D1 * level)[:, 0]
        thresholds_D: np.ndarray = np.exp(logs_D) * (1 - 1e-6)
        return thresholds_D

    def level_that_stops(self, nearest_DN: np.ndarray, recall: float) -> float:
        """Return the level that stops a share `recall` of copies with these distances, no lower
        than `level` and no higher than `highest`."""
        lowest_N = ((_logarithms(nearest_DN) - self.centre_D1) / self.spread_D1).min(axis=0)
        needed = float(np.quantile(lowest_N, recall, method="higher")) + 1e-3
        return min(max(needed, self.level), self.highest)


def shared_thresholds(nearest_DM: np.ndarray, patients_M: np.ndarray, share: float) -> np.ndarray:
    """Return thresholds_D of a `Calibration`."""
    calibration = Calibration.of(nearest_DM, patients_M, share)
    return calibration.thresholds(calibration.level)


def _logarithms(distances_DM: np.ndarray) -> np.ndarray:
    logs_DM: np.ndarray = np.log(np.maximum(distances_DM, MIN_DISTANCE))
    return logs_DM


def _scale(log_DM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre_D1 and spread_D1 of each distance's logarithms."""
    centre_D1 = np.median(log_DM, axis=1, keepdims=True)
    spread_D1 = np.median(np.abs(log_DM - centre_D1), axis=1, keepdims=True)
    return centre_D1, np.maximum(spread_D1, MIN_DISTANCE)


def _scored_by_others(log_DM: np.ndarray, index_M: np.ndarray) -> np.ndarray:
    """Return score_M of each image on the scale of all other patients' images.

    On a scale of its own an image looks less odd than a new patient's would, which tells where
    there are few.
    """
    _, least_D1 = _scale(log_DM)
    score_M = np.empty(log_DM.shape[1])
    for patient in range(index_M.max() + 1):
        mine_M = index_M == patient
        centre_D1, spread_D1 = _scale(log_DM[:, ~mine_M])
        spread_D1 = np.maximum(spread_D1, 0.5 * least_D1)
        score_M[mine_M] = ((log_DM[:, mine_M] - centre_D1) / spread_D1).min(axis=0)
    return score_M


def _prediction_limit(score_M: np.ndarray, index_M: np.ndarray, share: float) -> float:
    """Return the level that a new patient's score is below with chance `share`.

    Args:
        score_M: of the images.
        index_M: whose they are; every patient counts the same.
        share: below 1/2.
    """
    weight_M = 1 / np.bincount(index_M)[index_M]
    patients = index_M.max() + 1
    mean = np.average(score_M, weights=weight_M)
    variance = np.average((score_M - mean) ** 2, weights=weight_M) * patients / (patients - 1)
    return float(mean + stats.t.ppf(share, patients - 1) * np.sqrt(variance * (1 + 1 / patients)))
