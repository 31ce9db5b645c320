"""The paper's threshold, reported beside the filter's own.

It compares plain features: no mirrored or shifted copies. Shapes: K training images, F features.
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
