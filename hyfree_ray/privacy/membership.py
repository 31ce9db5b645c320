"""Membership attacks on a release (can it be told who was trained on?), each beside its control.

An attack scores real images by the synthetic ones; its AUC says how often a training image (a
member) scores higher than one of a held-out patient. The control is the same attack on two sets of
held-out patients, where there is nothing to find: what it "finds" is chance. Only the part of an
attack's AUC above its control counts.

Shapes: N synthetic images, K members, M non-members, F features, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

MIN_PATIENTS = 20
"""Non-member patients below which no number is reported."""

RESAMPLES = 1000
DIMENSIONS = 8
"""Principal components in which densities are estimated; with more, densities are meaningless."""

Score = Callable[[np.ndarray], np.ndarray]
"""features_KF to one number per image: higher for images that look trained on."""

_LEVELS = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Real images whose membership is known."""

    features_KF: np.ndarray
    """Each row of length 1."""
    patients_K: np.ndarray

    def of(self, patients: np.ndarray) -> Group:
        """Return the images of some patients."""
        kept_K = np.isin(self.patients_K, patients)
        return Group(features_KF=self.features_KF[kept_K], patients_K=self.patients_K[kept_K])


def membership(
    sample_NF: np.ndarray,
    members: Group,
    others: Group,
    *,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Attack the samples by nearness and by density, with bootstrap intervals over patients.

    Args:
        sample_NF: features of the released images, of length 1.
        members: the images that the generator was trained on.
        others: held-out images of other patients.
        seed: seed of the split of the others, and of the bootstrap.
        check: called between steps; an exception from it ends the attacks.

    Returns:
        JSON: `measurable`, a `reason` where it is not, and for each of the attacks `nearest`
        (Chen et al. 2020, full black-box) and `density` (DOMIAS; van Breugel et al. 2023,
        equation 2): `auc`, `control`, their 95 % intervals, `over_control`, and `control_valid`
        (the control's interval holds 0.5).
    """
    rng = np.random.default_rng(seed)
    patients = rng.permutation(np.unique(others.patients_K))
    if len(patients) < MIN_PATIENTS:
        reason = f"{len(patients)} patients are held out, {MIN_PATIENTS} are needed"
        return {"measurable": False, "reason": f"not measurable: {reason}"}
    reference, tested = (others.of(half) for half in np.array_split(patients, 2))
    # The density attack knows a part of the population, which then cannot be tested on.
    scored = _density_ratio(sample_NF, reference.features_KF)
    return {
        "measurable": True,
        "non_member_patients": len(patients),
        "nearest": _with_control(
            lambda features_KF: -_nearest(features_KF, sample_NF), members, others, rng, check
        ),
        "density": _with_control(scored, members, tested, rng, check),
    }


def _nearest(features_KF: np.ndarray, sample_NF: np.ndarray) -> np.ndarray:
    """Return the squared distance_K to the nearest sample."""
    distance_K: np.ndarray = 2 - 2 * (features_KF @ sample_NF.T).max(axis=1)
    return distance_K


def _density_ratio(sample_NF: np.ndarray, reference_MF: np.ndarray) -> Score:
    """Return a score of images: the log of their density among samples over that in the
    population."""
    both = np.concatenate([sample_NF, reference_MF]).astype(np.float64)
    centre = both.mean(axis=0)
    _, singular, axes = np.linalg.svd(both - centre, full_matrices=False)
    components = min(DIMENSIONS, int((singular > 1e-6 * singular[0]).sum()))
    spread = singular[:components] / np.sqrt(len(both))

    def coordinates(features_KF: np.ndarray) -> np.ndarray:
        placed: np.ndarray = (features_KF - centre) @ axes[:components].T / spread
        return placed

    def log_density(at_KD: np.ndarray, of_ND: np.ndarray) -> np.ndarray:
        width = len(of_ND) ** (-1 / (components + 4))  # Scott's rule
        squared = (at_KD**2).sum(1)[:, None] + (of_ND**2).sum(1)[None] - 2 * at_KD @ of_ND.T
        constant = np.log(len(of_ND)) + components * np.log(width)
        density_K: np.ndarray = logsumexp(-squared / (2 * width**2), axis=1) - constant
        return density_K

    sample_ND, reference_MD = coordinates(sample_NF), coordinates(reference_MF)

    def score(features_KF: np.ndarray) -> np.ndarray:
        at_KD = coordinates(features_KF)
        ratio_K: np.ndarray = log_density(at_KD, sample_ND) - log_density(at_KD, reference_MD)
        return ratio_K

    return score


def _with_control(
    score: Score,
    members: Group,
    others: Group,
    rng: np.random.Generator,
    check: Callable[[], None],
) -> dict[str, Any]:
    patients = rng.permutation(np.unique(others.patients_K))
    one, two = (others.of(half) for half in np.array_split(patients, 2))
    weights = [_resampled(group, rng) for group in (members, one, two)]
    scores = []
    for group in (members, one, two):
        check()
        scores.append(score(group.features_KF))
    of_members, of_one, of_two = scores
    check()
    attack_R = _aucs(
        of_members, np.concatenate([of_one, of_two]), weights[0], np.hstack(weights[1:])
    )
    control_R = _aucs(of_one, of_two, weights[1], weights[2])
    low, high = control_interval = _interval(control_R)
    # Row 0 is the data as they are. The control's halves are interchangeable: its distance from
    # 0.5 counts, not the sign.
    excess_R = attack_R - (0.5 + np.abs(control_R - 0.5))
    return {
        "auc": float(attack_R[0]),
        "interval": _interval(attack_R),
        "control": float(control_R[0]),
        "control_interval": control_interval,
        "control_valid": low <= 0.5 <= high,
        "over_control": bool(np.percentile(excess_R[1:], _LEVELS[0]) > 0),
    }


def _resampled(group: Group, rng: np.random.Generator) -> np.ndarray:
    """Return weights_RK: how often each image is in each resample of the patients; row 0: once."""
    patients, index_K = np.unique(group.patients_K, return_inverse=True)
    share = np.full(len(patients), 1 / len(patients))
    drawn = rng.multinomial(len(patients), share, size=RESAMPLES)
    return np.concatenate([np.ones((1, len(patients))), drawn])[:, index_K]


def _aucs(
    high_K: np.ndarray, low_M: np.ndarray, weights_RK: np.ndarray, weights_RM: np.ndarray
) -> np.ndarray:
    """Return auc_R: weighted shares of pairs in which the first is higher, ties counting half."""
    higher_KM = (high_K[:, None] > low_M).astype(np.float64) + 0.5 * (high_K[:, None] == low_M)
    won_R = ((weights_RK @ higher_KM) * weights_RM).sum(axis=1)
    auc_R: np.ndarray = won_R / (weights_RK.sum(axis=1) * weights_RM.sum(axis=1))
    return auc_R


def _interval(auc_R: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.percentile(auc_R[1:], _LEVELS)]
