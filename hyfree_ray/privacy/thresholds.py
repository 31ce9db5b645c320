"""The paper's threshold and the ratio of distances, to stand beside the filter's own.

Both compare features alone, as they are: no mirrored or shifted copies.
Shapes: N samples, K training images, M held-out images, F features.
"""

from __future__ import annotations

import numpy as np

from hyfree_ray.quality import distances


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


def ratios(
    sample_NF: np.ndarray, training_KF: np.ndarray, held_out_MF: np.ndarray, *, seed: int
) -> np.ndarray:
    """ratio_N: distance to the nearest training image over that to the nearest held-out one.

    Held-out images are of other patients. Equally many of both are taken, for the nearest of more
    images is nearer; so where nothing leaks, half of the ratios are below 1.
    """
    rng = np.random.default_rng(seed)
    count = min(len(training_KF), len(held_out_MF))
    training_N, held_out_N = (
        distances(sample_NF, rng.permutation(real)[:count]).min(axis=1)
        for real in (training_KF, held_out_MF)
    )
    least = np.finfo(np.float32).eps
    ratio_N: np.ndarray = np.maximum(training_N, least) / np.maximum(held_out_N, least)
    return ratio_N
