"""Membership attacks find what leaks, in either direction, and nothing where nothing does."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from hyfree_ray.privacy.membership import (
    ATTACKS,
    FPR,
    MIN_FOR_FPR,
    Attacked,
    Group,
    Hospital,
    attack,
    membership,
)

WIDTH = 24


def unit(values: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / lengths


def features(count: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, WIDTH))
    values[:, 0] += 3
    return unit(values)


def group(count: int, seed: int, per_patient: int = 2) -> Group:
    return Group(
        features_KF=features(count, seed), patients_K=seed * 1000 + np.arange(count) // per_patient
    )


def near(real: np.ndarray, count: int, seed: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit(real[rng.integers(len(real), size=count)] + rng.normal(0, noise, (count, WIDTH)))


def found_by(samples: np.ndarray, members: Group, others: Group) -> dict[str, Any]:
    return membership(attack(samples, Hospital.of(members, others)))


@pytest.mark.parametrize("name", list(ATTACKS))
def test_a_generator_that_copies_is_found(name: str) -> None:
    members, others = group(150, 1), group(90, 2)
    found = found_by(near(members.features_KF, 1500, 3, 0.02), members, others)
    assert found["by_name"][name]["auc"] > 0.65
    assert found["auc_bound"] > 0.6
    assert found["tpr_bound"] > 0.1
    assert found["auc"] >= found["by_name"][name]["auc"]


def test_where_nothing_leaks_little_is_found_beyond_chance() -> None:
    """Case 88: an exact test, at any number of patients; at most one site in twenty is over it."""
    for held_out in (6, 24, 90):
        found = [
            found_by(features(400, 50 + k), group(120, 70 + k), group(held_out, 190 + k))
            for k in range(20)
        ]
        assert sum(one["auc_bound"] > 0.55 for one in found) <= 1
        assert sum(one.get("tpr_bound", 0) > 0.1 for one in found) <= 1


def scored(members: int, held_out: int, auc: float, seed: int) -> Attacked:
    """Scores of a made-up attack with a true AUC."""
    score_P = np.random.default_rng([members, held_out, seed]).normal(size=members + held_out)
    score_P[:members] += np.sqrt(2) * norm.ppf(auc)
    return Attacked(
        score_AP=np.stack([score_P, score_P]),
        member_P=np.arange(members + held_out) < members,
        names=tuple(ATTACKS),
    )


@pytest.mark.parametrize("auc", [0.2, 0.8])
def test_an_attack_that_is_always_wrong_tells_as_much_as_one_that_is_right(auc: float) -> None:
    bounds = [membership(scored(84, 28, auc, k))["auc_bound"] for k in range(10)]
    assert sum(bound > 0.55 for bound in bounds) >= 8


def test_a_few_members_who_stand_out_are_found_at_few_mistakes_though_the_mean_is_at_chance() -> (
    None
):
    """Risk is not on average: a fifth of the members cannot be mistaken, the rest are strangers."""
    for direction in (1, -1):
        made = scored(100, 100, 0.5, 1)
        made.score_AP[:, :20] = direction * 9
        found = membership(made)
        assert abs(found["by_name"]["nearest"]["auc"] - 0.5) < 0.15
        assert found["tpr"] >= 0.2
        assert found["tpr_bound"] > 0.1
        assert found["tpr_at_1"] >= 0.2


def test_that_no_release_lies_near_tells_who_was_not_trained_on() -> None:
    """A filter that leaves nothing within a distance of members has others within it."""
    members, others = group(150, 1), group(120, 2)
    samples = features(3000, 3)
    far = (samples @ members.features_KF.T).max(axis=1) < 0.72
    assert found_by(samples, members, others)["excluded"] < 0.2
    assert found_by(samples[far], members, others)["excluded"] > 0.3


def test_a_share_of_mistakes_needs_as_many_patients_as_one_of_them_is() -> None:
    few = found_by(features(100, 0), group(60, 1), group(2 * (MIN_FOR_FPR - 1), 2))
    assert few["measurable"]
    assert "tpr" not in few
    enough = found_by(features(100, 0), group(60, 1), group(2 * MIN_FOR_FPR, 2))
    assert 0 <= enough["tpr"] <= 1
    assert FPR * MIN_FOR_FPR == 1


def test_with_nobody_held_out_words_stand_in_place_of_numbers() -> None:
    found = found_by(features(100, 0), group(60, 1), group(0, 2))
    assert found == {
        "measurable": False,
        "reason": "not measurable: no patient is held out",
        "members": 30,
        "held_out": 0,
    }


def test_patients_count_and_not_their_images() -> None:
    members, others = group(60, 1), group(40, 2)
    samples = near(members.features_KF, 300, 3, 0.2)
    repeated = [
        Group(
            features_KF=np.repeat(one.features_KF, 4, axis=0),
            patients_K=np.repeat(one.patients_K, 4),
        )
        for one in (members, others)
    ]
    once, often = found_by(samples, members, others), found_by(samples, *repeated)
    assert often["by_name"]["nearest"] == once["by_name"]["nearest"]
    assert often["held_out"] == once["held_out"]


def test_it_depends_on_no_seed_and_is_json() -> None:
    arguments = (features(200, 0), group(60, 1), group(60, 2))
    found = found_by(*arguments)
    assert found_by(*arguments) == found
    assert json.loads(json.dumps(found)) == found


def test_collapsed_samples_and_equal_features_give_numbers() -> None:
    flat = np.repeat(features(1, 0), 50, axis=0)
    found = found_by(flat, group(60, 1), group(60, 2))
    assert np.isfinite([one["auc"] for one in found["by_name"].values()]).all()
    same = Group(features_KF=np.repeat(features(1, 0), 8, axis=0), patients_K=np.arange(8))
    other = Group(features_KF=same.features_KF, patients_K=np.arange(8, 16))
    assert found_by(flat, same, other)["auc_bound"] == 0.5
