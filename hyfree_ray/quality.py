"""How good synthetic images are, in an embedder's space, against images that were held out.

Shapes: N, M images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 5
"""k of density and coverage (Naeem et al. 2020 take 5)."""


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
    shortfall: float
    """How much nearer to training images its samples lie than held-out images do: 0 not at all,
    1 on top of them."""


def score_snapshot(
    sample_NF: np.ndarray, held_out_MF: np.ndarray, training_KF: np.ndarray
) -> SnapshotScore:
    """Score a snapshot by its samples. Quartiles, so that a few copies among many samples count."""
    sample_N = distances(sample_NF, training_KF).min(axis=1)
    held_out_M = distances(held_out_MF, training_KF).min(axis=1)
    level = np.percentile(held_out_M, 25)
    shortfall = 1 - np.percentile(sample_N, 25) / level if level > 0 else 0.0
    return SnapshotScore(kid=kid(sample_NF, held_out_MF), shortfall=float(np.clip(shortfall, 0, 1)))


def best_snapshot(scores: list[SnapshotScore]) -> int:
    """Index of the snapshot with the lowest KID plus what it pays for lying too near.

    The reference chose by FID against the very images that were trained on, which favours
    copies. Here a snapshot pays its shortfall times the span of all KIDs, so that one whose
    samples are copies comes no better than the worst; of equals the one farther away is taken.
    """
    kids = [score.kid for score in scores]
    span = max(kids) - min(kids)
    totals = [(score.kid + score.shortfall * span, score.shortfall) for score in scores]
    return totals.index(min(totals))


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
