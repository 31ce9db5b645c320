"""The memorisation filter: a sample is a copy if it is nearer to a real image than patients are.

Chebykin et al. 2024, appendix: a sample counts as memorised when its nearest training image is
closer than the 5th percentile of the distances between images of different patients. There, the
threshold is computed from half the patients against the other half but applied against all of them,
which fails with few patients; here it is calibrated as it is used: training images against the
images of all *other* patients, in whatever pose.

One distance detects what another is blind to, so several judge, and one that says "copy" is enough.
Their union is calibrated to reject `percentile` % of honest images.

Shapes: N samples, M training images, C channels, H height, W width, D distances, P patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hyfree_ray.privacy.detectors import Detector, Measure, Nearest

_MIN_DISTANCE = 0.02
"""Nearer than this is a copy whatever the calibration says, for it knows no better where two
patients share an image; rounding to 8 bits and resampling leave less of an exact copy."""

MAX_CALIBRATING = 400
"""Training images, of as many patients as possible, by which a large site's filter is calibrated:
each is compared with all."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The filter's findings about N samples. They stay at the site."""

    nearness_ND: np.ndarray
    """Distance to the nearest training image over the detector's threshold: below 1 is a copy."""
    nearest_ND: np.ndarray
    """Index of that training image."""

    @property
    def copied_ND(self) -> np.ndarray:
        """Whether each detector judges each sample a copy."""
        return np.asarray(self.nearness_ND < 1)

    @property
    def copied_N(self) -> np.ndarray:
        """Whether any detector judges each sample a copy."""
        return np.asarray(self.copied_ND.any(axis=1))

    def nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """Return nearness_N and the real image's index_N, by the detector that finds it nearest."""
        detector_N = self.nearness_ND.argmin(axis=1)
        row_N = np.arange(len(detector_N))
        return self.nearness_ND[row_N, detector_N], self.nearest_ND[row_N, detector_N]


@dataclass(frozen=True, kw_only=True)
class MemorisationFilter:
    """A site's detectors, with the distances below which a sample counts as a copy."""

    detectors: tuple[Detector, ...]
    thresholds: tuple[float, ...]
    """One for each of `names`."""
    calibration_rejected: float
    """Share of the calibrating images that would be rejected beside all other patients' images."""

    @classmethod
    def calibrate(
        cls,
        images_MCHW: np.ndarray,
        patients_M: np.ndarray,
        measures: Sequence[Measure],
        *,
        percentile: float,
    ) -> MemorisationFilter:
        """Set the thresholds so that together they reject `percentile` % of honest images.

        An honest image is a training image beside those of all other patients.

        Args:
            images_MCHW: the site's training images, in [-1, 1].
            patients_M: the patient of each image; at least two patients.
            measures: one per detector.
            percentile: 5 in the paper.
        """
        assert len(set(patients_M.tolist())) > 1, "one patient has no other to be compared with"
        detectors = tuple(measure.fit(images_MCHW, patients_M) for measure in measures)
        honest_H = calibrating(patients_M)
        nearest = _joined(detectors, images_MCHW[honest_H], patients_M[honest_H])
        thresholds_D = shared_thresholds(
            nearest.distance_ND.T, patients_M[honest_H], percentile / 100
        )
        return cls(
            detectors=detectors,
            thresholds=tuple(float(threshold) for threshold in thresholds_D),
            calibration_rejected=float((nearest.distance_ND < thresholds_D).any(axis=1).mean()),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The distances' names, in the order of a judgement's columns."""
        return tuple(name for detector in self.detectors for name in detector.names)

    def judge(self, images_NCHW: np.ndarray) -> Judgement:
        """Compare samples, as they would be released, in [-1, 1], with all training images."""
        nearest = _joined(self.detectors, images_NCHW, None)
        thresholds_D = np.maximum(self.thresholds, _MIN_DISTANCE)
        return Judgement(
            nearness_ND=nearest.distance_ND / thresholds_D, nearest_ND=nearest.index_ND
        )


def _joined(
    detectors: Sequence[Detector], images_NCHW: np.ndarray, patients_N: np.ndarray | None
) -> Nearest:
    """Join what all detectors find."""
    found = [detector.nearest(images_NCHW, patients_N) for detector in detectors]
    return Nearest(
        distance_ND=np.concatenate([one.distance_ND for one in found], axis=1),
        index_ND=np.concatenate([one.index_ND for one in found], axis=1),
    )


def calibrating(patients_M: np.ndarray) -> np.ndarray:
    """Return the indices of at most `MAX_CALIBRATING` images, the first of each patient first."""
    order_M = np.argsort(patients_M, kind="stable")
    _, start_P, images_P = np.unique(patients_M[order_M], return_index=True, return_counts=True)
    number_M = np.arange(len(patients_M)) - np.repeat(start_P, images_P)
    first_M = order_M[np.argsort(number_M, kind="stable")]
    return np.sort(first_M[:MAX_CALIBRATING])


def shared_thresholds(nearest_DM: np.ndarray, patients_M: np.ndarray, share: float) -> np.ndarray:
    """Return thresholds_D below which a new patient's image has any distance with chance `share`.

    Distances are put on one scale (logarithms, by their median and their median deviation from it),
    and an image's score is its lowest distance. That one number is calibrated by conformal risk
    control (Angelopoulos et al. 2024): over the patients and one more, all of whose images are
    rejected, the mean share of rejected images stays within `share`. A rank per distance would not
    do: every one has a lowest image of its own, so a new image has as many chances to be lower as
    there are distances. Patients count, not images: those of one patient are alike.

    19 patients are needed for 5 %. With fewer, ranks cannot tell, and the level is the lower
    prediction limit of a normal distribution of scores (Student's t, a degree of freedom less than
    there are patients).

    Args:
        nearest_DM: distances of M honest images.
        patients_M: whose image each is.
        share: of a new patient's images that may be rejected, below 1.
    """
    log_DM = np.log(np.maximum(nearest_DM, _MIN_DISTANCE))
    centre_D1, spread_D1 = _scale(log_DM)
    lowest_M = ((log_DM - centre_D1) / spread_D1).min(axis=0)
    _, index_M, images_P = np.unique(patients_M, return_inverse=True, return_counts=True)
    if share * (len(images_P) + 1) < 1:
        level = _prediction_limit(_scored_by_others(log_DM, index_M), index_M, share)
    else:
        order_M = np.argsort(lowest_M, kind="stable")
        rejected_M = np.cumsum(1 / images_P[index_M[order_M]])
        max_rejected = share * (len(images_P) + 1) - 1
        first_accepted = int(np.searchsorted(rejected_M, max_rejected + 1e-9, side="right"))
        level = float(lowest_M[order_M[first_accepted]])
    thresholds_D: np.ndarray = np.exp(centre_D1 + spread_D1 * level)[:, 0] * (1 - 1e-6)
    return thresholds_D


def _scale(log_DM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre_D1 and spread_D1 of each distance's logarithms."""
    centre_D1 = np.median(log_DM, axis=1, keepdims=True)
    spread_D1 = np.median(np.abs(log_DM - centre_D1), axis=1, keepdims=True)
    return centre_D1, np.maximum(spread_D1, _MIN_DISTANCE)


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
