"""Membership attacks on a release: can it be told which patients were trained on?

An attack gives every patient of the hospital one number. Patients were trained on or held out by
chance, so where nothing leaks any other choice of as many patients would have been as likely: the
attack is repeated on random choices, and what it finds there is chance. That is exact at any number
of patients, for the maximum over attacks and in both directions (an AUC of 0.2 tells as much as one
of 0.8), and no split of the held-out patients, and no seed of one, decides.

Shapes: N synthetic images, K real images, P patients, R choices, A attacks, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata

CHOICES = 2000
"""Random choices of the patients that count as trained on."""

LEVEL = 0.05
"""Probability that a bound lies above what is true."""

FPR = 0.05
"""Share of the held-out patients that an attack may take for members by mistake."""
MIN_FOR_FPR = 20
"""Held-out patients of whom one is that share."""
MIN_FOR_LOW_FPR = 100
"""Held-out patients of whom one is 1 %."""

DIMENSIONS = 8
"""Principal components in which densities are estimated; with more, densities are meaningless."""

ROWS = 256
"""Real images compared at a time, to bound memory."""

_VALUES = 1 << 22
"""Numbers in a chunk of random choices, to bound memory."""

Check = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Real images whose membership is known."""

    features_KF: np.ndarray
    """Each row of length 1."""
    patients_K: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """All real images of a hospital, trained on or held out."""

    features_KF: np.ndarray
    index_K: np.ndarray
    """The patient of each image, as an index into `patients_P`."""
    patients_P: np.ndarray
    member_P: np.ndarray
    """Whether each patient was trained on."""

    @classmethod
    def of(cls, members: Group, others: Group) -> Hospital:
        """Join the images of the patients that were trained on and of those that were not."""
        patients_K = np.concatenate([members.patients_K, others.patients_K])
        patients_P, index_K = np.unique(patients_K, return_inverse=True)
        return cls(
            features_KF=np.concatenate([members.features_KF, others.features_KF]),
            index_K=index_K,
            patients_P=patients_P,
            member_P=np.isin(patients_P, members.patients_K),
        )

    def with_members(self, patients: Collection[int]) -> Hospital:
        """Return the hospital where these patients were trained on, too."""
        return replace(self, member_P=self.member_P | np.isin(self.patients_P, list(patients)))

    def highest(self, value_K: np.ndarray) -> np.ndarray:
        """Return value_P: that of each patient's highest image."""
        value_P = np.full(len(self.patients_P), -np.inf)
        np.maximum.at(value_P, self.index_K, value_K)
        return value_P


def by_nearness(sample_NF: np.ndarray, real: Hospital, check: Check) -> np.ndarray:
    """Return score_P: how near a release lies to a patient (Chen et al. 2020, full black-box)."""
    parts = []
    for start in range(0, len(real.features_KF), ROWS):
        check()
        parts.append((real.features_KF[start : start + ROWS] @ sample_NF.T).max(axis=1))
    return real.highest(np.concatenate(parts))


def by_density(sample_NF: np.ndarray, real: Hospital, check: Check) -> np.ndarray:
    """Return score_P: log density among the releases over that among all other patients' images.

    DOMIAS (van Breugel et al. 2023, equation 2). The population is known by leaving out each
    patient in turn, so that all of them can be attacked and none is split off.
    """
    both = np.concatenate([sample_NF, real.features_KF]).astype(np.float64)
    centre = both.mean(axis=0)
    _, singular, axes = np.linalg.svd(both - centre, full_matrices=False)
    components = max(1, min(DIMENSIONS, int((singular > 1e-6 * singular[0]).sum())))
    spread = np.maximum(singular[:components], 1e-12) / np.sqrt(len(both))
    sample_ND, real_KD = (
        (features - centre) @ axes[:components].T / spread
        for features in (sample_NF, real.features_KF)
    )
    ratio_K = []
    for start in range(0, len(real_KD), ROWS):
        check()
        rows = slice(start, start + ROWS)
        own = real.index_K[rows, None] == real.index_K
        ratio_K.append(
            _log_density(real_KD[rows], sample_ND)
            - _log_density(real_KD[rows], real_KD, without=own)
        )
    return real.highest(np.concatenate(ratio_K))


def _log_density(
    at_KD: np.ndarray, of_ND: np.ndarray, without: np.ndarray | None = None
) -> np.ndarray:
    """Return log_density_K of a Gaussian kernel estimate, up to a constant that is the same for
    all."""
    width = len(of_ND) ** (-1 / (of_ND.shape[1] + 4))  # Scott's rule
    squared_KN = (at_KD**2).sum(1)[:, None] + (of_ND**2).sum(1)[None] - 2 * at_KD @ of_ND.T
    exponent_KN = -squared_KN / (2 * width**2)
    if without is None:
        density_K: np.ndarray = logsumexp(exponent_KN, axis=1) - np.log(len(of_ND))
        return density_K
    counted_K = np.maximum((~without).sum(axis=1), 1)
    lowest = exponent_KN.min() - 100  # finite where a patient has no others at all
    left_KN = np.where(without, lowest, exponent_KN)
    left_K: np.ndarray = logsumexp(left_KN, axis=1) - np.log(counted_K)
    return left_K


