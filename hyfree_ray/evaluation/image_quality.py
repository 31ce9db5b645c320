"""How good synthetic images are, in an embedder's space, against images that were held out.

Shapes: N, M images, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import nhypergeom

NEIGHBOURS = 5
"""k of density and coverage (Naeem et al. 2020 take 5)."""
NEAR = 0.1
"""Share of the held-out images that make out what is near to the training images."""
CHANCE = 0.05
"""Probability below which so many near samples are no chance."""
_LEAST = 1e-6  # of a distance that something is divided by


def kid(one_NF: np.ndarray, other_MF: np.ndarray) -> float:
    """Squared maximum mean discrepancy with KID's cubic kernel, unbiased (Binkowski et al. 2018).

    Near 0, possibly below, for samples of one distribution. Unbiased at any sample size, unlike
    the Frechet distance: held-out sets are small.

    Args:
        one_NF: features of at least two images.
        other_MF: features of at least two images.
    """
    count_N, count_M, width = len(one_NF), len(other_MF), one_NF.shape[1]
    # Features of length 1 would make the kernel flat: KID's 1/F expects entries of size 1.
    one_NF, other_MF = one_NF * np.sqrt(width), other_MF * np.sqrt(width)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        values: np.ndarray = (a @ b.T / width + 1) ** 3
        return values

    within_one, within_other = kernel(one_NF, one_NF), kernel(other_MF, other_MF)
    return float(
        (within_one.sum() - np.trace(within_one)) / (count_N * (count_N - 1))
        + (within_other.sum() - np.trace(within_other)) / (count_M * (count_M - 1))
        - 2 * kernel(one_NF, other_MF).mean()
    )


def distances(one_NF: np.ndarray, other_MF: np.ndarray) -> np.ndarray:
    """Euclidean distances_NM between features of length 1."""
    found: np.ndarray = np.sqrt(np.maximum(2 - 2 * one_NF @ other_MF.T, 0))
    return found


@dataclass(frozen=True, kw_only=True)
class SnapshotScore:
    """How a generator's snapshot compares with held-out images."""

    kid: float
    """Against held-out real images."""
    near: float
    """Share of its samples that lie nearer to training images than all but `NEAR` of the held-out
    ones do (see `score_snapshot`)."""
    copies: bool
    """That share is beyond chance."""


def score_snapshot(
    sample_NF: np.ndarray,
    held_out_MF: np.ndarray,
    training_KF: np.ndarray,
    patients_M: np.ndarray,
) -> SnapshotScore:
    """Score a snapshot by its samples.

    What counts is the distance to the nearest training image over that to the nearest held-out
    one: copies are near to the former alone, blurred or plain samples to both. Held-out images
    have such a ratio too, with those of other patients. How many samples have a lower one than the
    r-th lowest of them is distributed like draws from an urn if samples are as new as they are
    (the precedence test: Nelson 1963); it looks at the near end alone, so that copies among honest
    samples count, and allows for how few images there are of either.

    Args:
        sample_NF: features of the samples.
        held_out_MF: of real images of other patients.
        training_KF: of the training images.
        patients_M: whose image each held-out one is; at least two patients.
    """
    among_MM = distances(held_out_MF, held_out_MF)
    among_MM[patients_M[:, None] == patients_M] = np.inf
    to_training_N = distances(sample_NF, training_KF).min(axis=1)
    ratio_N = to_training_N / np.maximum(distances(sample_NF, held_out_MF).min(axis=1), _LEAST)
    to_training_M = distances(held_out_MF, training_KF).min(axis=1)
    ratio_M = np.sort(to_training_M / np.maximum(among_MM.min(axis=1), _LEAST))
    count_N, count_M = len(ratio_N), len(ratio_M)
    rank = max(1, int(NEAR * count_M))
    nearer = int((ratio_N < ratio_M[rank - 1]).sum())
    by_chance = nhypergeom.sf(nearer - 1, count_N + count_M, count_N, rank)
    return SnapshotScore(
        kid=kid(sample_NF, held_out_MF),
        near=nearer / count_N,
        copies=bool(by_chance < CHANCE),
    )


def best_snapshot(scores: Sequence[SnapshotScore], far: Sequence[float] | None = None) -> int:
    """Index of the snapshot that is nearest to real images, of those that do not copy.

    The reference chose by FID against the very images that were trained on, which favours
    copies. Here a snapshot that copies beyond chance is out, however good it looks; where all do,
    the one that copies least is taken, and the filter behind it decides.

    Args:
        scores: of the snapshots.
        far: how far each is from real images by everything that is measured; None: by KID alone.
    """
    distance = [score.kid for score in scores] if far is None else far
    honest = [k for k, score in enumerate(scores) if not score.copies]
    if honest:
        return min(honest, key=lambda k: distance[k])
    return min(range(len(scores)), key=lambda k: (scores[k].near, distance[k]))


def kid_over_floor(
    sample_NF: np.ndarray, real_MF: np.ndarray, halves: Sequence[np.ndarray]
) -> float:
    """Return KID over what it is between two halves of the real images; at least 1.

    Args:
        sample_NF: features of the samples.
        real_MF: of the real images.
        halves: marks_M of one half, for each way to halve them.
    """
    between = [abs(kid(real_MF[half_M], real_MF[~half_M])) for half_M in halves]
    floor = max(float(np.mean(between)), _LEAST)
    return max(kid(sample_NF, real_MF), floor) / floor


def density_and_coverage(sample_NF: np.ndarray, real_MF: np.ndarray) -> tuple[float, float]:
    """Naeem et al. 2020, equations 4 and 5: fidelity and variety against real images.

    Both are near 1 for a new set of real images. Coverage is the share of real images with a
    sample within the distance of their k-th nearest real neighbour.
    """
    k = min(NEIGHBOURS, len(real_MF) - 1)
    radius_M = np.sort(distances(real_MF, real_MF), axis=1)[:, k]
    inside_NM = distances(sample_NF, real_MF) <= radius_M[None, :]
    density = float(inside_NM.sum() / (k * len(sample_NF)))
    return density, float(inside_NM.any(axis=0).mean())
