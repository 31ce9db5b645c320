"""The risk of each patient who was trained on, for the hospital alone.

Means over patients hide the one who stands out. A patient is looked at in four ways: how near a
release lies; how many released images have nobody nearer; the generator's own loss, which is low
for what it was trained on (Yeom et al. 2018, arXiv 1709.01604, section 3.2); and, where the
hospital has trained several generators on different patients, that loss beside its loss under those
that never saw the patient (Carlini et al. 2022, arXiv 2112.03570, algorithm 1, offline with one
variance for all: a handful of trainings cannot give each patient one of their own).

Shapes: N images, P patients, W ways of looking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hyfree_ray.privacy.concentration import Concentration
from hyfree_ray.privacy.membership import Hospital


@dataclass(frozen=True, kw_only=True)
class Losses:
    """A generator's loss of a hospital's images."""

    loss_N: np.ndarray
    patients_N: np.ndarray
    training_N: np.ndarray
    """Which it was trained on."""

    def by_patient(self, *, members: bool) -> dict[int, float]:
        """Return the mean of the logarithm of the loss, of those trained on or of the others."""
        patients = sorted(set(self.patients_N[self.training_N == members].tolist()))
        log_N = np.log(np.maximum(self.loss_N, 1e-12))
        return {p: float(log_N[self.patients_N == p].mean()) for p in patients}


@dataclass(frozen=True, kw_only=True)
class PatientRisk:
    """A patient who was trained on. None: it could not be measured."""

    patient: int
    """As the hospital numbers its patients."""
    nearness: float | None
    """Distance of the nearest release, over that of the median held-out patient: below 1 is nearer
    than chance gives."""
    nearest_images: int
    """Released images to whom no other patient is nearer."""
    nearest_over_chance: float
    """That, over what is expected of so many real images."""
    conspicuous_images: int | None
    """Released images that are nearer than honest ones are in 99 of 100 cases."""
    loss: float | None
    """Logarithm of the generator's loss, less that of the median held-out patient."""
    likelihood_ratio: float | None
    """Standard deviations by which the loss is below that of generators without the patient."""
    risk: float
    """The highest, over all of these, of the share of other patients who are less exposed."""

    def row(self) -> dict[str, Any]:
        """Return JSON."""
        return asdict(self)


def patient_risks(
    sample_NF: np.ndarray,
    real: Hospital,
    near: Concentration | None,
    target: Losses | None,
    others: Sequence[Losses] = (),
) -> list[PatientRisk]:
    """Rank the patients who were trained on by their risk, the highest first.

    Args:
        sample_NF: features of the released images, of length 1.
        real: the hospital's patients, with their features.
        near: releases conspicuously near to one patient; None: too few patients to say.
        target: the generator's losses; None: its backend has no loss of an image.
        others: those of the hospital's other generators.
    """
    similar_NK = sample_NF @ real.features_KF.T
    distance_P = np.sqrt(np.maximum(2 - 2 * real.highest(similar_NK.max(axis=0)), 0))
    count_P = np.bincount(real.index_K[similar_NK.argmax(axis=1)], minlength=len(real.patients_P))
    images_P = np.bincount(real.index_K)
    over_P = count_P / np.maximum(len(sample_NF) * images_P / images_P.sum(), 1e-12)
    held_out_P = ~real.member_P
    usual = float(np.median(distance_P[held_out_P])) if held_out_P.any() else None
    loss, usual_loss = _own_losses(target)
    ratio = likelihood_ratios(target, others) if target is not None else {}
    conspicuous_P = None if near is None else near.count_P
    number = [int(patient) for patient in real.patients_P]
    ways = [-distance_P, over_P, _by_number({p: -v for p, v in loss.items()}, number)]
    if conspicuous_P is not None:
        ways.append(conspicuous_P.astype(float))
    if ratio:
        ways.append(_by_number(ratio, number))
    above_WP = np.stack([less_exposed(way_P) for way_P in ways])
    order = sorted(
        np.flatnonzero(real.member_P),
        key=lambda p: (np.nanmax(above_WP[:, p]), np.nanmean(above_WP[:, p])),
        reverse=True,
    )
    return [
        PatientRisk(
            patient=number[p],
            nearness=float(distance_P[p] / usual) if usual else None,
            nearest_images=int(count_P[p]),
            nearest_over_chance=float(over_P[p]),
            conspicuous_images=None if conspicuous_P is None else int(conspicuous_P[p]),
            loss=loss[number[p]] - usual_loss
            if number[p] in loss and usual_loss is not None
            else None,
            likelihood_ratio=ratio.get(number[p]),
            risk=float(np.nanmax(above_WP[:, p])),
        )
        for p in order
    ]


def _own_losses(target: Losses | None) -> tuple[dict[int, float], float | None]:
    """Return the loss of all patients, and that of the median held-out one."""
    if target is None:
        return {}, None
    held_out = target.by_patient(members=False)
    usual = float(np.median(list(held_out.values()))) if held_out else None
    return held_out | target.by_patient(members=True), usual


def _by_number(value: Mapping[int, float], number: Sequence[int]) -> np.ndarray:
    return np.array([value.get(p, np.nan) for p in number])


def less_exposed(value_P: np.ndarray) -> np.ndarray:
    """Return the share_P of the other patients with a lower value; NaN where there is none."""
    lower_PP = value_P[None, :] < value_P[:, None]
    others = max(int((~np.isnan(value_P)).sum()) - 1, 1)
    share_P: np.ndarray = np.where(np.isnan(value_P), np.nan, lower_PP.sum(axis=1) / others)
    return share_P


def likelihood_ratios(target: Losses, others: Sequence[Losses]) -> dict[int, float]:
    """Return, by patient who was trained on, how unusual the loss is for one who was not.

    Each generator's losses are taken from that of its median held-out patient, so that a longer or
    luckier training does not count as a memory.

    Args:
        target: losses of the generator that is released from.
        others: of generators of the same settings, each trained on other patients.

    Returns:
        Of the patients whom some other generator was not trained on; positive where the loss is
        lower than without them. Empty without such patients.
    """
    without: dict[int, list[float]] = {}
    for one in others:
        held_out, usual = _own_losses_of_held_out(one)
        for patient, loss in held_out.items():
            without.setdefault(patient, []).append(loss - usual)
    _, usual = _own_losses_of_held_out(target)
    members = target.by_patient(members=True)
    known = sorted(without.keys() & members.keys())
    if not known:
        return {}
    spread = float(np.std([loss for losses in without.values() for loss in losses]))
    if spread == 0:
        return {}
    return {
        patient: float((np.mean(without[patient]) - (members[patient] - usual)) / spread)
        for patient in known
    }


def _own_losses_of_held_out(one: Losses) -> tuple[dict[int, float], float]:
    held_out = one.by_patient(members=False)
    return held_out, float(np.median(list(held_out.values()))) if held_out else 0.0
