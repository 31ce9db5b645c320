"""The filter's self-test: does it stop copies of the site's own training images, as samples?

Copies are of two kinds. Real images that were altered are what an attack on a filter is usually
tried with; near copies that a generator makes itself are what filters miss (2510.01793). The latter
come from a generator that was trained on a few images until it copies them. Which of its samples
are copies is decided by their pixels alone, after a search over small shifts, and not by any
detector under test: one is, if it is far nearer to a training image than any other patient's image
is. A correlation alone would not do, for patients of one site may be alike: on the phantom, images
of two patients reach .9, as does their blurred mean.

Shapes: N samples, M training images, K images that the copying generator was trained on, C
channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyfree_ray.border.privacy_card import UNION
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.privacy.alterations import alterations_of, shifted
from hyfree_ray.privacy.detectors import FAR
from hyfree_ray.privacy.memorization import Judgement, MemorisationFilter

REPEATS = 3
"""Times that the test is repeated, each with a seed of its own."""

MAX_IMAGES = 2
"""Training images that are tried for each alteration and repeat."""

COPY_RATIO = 0.5
"""A sample of the copying generator is a copy where its distance to a training image is less than
that much of the distance from there to the nearest other patient's image. A mean of images is at
.7 of it; Yoon et al. 2023 put the nearest over the second nearest training image."""

MIN_COPIES = 10
"""Fewer copies measure no share."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Shares of copies that the filter stops."""

    by_name: Mapping[str, float]
    """Detector (and `UNION`) -> share."""
    by_repeat: tuple[float, ...]
    """Share that all of them together stop, in each repeat."""
    copies: int

    def values(self) -> dict[str, Any]:
        """Return JSON."""
        return {
            "stopped": self.by_name[UNION],
            "lowest": min(self.by_repeat),
            "highest": max(self.by_repeat),
            "copies": self.copies,
        }


def self_test(
    rule: MemorisationFilter, images_MCHW: np.ndarray, patients_M: np.ndarray, *, seed: int
) -> tuple[dict[str, dict[str, float]], Recall]:
    """Measure recall at the thresholds for altered training images.

    Args:
        rule: the site's filter.
        images_MCHW: the training images that it knows.
        patients_M: whose they are; at least two patients.
        seed: seed of the alterations and of the choice of images.

    Returns:
        Alteration -> detector (and `UNION`) -> share that is stopped; and the recall for all.
    """
    tried = [
        altered_copies(images_MCHW, patients_M, seed=seed_of(seed, "repeat", repeat))
        for repeat in range(REPEATS)
    ]
    count = len(next(iter(tried[0].values())))
    together = rule.judge(np.concatenate([one for by_name in tried for one in by_name.values()]))
    size = len(tried[0]) * count
    judged = [
        _part(together, slice(repeat * size, (repeat + 1) * size)) for repeat in range(REPEATS)
    ]
    recall = {}
    for index, name in enumerate(tried[0]):
        part = slice(index * count, (index + 1) * count)
        recall[name] = _shares(rule, [_part(one, part) for one in judged])
    return recall, _recall(rule, judged)


def generated_recall(
    rule: MemorisationFilter,
    samples_NCHW: np.ndarray,
    copied_K: np.ndarray,
    images_MCHW: np.ndarray,
    patients_M: np.ndarray,
) -> Recall | None:
    """Measure recall for the copies among the samples of a generator that copies.

    Args:
        rule: the site's filter; it knows the images that the generator was trained on.
        samples_NCHW: in [-1, 1]; in the order of drawing they are parted into repeats.
        copied_K: indices of the images that it was trained on.
        images_MCHW: the training images that the filter knows.
        patients_M: whose they are; at least two patients.

    Returns:
        None if the generator made fewer copies than `MIN_COPIES`: nothing was measured.
    """
    copies_NCHW = samples_NCHW[copied(samples_NCHW, copied_K, images_MCHW, patients_M)]
    if len(copies_NCHW) < MIN_COPIES:
        return None
    judged = rule.judge(copies_NCHW)
    parts = np.array_split(np.arange(len(copies_NCHW)), REPEATS)
    return _recall(rule, [_part(judged, part) for part in parts])


