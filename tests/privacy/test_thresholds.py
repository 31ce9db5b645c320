"""The paper's threshold and the ratio of distances."""

from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.privacy.thresholds import nearer_to_training, ratios, split_half_threshold
from tests.privacy.test_membership import features, near


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


@pytest.mark.parametrize("held_out", [28, 93, 300])
def test_chance_is_one_half_however_many_were_held_out(held_out: int) -> None:
    training = features(93, 1)
    shares = [share(features(400, 50 + k), training, features(held_out, 2 + k)) for k in range(6)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("held_out", [28, 93])
def test_copies_count_however_few_were_held_out(held_out: int) -> None:
    """Three training images for a held-out one, as in a fold, and as many of both."""
    training, others = features(93, 1), features(held_out, 2)
    copies, honest = near(training, 400, 93, 0.01), features(400, 3)
    assert share(copies, training, others) > 0.95
    half = share(np.concatenate([copies, honest]), training, others)
    assert 0.65 < half < 0.9


def share(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> float:
    ratio = ratios(samples, training, held_out)
    return nearer_to_training(ratio, training=len(training), held_out=len(held_out))


def test_a_sample_on_top_of_a_training_image_has_a_finite_ratio() -> None:
    training = features(60, 1)
    assert np.isfinite(ratios(training, training, features(20, 2))).all()
    assert np.isfinite(ratios(training, features(20, 2), training)).all()
