"""The paper's threshold."""

from __future__ import annotations

import numpy as np

from hyfree_ray.privacy.thresholds import split_half_threshold
from tests.privacy.test_membership import features


def test_the_papers_threshold_is_that_percentile_of_one_halfs_distances_to_the_other() -> None:
    real, patients = features(40, 1), np.arange(40) // 2
    found = split_half_threshold(real, patients, percentile=5, seed=3)
    halves = [split_half_threshold(real, patients, percentile=p, seed=3) for p in (0, 5, 50, 100)]
    assert halves == sorted(halves)
    assert halves[1] == found
    angle = np.sqrt(np.maximum(2 - 2 * real @ real.T, 0))
    others = np.where(patients[:, None] == patients, np.inf, angle).min(axis=1)
    # Half the images have fewer neighbours: the paper's threshold is never below ours.
    assert halves[0] >= others.min() - 1e-12


def test_frames_of_one_patient_are_never_in_both_halves() -> None:
    real = np.repeat(features(20, 1), 3, axis=0)
    patients = np.repeat(np.arange(20), 3)
    assert split_half_threshold(real, patients, percentile=0, seed=0) > 0.1
