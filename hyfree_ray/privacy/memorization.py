"""The memorisation filter: a sample is a copy if it is nearer to a real image than patients are.

Chebykin et al. 2024, appendix: a sample counts as memorised when its nearest training image is
closer than the 5th percentile of the distances between images of different patients. There, the
threshold is computed from half the patients against the other half but applied against all of them,
which fails with few patients; here it is calibrated as it is used: every training image against the
images of all *other* patients, mirrored and shifted copies included.

One measure detects what another is blind to, so several judge, and one that says "copy" is enough.
Their union is calibrated to reject `percentile` % of honest images.

Shapes: N samples, M training images, C channels, H height, W width, D detectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyfree_ray.privacy.detectors import Detector, Measure

_MIN_DISTANCE = float(np.finfo(np.float32).eps)
"""Replaces a distance of 0, where two patients share an image; still stops exact copies."""


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
    """A site's detectors, each with the distance below which a sample counts as a copy."""

    detectors: tuple[Detector, ...]
    thresholds: tuple[float, ...]
    calibration_rejected: float
    """Share of the training images that would be rejected beside all other patients' images."""

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
        detectors = tuple(Detector.fit(measure, images_MCHW) for measure in measures)
        same_MM = patients_M[:, None] == patients_M[None, :]
        nearest_DM = np.stack(
            [
                np.where(same_MM, np.inf, detector.distances(images_MCHW)).min(axis=1)
                for detector in detectors
            ]
        )
        thresholds_D = shared_thresholds(nearest_DM, patients_M, percentile / 100)
        return cls(
            detectors=detectors,
            thresholds=tuple(float(threshold) for threshold in thresholds_D),
            calibration_rejected=float((nearest_DM < thresholds_D[:, None]).any(axis=0).mean()),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The detectors' names, in the order of a judgement's columns."""
        return tuple(detector.measure.name for detector in self.detectors)

    def judge(self, images_NCHW: np.ndarray) -> Judgement:
        """Compare samples, as they would be released, in [-1, 1], with all training images."""
        nearness, nearest = [], []
        for detector, threshold in zip(self.detectors, self.thresholds, strict=True):
            distances_NM = detector.distances(images_NCHW)
            nearest.append(distances_NM.argmin(axis=1))
            nearness.append(distances_NM.min(axis=1) / max(threshold, _MIN_DISTANCE))
        return Judgement(nearness_ND=np.stack(nearness, 1), nearest_ND=np.stack(nearest, 1))


def shared_thresholds(nearest_DM: np.ndarray, patients_M: np.ndarray, share: float) -> np.ndarray:
    """Return thresholds_D below which a new patient's image has any distance with chance `share`.

    Each detector's distances are put on one scale (logarithms, by their median and their median
    deviation from it), and an image's score is its lowest distance. That one number is calibrated
    by conformal risk control (Angelopoulos et al. 2024): over the patients and one more, all of
    whose images are rejected, the mean share of rejected images stays within `share`. A rank per
    detector would not do: every detector has a lowest image of its own, so a new image has as many
    chances to be lower as there are detectors. Patients count, not images: those of one patient are
    alike.

    19 patients are needed for 5 %. With fewer, the lowest image is taken, which rejects more.

    Args:
        nearest_DM: each detector's distances of M honest images.
        patients_M: whose image each is.
        share: of a new patient's images that may be rejected, below 1.
    """
    log_DM = np.log(np.maximum(nearest_DM, _MIN_DISTANCE))
    centre_D1 = np.median(log_DM, axis=1, keepdims=True)
    spread_D1 = np.maximum(
        np.median(np.abs(log_DM - centre_D1), axis=1, keepdims=True), _MIN_DISTANCE
    )
    lowest_M = ((log_DM - centre_D1) / spread_D1).min(axis=0)
    _, index_M, images_P = np.unique(patients_M, return_inverse=True, return_counts=True)
    order_M = np.argsort(lowest_M, kind="stable")
    rejected_M = np.cumsum(1 / images_P[index_M[order_M]])
    max_rejected = share * (len(images_P) + 1) - 1
    first_accepted = int(np.searchsorted(rejected_M, max_rejected + 1e-9, side="right"))
    level = lowest_M[order_M[first_accepted]]
    thresholds_D: np.ndarray = np.exp(centre_D1 + spread_D1 * level)[:, 0] * (1 - 1e-6)
    return thresholds_D
