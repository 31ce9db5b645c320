"""The memorisation filter: a synthetic image nearer to a real one than patients are to each other.

Chebykin et al. 2024, appendix: a sample counts as memorised when its nearest training image is
closer than the 5th percentile of the distances between images of different patients. There, the
threshold comes from half the patients against the other half but is used against all of them,
which misfires with few patients; here it is calibrated as it is used: every training image
against the images of all *other* patients, mirrored and shifted copies included.

One measure sees what another is blind to, so several judge, and one that says "copy" is enough.
It is their union that is calibrated to reject `percentile` % of honest images.

Shapes: N samples, M training images, C channels, H height, W width, D detectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyfree_ray.privacy.detectors import Detector, Measure


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the filter finds about N samples. Stays at the site."""

    nearness_ND: np.ndarray
    """Distance to the nearest training image over the detector's threshold: under 1 is a copy."""
    nearest_ND: np.ndarray
    """Index of that training image."""

    @property
    def copied_ND(self) -> np.ndarray:
        """Which detector takes which sample for a copy."""
        return np.asarray(self.nearness_ND < 1)

    @property
    def copied_N(self) -> np.ndarray:
        """True for what any detector takes for a copy."""
        return np.asarray(self.copied_ND.any(axis=1))

    def nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """By the detector that finds it nearest: each nearness_N, and the real image's index_N."""
        detector_N = self.nearness_ND.argmin(axis=1)
        row_N = np.arange(len(detector_N))
        return self.nearness_ND[row_N, detector_N], self.nearest_ND[row_N, detector_N]


@dataclass(frozen=True, kw_only=True)
class MemorisationFilter:
    """A site's detectors, each with the distance under which a sample counts as a copy."""

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

        An honest image is a training image beside those of all other patients. The detectors
        share one rank: each rejects equally many honest images on its own.

        Args:
            images_MCHW: the site's training images, in [-1, 1].
            patients_M: whose image each is; at least two patients.
            measures: one a detector.
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
        thresholds_D = shared_rank_thresholds(nearest_DM, percentile / 100)
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
            # A threshold of 0, where two patients share an image, still stops exact copies.
            least = max(threshold, np.finfo(np.float32).eps)
            nearness.append(distances_NM.min(axis=1) / least)
        return Judgement(nearness_ND=np.stack(nearness, 1), nearest_ND=np.stack(nearest, 1))


def shared_rank_thresholds(nearest_DM: np.ndarray, share: float) -> np.ndarray:
    """thresholds_D of one rank, under which a new honest image has any value with chance `share`.

    A new image is as likely to fall into any of the M + 1 gaps between the honest ones (which
    makes this split conformal prediction), so that with M = 99 the fifth lowest is 5 %. Below 19
    images the lowest is taken, which rejects more.

    Args:
        nearest_DM: each detector's distances of M honest images.
        share: of honest images that may be rejected, below 1.
    """
    sorted_DM = np.sort(nearest_DM, axis=1)
    rank_DM = np.stack(
        [np.searchsorted(row, values) for row, values in zip(sorted_DM, nearest_DM, strict=True)]
    )
    lowest_M = np.sort(rank_DM.min(axis=0))
    rank = lowest_M[max(0, int(share * (len(lowest_M) + 1)) - 1)]
    thresholds_D: np.ndarray = sorted_DM[:, rank]
    return thresholds_D
