"""The paper's threshold and the ratio of distances, reported beside the filter's own.

Both compare plain features: no mirrored or shifted copies.

Shapes: N samples, K training images, M held-out images, F features.
"""

from __future__ import annotations

import numpy as np

from hyfree_ray.evaluation.image_quality import distances


def split_half_threshold(
    features_KF: np.ndarray, patients_K: np.ndarray, *, percentile: float, seed: int
) -> float:
    """Return the threshold of Chebykin et al. 2024: nearest distances between halves of the
    patients.

    Args:
        features_KF: of the training images, each of length 1.
        patients_K: the patient of each image; at least two patients.
        percentile: 5 in the paper.
        seed: seed of the split.
    """
    patients = np.random.default_rng(seed).permutation(np.unique(patients_K))
    assert len(patients) > 1, "one patient has no other half"
    first_K = np.isin(patients_K, patients[: len(patients) // 2])
    nearest = distances(features_KF[first_K], features_KF[~first_K]).min(axis=1)
    return float(np.percentile(nearest, percentile))


def ratios(sample_NF: np.ndarray, training_KF: np.ndarray, held_out_MF: np.ndarray) -> np.ndarray:
    """Return ratio_N: distance to the nearest training image over that to the nearest held-out one.

    Held-out images are of other patients.
    """
    training_N, held_out_N = (
        distances(sample_NF, real).min(axis=1) for real in (training_KF, held_out_MF)
    )
    smallest = np.finfo(np.float32).eps
    ratio_N: np.ndarray = np.maximum(training_N, smallest) / np.maximum(held_out_N, smallest)
    return ratio_N


def nearer_to_training(ratio_N: np.ndarray, *, training: int, held_out: int) -> float:
    """Return the share of samples nearer to training images, as if there were as many held-out
    ones.

    The nearest of more images is nearer: without leaks, training / (training + held_out) of the
    samples are nearer to a training image. That share is mapped to 0.5, and a share of 1 (copies
    only) stays 1; with a share q of copies among honest samples the result is 0.5 + q / 2.
    (Dropping training images until both are as many would drop the originals of most copies.)

    Args:
        ratio_N: result of `ratios`, with all images of both.
        training: number of training images.
        held_out: number of held-out images.
    """
    chance = training / (training + held_out)
    share = float((ratio_N < 1).mean())
    if share <= chance:
        return 0.5 * share / chance
    return 0.5 + 0.5 * (share - chance) / (1 - chance)
