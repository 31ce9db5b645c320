"""The paper's threshold and the ratio of distances."""

from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.privacy.thresholds import half_against_half, ratios
from tests.privacy.test_membership import features, near


def test_the_papers_threshold_is_that_percentile_of_one_halfs_distances_to_the_other() -> None:
    real, patients = features(40, 1), np.arange(40) // 2
    found = half_against_half(real, patients, percentile=5, seed=3)
    halves = [half_against_half(real, patients, percentile=p, seed=3) for p in (0, 5, 50, 100)]
    assert halves == sorted(halves)
    assert halves[1] == found
    angle = np.sqrt(np.maximum(2 - 2 * real @ real.T, 0))
    others = np.where(patients[:, None] == patients, np.inf, angle).min(axis=1)
    # Half the images have fewer neighbours: the paper's threshold is never below ours.
    assert halves[0] >= others.min() - 1e-12


def test_frames_of_one_patient_are_never_in_both_halves() -> None:
    real = np.repeat(features(20, 1), 3, axis=0)
    patients = np.repeat(np.arange(20), 3)
    assert half_against_half(real, patients, percentile=0, seed=0) > 0.1


def test_half_of_the_ratios_are_below_one_where_nothing_leaks_and_more_where_it_does() -> None:
    training, held_out = features(200, 1), features(60, 2)

    def share(samples: np.ndarray) -> float:
        return float((ratios(samples, training[:60], held_out, seed=0) < 1).mean())

    assert share(features(900, 3)) == pytest.approx(0.5, abs=0.12)
    assert share(near(training[:60], 500, 4, 0.01)) > 0.9


def test_equally_many_of_both_are_taken() -> None:
    training, held_out = features(600, 1), features(60, 2)
    shares = [
        (ratios(features(500, 9), training, held_out, seed=seed) < 1).mean() for seed in range(4)
    ]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.12)
    assert np.isfinite(ratios(training, training, held_out, seed=0)).all()
