"""The risk of each patient: who stands out, in each of the ways in which one can."""

from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.privacy.concentration import concentration
from hyfree_ray.privacy.membership import Group, Hospital
from hyfree_ray.privacy.risk import (
    Losses,
    PatientRisk,
    less_exposed,
    likelihood_ratios,
    patient_risks,
)

PATIENTS, IMAGES, FEATURES = 24, 3, 12
MEMBERS = 16


def unit(values_NF: np.ndarray) -> np.ndarray:
    return values_NF / np.linalg.norm(values_NF, axis=1, keepdims=True)


def hospital(random: np.random.Generator) -> Hospital:
    """Patients 0 to 15 were trained on, the others held out; three images each."""
    centre_PF = random.normal(size=(PATIENTS, FEATURES))
    features = centre_PF.repeat(IMAGES, 0) + 0.5 * random.normal(size=(72, FEATURES))
    patients_K = np.arange(PATIENTS).repeat(IMAGES)
    members = patients_K < MEMBERS
    return Hospital.of(
        *(
            Group(features_KF=unit(features[part_K]), patients_K=patients_K[part_K])
            for part_K in (members, ~members)
        )
    )


def losses(
    random: np.random.Generator, members: range, low: dict[int, float] | None = None
) -> Losses:
    """All losses alike but for these patients, whose logarithm is lower by so much."""
    patients_N = np.arange(PATIENTS).repeat(IMAGES)
    shift_N = np.array([(low or {}).get(int(p), 0.0) for p in patients_N])
    return Losses(
        loss_N=np.exp(0.1 * random.normal(size=len(patients_N)) - shift_N),
        patients_N=patients_N,
        training_N=np.isin(patients_N, members),
    )


def ranked(copied: int | None = None, low: int | None = None) -> list[PatientRisk]:
    random = np.random.default_rng(3)
    real = hospital(random)
    sample_NF = unit(random.normal(size=(60, FEATURES)))
    if copied is not None:
        of_patient = np.flatnonzero(real.patients_P[real.index_K] == copied)
        sample_NF[:9] = unit(
            real.features_KF[of_patient].repeat(3, 0) + 0.02 * random.normal(size=(9, FEATURES))
        )
    target = losses(random, range(MEMBERS), {} if low is None else {low: 1.0})
    return patient_risks(sample_NF, real, concentration(sample_NF, real), target)


def test_each_patient_who_was_trained_on_is_there_once_and_nobody_else() -> None:
    assert sorted(one.patient for one in ranked()) == list(range(MEMBERS))


def test_a_patient_whose_images_are_copied_comes_first() -> None:
    first, *others = ranked(copied=5)
    assert first.patient == 5
    assert first.risk == 1
    assert first.nearness is not None
    assert first.nearness < 0.3
    assert first.nearest_images >= 9
    assert first.nearest_over_chance > 3
    assert first.conspicuous_images is not None
    assert first.conspicuous_images >= 9
    assert all(one.nearest_images < first.nearest_images for one in others)


def test_a_patient_whom_the_generator_knows_by_heart_is_seen_though_no_release_shows_it() -> None:
    rows = ranked(low=11)
    (known,) = [one for one in rows if one.patient == 11]
    assert known.risk == 1
    assert known.loss is not None
    assert known.loss < -0.7
    assert all(one.loss > known.loss + 0.5 for one in rows if one is not known and one.loss)


def test_a_generator_without_a_loss_leaves_the_column_empty() -> None:
    random = np.random.default_rng(0)
    real = hospital(random)
    sample_NF = unit(random.normal(size=(60, FEATURES)))
    rows = patient_risks(sample_NF, real, None, None)
    assert len(rows) == MEMBERS
    for one in rows:
        assert (one.loss, one.likelihood_ratio, one.conspicuous_images) == (None, None, None)
        assert 0 <= one.risk <= 1


def test_without_held_out_patients_nearness_is_not_compared_with_chance() -> None:
    random = np.random.default_rng(0)
    patients_K = np.arange(6).repeat(2)
    images = Group(features_KF=unit(random.normal(size=(12, 4))), patients_K=patients_K)
    nobody = Group(features_KF=np.empty((0, 4)), patients_K=np.empty(0, np.int64))
    real = Hospital.of(images, nobody)
    rows = patient_risks(unit(random.normal(size=(9, 4))), real, None, None)
    assert len(rows) == 6
    assert all(one.nearness is None for one in rows)


def test_a_loss_that_is_low_with_and_without_the_patient_is_no_memory() -> None:
    """An easy image has a low loss under every generator; a remembered one under its own alone."""
    random = np.random.default_rng(1)
    easy, known = 2, 7
    target = losses(random, range(MEMBERS), {easy: 1.0, known: 1.0})
    others = [losses(random, range(8, PATIENTS), {easy: 1.0}) for _ in range(3)]
    ratio = likelihood_ratios(target, others)
    assert sorted(ratio) == list(range(8))  # those whom another generator never saw
    assert max(ratio, key=lambda patient: ratio[patient]) == known
    assert ratio[known] > 2
    assert abs(ratio[easy]) < 1


def test_a_generator_that_was_trained_longer_does_not_count_as_a_memory() -> None:
    random = np.random.default_rng(2)
    target = losses(random, range(MEMBERS), dict.fromkeys(range(PATIENTS), 0.5))
    ratio = likelihood_ratios(target, [losses(random, range(8, PATIENTS)) for _ in range(3)])
    assert abs(np.mean(list(ratio.values()))) < 1


def test_one_training_only_gives_no_ratio() -> None:
    random = np.random.default_rng(2)
    target = losses(random, range(MEMBERS))
    assert likelihood_ratios(target, []) == {}
    assert likelihood_ratios(target, [losses(random, range(MEMBERS))]) == {}


def test_those_who_are_less_exposed_are_counted_without_who_could_not_be_measured() -> None:
    share_P = less_exposed(np.array([3.0, 1.0, np.nan, 2.0, 2.0]))
    assert share_P[[0, 1, 3, 4]] == pytest.approx([1, 0, 1 / 3, 1 / 3])
    assert np.isnan(share_P[2])
