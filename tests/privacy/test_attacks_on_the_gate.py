"""Releases that were made to pass the gate, by copying some patients or a little of all.

Features are made up, the statistics and the gate are those that judge releases.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from hyfree_ray.border.gate import Gate, judge_attacks
from hyfree_ray.privacy.audit import TimeLimit, attempt
from hyfree_ray.privacy.membership import Group, Hospital
from tests.privacy.test_membership import unit

WIDTH, IMAGES, MEMBERS, HELD_OUT = 16, 300, 60, 40
NEVER = TimeLimit(seconds=math.inf)
SITES = 8


def hospital(random: np.random.Generator) -> Hospital:
    members, others = (
        Group(
            features_KF=unit(random.normal(size=(count, WIDTH))),
            patients_K=first + np.arange(count),
        )
        for first, count in ((0, MEMBERS), (1000, HELD_OUT))
    )
    return Hospital.of(members, others)


def release(
    random: np.random.Generator, real: Hospital, *, patients: int, copies: int, noise: float
) -> np.ndarray:
    """Honest images, of which some are near copies of the first patients."""
    images = unit(random.normal(size=(IMAGES, WIDTH)))
    originals = real.features_KF[random.integers(0, patients, copies)]
    images[:copies] = unit(originals + noise * unit(random.normal(size=(copies, WIDTH))))
    return images


def closed(released: np.ndarray, real: Hospital) -> bool:
    found = attempt(released, real, NEVER).findings
    return not all(row.passed for row in judge_attacks(found, Gate(), "release"))


def share_closed(
    releases: int, *, patients: int = MEMBERS, copies: int, noise: float = 0.4
) -> float:
    shut = 0
    for site in range(SITES):
        random = np.random.default_rng(site)
        real = hospital(random)
        made = [
            release(random, real, patients=patients, copies=copies, noise=noise)
            for _ in range(releases)
        ]
        shut += closed(np.concatenate(made), real)
    return shut / SITES


@pytest.mark.parametrize(("patients", "copies"), [(1, 30), (1, 90), (3, 90), (6, 90), (60, 90)])
def test_near_copies_close_the_gate_whosever_they_are(patients: int, copies: int) -> None:
    """Of one patient among sixty, whom no mean shows, or of all."""
    assert share_closed(1, patients=patients, copies=copies) >= 0.85


def test_releases_that_pass_one_by_one_close_the_gate_together() -> None:
    """Six near copies of sixty patients, five times over."""
    assert share_closed(1, copies=6, noise=0.5) <= 0.25
    assert share_closed(5, copies=6, noise=0.5) >= 0.75


def test_honest_releases_pass_one_by_one_and_together() -> None:
    assert share_closed(1, copies=0) <= 0.25
    assert share_closed(5, copies=0) <= 0.25
