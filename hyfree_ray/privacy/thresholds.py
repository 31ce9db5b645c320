"""The paper's threshold and the ratio of distances, to stand beside the filter's own.

Both compare features alone, as they are: no mirrored or shifted copies.
Shapes: N samples, K training images, M held-out images, F features.
"""

from __future__ import annotations

import numpy as np

from hyfree_ray.evaluation.image_quality import distances


def half_against_half(
    features_KF: np.ndarray, patients_K: np.ndarray, *, percentile: float, seed: int
) -> float:
    """The threshold of Chebykin et al. 2024: nearest distances of half the patients to the others.

    Args:
        features_KF: of the training images, each of length 1.
        patients_K: whose image each is; at least two patients.
        percentile: 5 in the paper.
        seed: of the halves.
    """
    patients = np.random.default_rng(seed).permutation(np.unique(patients_K))
    assert len(patients) > 1, "one patient has no other half"
    first_K = np.isin(patients_K, patients[: len(patients) // 2])
    nearest = distances(features_KF[first_K], features_KF[~first_K]).min(axis=1)
    return float(np.percentile(nearest, percentile))


def ratios(sample_NF: np.ndarray, training_KF: np.ndarray, held_out_MF: np.ndarray) -> np.ndarray:
    """ratio_N: distance to the nearest training image over that to the nearest held-out one.

    Held-out images are of other patients.
    """
    training_N, held_out_N = (
        distances(sample_NF, real).min(axis=1) for real in (training_KF, held_out_MF)
    )
    least = np.finfo(np.float32).eps
    ratio_N: np.ndarray = np.maximum(training_N, least) / np.maximum(held_out_N, least)
    return ratio_N


def nearer_to_training(ratio_N: np.ndarray, *, training: int, held_out: int) -> float:
    """Share of the samples nearer to training images, as if there were as many held-out ones.

    The nearest of more images is nearer: where nothing leaks, training / (training + held_out) of
    the samples are nearer to a training image. That share is brought to 0.5, and a share of 1,
    copies only, stays 1; with q copies among honest samples it is 0.5 + q / 2. (Leaving out
    training images until both are as many would leave out what most copies were made of.)

    Args:
        ratio_N: of `ratios`, with all images of both.
        training: how many training images there are.
        held_out: how many held-out ones.
    """
    chance = training / (training + held_out)
    share = float((ratio_N < 1).mean())
    if share <= chance:
        return 0.5 * share / chance
    return 0.5 + 0.5 * (share - chance) / (1 - chance)