def copied(
    samples_NCHW: np.ndarray,
    copied_K: np.ndarray,
    images_MCHW: np.ndarray,
    patients_M: np.ndarray,
) -> np.ndarray:
    """Return, for each sample, whether it is a copy of one of the images `copied_K`."""
    real_KCHW = images_MCHW[copied_K]
    other_MK = np.where(
        patients_M[:, None] == patients_M[copied_K], FAR, distances(images_MCHW, real_KCHW)
    )
    limit_K = COPY_RATIO * other_MK.min(axis=0)
    found_N: np.ndarray = (distances(samples_NCHW, real_KCHW) < limit_K).any(axis=1)
    return found_N


def distances(samples_NCHW: np.ndarray, real_KCHW: np.ndarray) -> np.ndarray:
    """Return the distance_NK of standardised pixels, 0 to 2, from each sample to each real image,
    in the nearest of four mirrorings and of shifts by up to a thirty-second of the image."""
    step = np.arange(-2, 3) / 64
    query_NP = _standardised(samples_NCHW)
    best_NK = np.full((len(samples_NCHW), len(real_KCHW)), -1.0)
    for down in step:
        for right in step:
            moved_KCHW = shifted(real_KCHW, down, right)
            for rows in (1, -1):
                for columns in (1, -1):
                    known_KP = _standardised(moved_KCHW[..., ::rows, ::columns])
                    best_NK = np.maximum(best_NK, query_NP @ known_KP.T)
    distance_NK: np.ndarray = np.sqrt(np.maximum(2 - 2 * best_NK, 0))
    return distance_NK


def _standardised(images_NCHW: np.ndarray) -> np.ndarray:
    flat_NP = images_NCHW.reshape(len(images_NCHW), -1).astype(np.float64)
    centred_NP = flat_NP - flat_NP.mean(axis=1, keepdims=True)
    unit_NP: np.ndarray = centred_NP / np.maximum(
        np.linalg.norm(centred_NP, axis=1, keepdims=True), 1e-9
    )
    return unit_NP


def altered_copies(
    images_MCHW: np.ndarray, patients_M: np.ndarray, *, seed: int
) -> dict[str, np.ndarray]:
    """Alter some training images in every way, each way others.

    Args:
        images_MCHW: the training images.
        patients_M: whose they are; at least two patients.
        seed: seed of the choice of images and of the alterations.

    Returns:
        Alteration -> images_NCHW in [-1, 1], at most `MAX_IMAGES`.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for name, alter in alterations_of(images_MCHW.shape[1]).items():
        chosen_N = rng.permutation(len(images_MCHW))[:MAX_IMAGES]
        other_N = [
            rng.choice(np.flatnonzero(patients_M != patient)) for patient in patients_M[chosen_N]
        ]
        altered_NCHW = alter(images_MCHW[chosen_N], images_MCHW[other_N], rng)
        found[name] = np.clip(altered_NCHW, -1, 1).astype(np.float32)
    return found


def _part(judged: Judgement, part: slice | np.ndarray) -> Judgement:
    return Judgement(nearness_ND=judged.nearness_ND[part], nearest_ND=judged.nearest_ND[part])


def _shares(rule: MemorisationFilter, judged: list[Judgement]) -> dict[str, float]:
    """Return the share that is stopped by each detector, and by any."""
    copied_ND = np.concatenate([one.copied_ND for one in judged])
    shares = dict(zip(rule.names, copied_ND.mean(axis=0).tolist(), strict=True))
    return shares | {UNION: float(copied_ND.any(axis=1).mean())}


def _recall(rule: MemorisationFilter, judged: list[Judgement]) -> Recall:
    return Recall(
        by_name=_shares(rule, judged),
        by_repeat=tuple(float(one.copied_N.mean()) for one in judged),
        copies=sum(len(one.copied_N) for one in judged),
    )
