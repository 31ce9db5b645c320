"""Membership attacks find what leaks, and nothing where nothing does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hyfree_ray.privacy.membership import MIN_PATIENTS, Group, membership

WIDTH = 24


def features(count: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, WIDTH))
    values[:, 0] += 3
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def group(count: int, seed: int, per_patient: int = 2) -> Group:
    return Group(
        features_KF=features(count, seed), patients_K=seed * 1000 + np.arange(count) // per_patient
    )


def near(real: np.ndarray, count: int, seed: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = real[rng.integers(len(real), size=count)] + rng.normal(0, noise, (count, WIDTH))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("attack", ["nearest", "density"])
def test_a_generator_that_copies_is_found_over_its_control(attack: str) -> None:
    members, others = group(150, 1), group(120, 2)
    samples = near(members.features_KF, 1500, 3, 0.02)
    found = membership(samples, members, others, seed=0)[attack]
    assert found["auc"] > 0.65
    assert found["over_control"]
    assert found["interval"][0] <= found["auc"] <= found["interval"][1]
    assert found["control_interval"][0] < 0.5 < found["control_interval"][1]
    assert found["control_valid"]


@pytest.mark.parametrize("attack", ["nearest", "density"])
def test_where_nothing_leaks_an_attack_is_not_over_its_control(attack: str) -> None:
    """Case 88: nor is there anything in the control."""
    found = [
        membership(features(800, 50 + seed), group(150, 70 + seed), group(120, 90 + seed), seed=0)
        for seed in range(8)
    ]
    for number in ("auc", "control"):
        assert abs(np.mean([one[attack][number] for one in found]) - 0.5) < 0.05, number
    assert all(abs(one[attack]["control"] - 0.5) < 0.2 for one in found)
    assert sum(one[attack]["over_control"] for one in found) <= 1
    assert sum(not one[attack]["control_valid"] for one in found) <= 2


class Unshuffled(np.random.Generator):
    """Splits patients in the order in which they came, which is not by chance."""

    def permutation(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x)


@pytest.mark.parametrize("attack", ["nearest", "density"])
def test_a_control_whose_halves_differ_is_marked_invalid(attack: str) -> None:
    """Case 88: samples that are near to held-out patients of one half of the control only."""
    members, others = group(150, 1), group(120, 2)
    third_quarter = slice(60, 90)
    samples = near(others.features_KF[third_quarter], 1500, 3, 0.05)
    split = Unshuffled(np.random.PCG64(0))
    found = membership(samples, members, others, seed=split)[attack]  # type: ignore[arg-type]
    low, high = found["control_interval"]
    assert not found["control_valid"]
    assert high < 0.5 or low > 0.5
    assert not found["over_control"]
    assert membership(samples, members, others, seed=0)[attack]["control_valid"]  # by chance


def test_too_few_patients_give_words_instead_of_a_number() -> None:
    few = group(2 * (MIN_PATIENTS - 1), 2)
    found = membership(features(100, 0), group(60, 1), few, seed=0)
    assert found == {
        "measurable": False,
        "reason": "not measurable: 19 patients are held out, 20 are needed",
    }
    enough = group(2 * MIN_PATIENTS, 2)
    assert membership(features(100, 0), group(60, 1), enough, seed=0)["measurable"]


def test_intervals_are_over_patients_and_not_over_their_images() -> None:
    members, others = group(150, 1), group(120, 2)
    samples = near(members.features_KF, 1500, 3, 0.05)

    def width(per_patient: int) -> float:
        repeated = [
            Group(
                features_KF=np.repeat(one.features_KF, per_patient, axis=0),
                patients_K=np.repeat(np.arange(len(one.patients_K)), per_patient) + 1000 * shift,
            )
            for shift, one in enumerate((members, others))
        ]
        low, high = membership(samples, *repeated, seed=0)["nearest"]["interval"]
        return float(high - low)

    assert width(4) == pytest.approx(width(1), rel=0.2)


def test_it_is_the_same_for_the_same_seed_and_is_json() -> None:
    arguments = (features(200, 0), group(60, 1), group(60, 2))
    found = membership(*arguments, seed=5)
    assert membership(*arguments, seed=5) == found
    assert json.loads(json.dumps(found)) == found


def test_collapsed_samples_and_equal_features_give_numbers() -> None:
    flat = np.repeat(features(1, 0), 50, axis=0)
    found = membership(flat, group(60, 1), group(60, 2), seed=0)
    assert np.isfinite([found["nearest"]["auc"], found["density"]["auc"]]).all()
