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
from dataclasses import dataclass, replace

import numpy as np

from hyfree_ray.privacy.calibration import MIN_DISTANCE, Calibration, calibrating
from hyfree_ray.privacy.detectors import Detector, Measure, Nearest


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

    def joined(self, other: Judgement) -> Judgement:
        """Return these findings with those of further detectors about the same samples."""
        return Judgement(
            nearness_ND=np.concatenate([self.nearness_ND, other.nearness_ND], axis=1),
            nearest_ND=np.concatenate([self.nearest_ND, other.nearest_ND], axis=1),
        )

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
    calibration: Calibration
    honest_HD: np.ndarray
    """Distances of the calibrating images to all other patients' images."""

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
        calibration = Calibration.of(nearest.distance_ND.T, patients_M[honest_H], percentile / 100)
        return cls(
            detectors=detectors,
            thresholds=tuple(calibration.thresholds(calibration.level).tolist()),
            calibration=calibration,
            honest_HD=nearest.distance_ND,
        )

    def raised(self, copies_NCHW: np.ndarray, *, recall: float) -> MemorisationFilter:
        """Return the filter with thresholds raised to stop so many copies, if it does not yet.

        They are raised as far as the calibrating images allow: until of these, too, `percentile` %
        are rejected. A site of few patients cannot know how near honest images of a new one come,
        and what is on the safe side for these lets copies pass; a sample that is rejected in error
        costs another one, and a copy that passes a patient's privacy.

        Args:
            copies_NCHW: copies of training images, in [-1, 1].
            recall: share of them to be stopped.
        """
        nearest = _joined(self.detectors, copies_NCHW, None)
        level = self.calibration.level_that_stops(nearest.distance_ND.T, recall)
        return replace(self, thresholds=tuple(self.calibration.thresholds(level).tolist()))

    @property
    def calibration_rejected(self) -> float:
        """Share of the calibrating images that are rejected beside all other patients' images."""
        return float((self.honest_HD < self.thresholds).any(axis=1).mean())

    @property
    def names(self) -> tuple[str, ...]:
        """The distances' names, in the order of a judgement's columns."""
        return tuple(name for detector in self.detectors for name in detector.names)

    def judge(self, images_NCHW: np.ndarray) -> Judgement:
        """Compare samples, as they would be released, in [-1, 1], with all training images."""
        nearest = _joined(self.detectors, images_NCHW, None)
        thresholds_D = np.maximum(self.thresholds, MIN_DISTANCE)
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