ATTACKS: Mapping[str, Callable[[np.ndarray, Hospital, Check], np.ndarray]] = {
    "nearest": by_nearness,
    "density": by_density,
}
"""Scores of all patients: higher for those that look trained on."""


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What attacks on P patients find, beside what they find by chance."""

    score_AP: np.ndarray
    member_P: np.ndarray
    names: tuple[str, ...]
    """Of the attacks."""

    @property
    def held_out(self) -> int:
        """Return the number of patients that were not trained on."""
        return int((~self.member_P).sum())

    @cached_property
    def _choice_RP(self) -> np.ndarray:
        """The patients that count as members; row 0 has those that are. Fixed: no seed decides."""
        random = np.random.default_rng(0)
        drawn_RP = random.permuted(np.tile(self.member_P, (CHOICES, 1)), axis=1)
        return np.concatenate([self.member_P[None], drawn_RP])

    @cached_property
    def auc_RA(self) -> np.ndarray:
        """AUCs; row 0 is the attack, the others are chance."""
        rank_AP = rankdata(self.score_AP, axis=1)
        members = int(self.member_P.sum())
        won_RA = self._choice_RP @ rank_AP.T - members * (members + 1) / 2
        auc_RA: np.ndarray = won_RA / (members * self.held_out)
        return auc_RA

    def tpr_RA(self, fpr: float, choice_RP: np.ndarray | None = None) -> np.ndarray:
        """Return the share of members recognised while `fpr` of the held-out patients are mistaken.

        By the better of both directions: members may be those near to a release, or those whom no
        release lies near.
        """
        choice_RP = self._choice_RP if choice_RP is None else choice_RP
        step = max(1, _VALUES // choice_RP.shape[1])
        parts = [
            np.stack(
                [
                    np.maximum(
                        _tpr(score_P, choice_RP[start : start + step], fpr),
                        _tpr(-score_P, choice_RP[start : start + step], fpr),
                    )
                    for score_P in self.score_AP
                ],
                axis=1,
            )
            for start in range(0, len(choice_RP), step)
        ]
        return np.concatenate(parts)

    def excluded(self) -> float:
        """Return the share of held-out patients known not to be members while `FPR` of the members
        are mistaken for such: the filter leaves nothing near members, and near others it does."""
        return float(_tpr(self.score_AP[0], ~self.member_P[None], FPR)[0])


def _tpr(score_P: np.ndarray, choice_RP: np.ndarray, fpr: float) -> np.ndarray:
    """Return the share_R of the chosen that score above all but `fpr` of the others."""
    others = int((~choice_RP[0]).sum())
    mistaken = int(fpr * others + 1e-9)
    other_RP = np.where(choice_RP, -np.inf, score_P)
    place = score_P.size - 1 - mistaken
    bar_R = np.partition(other_RP, place, axis=1)[:, place]
    above_RP = choice_RP & (score_P > bar_R[:, None])
    share_R: np.ndarray = above_RP.sum(axis=1) / choice_RP[0].sum()
    return share_R


def attack(sample_NF: np.ndarray, real: Hospital, *, check: Check = lambda: None) -> Attacked:
    """Attack the patients of a hospital by the images of a release.

    Args:
        sample_NF: features of the released images, of length 1.
        real: the hospital's patients.
        check: called between steps; an exception from it ends the attacks.
    """
    scores = [score(sample_NF, real, check) for score in ATTACKS.values()]
    return Attacked(score_AP=np.stack(scores), member_P=real.member_P, names=tuple(ATTACKS))


def membership(attacked: Attacked) -> dict[str, Any]:
    """Return what attacks find, and what of it is more than chance.

    Returns:
        JSON for `privacy_card.Attacks`: the attacks by name, and the strongest with its bounds.
        `auc_bound` and `tpr_bound` are lower bounds at 95 %: the strongest attack less what the
        strongest finds by chance in all but `LEVEL` of the choices.
    """
    members, held_out = int(attacked.member_P.sum()), attacked.held_out
    if not held_out:
        reason = "not measurable: no patient is held out"
        return {"measurable": False, "reason": reason, "members": members, "held_out": 0}
    strength_R = np.abs(attacked.auc_RA - 0.5).max(axis=1)
    chance = float(np.quantile(strength_R, 1 - LEVEL, method="higher"))
    found: dict[str, Any] = {
        "measurable": True,
        "members": members,
        "held_out": held_out,
        "auc": float(0.5 + strength_R[0]),
        "chance": 0.5 + chance,
        "auc_bound": float(max(0.5, 0.5 + strength_R[0] - chance)),
        "by_name": {
            name: {"auc": float(attacked.auc_RA[0, a])} for a, name in enumerate(attacked.names)
        },
    }
    if held_out >= MIN_FOR_FPR:
        tpr_RA = attacked.tpr_RA(FPR)
        highest_R = tpr_RA.max(axis=1)
        by_chance = float(np.quantile(highest_R, 1 - LEVEL, method="higher"))
        found |= {
            "tpr": float(highest_R[0]),
            "tpr_bound": float(np.clip(FPR + highest_R[0] - by_chance, 0, 1)),
        }
        for a, name in enumerate(attacked.names):
            found["by_name"][name]["tpr"] = float(tpr_RA[0, a])
    if held_out >= MIN_FOR_LOW_FPR:
        found["tpr_at_1"] = float(attacked.tpr_RA(0.01, attacked.member_P[None]).max())
    if members >= MIN_FOR_FPR:
        found["excluded"] = attacked.excluded()
    return found
