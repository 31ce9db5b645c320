"""The self-test: recall for altered copies and for a generator's own, apart."""

from __future__ import annotations

import numpy as np

from hyfree_ray.border.privacy_card import UNION
from hyfree_ray.privacy.alterations import alterations_of, noisy, shifted
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.self_test import (
    MAX_IMAGES,
    REPEATS,
    altered_copies,
    copied,
    generated_recall,
    self_test,
)
from tests.privacy.test_memorization import by_features, fitted, images


def test_the_self_test_tells_recall_by_alteration_and_detector_and_over_seeds() -> None:
    real = images(20, 0)
    patients = np.arange(20)
    rule = MemorisationFilter.calibrate(real, patients, by_features(), percentile=5)
    recall, altered = self_test(rule, real, patients, seed=4)
    assert set(recall) == set(alterations_of(1))
    for by_detector in recall.values():
        assert set(by_detector) == {*rule.names, UNION}
        assert by_detector[UNION] >= max(by_detector.values()) - 1e-9
    assert recall["exact"][UNION] == 1
    assert recall["mirrored"][UNION] >= 0.979
    assert len(altered.by_repeat) == REPEATS
    assert altered.copies == REPEATS * MAX_IMAGES * len(recall)
    told = altered.values()
    assert told["lowest"] <= told["stopped"] <= told["highest"]
    assert self_test(rule, real, patients, seed=4) == (recall, altered)


def test_what_a_generator_copied_is_told_by_pixels_and_apart_from_what_it_invented() -> None:
    rule, real = fitted()
    rng = np.random.default_rng(0)
    again = np.concatenate([real[:6], real[:6]])
    copies = shifted(noisy(again[:, :, :, ::-1], 0.02, rng), 0.03, 0).astype(np.float32)
    samples = np.clip(np.concatenate([copies, images(20, 77)]), -1, 1)
    found_N = copied(samples, np.arange(8), real, np.arange(20))
    assert found_N.tolist() == [True] * 12 + [False] * 20
    generated = generated_recall(rule, samples, np.arange(8), real, np.arange(20))
    assert generated is not None
    assert generated.copies == 12
    assert generated.by_name[UNION] == 1


def test_patients_who_are_alike_and_their_mean_are_no_copies_of_each_other() -> None:
    """Two patients' pixels correlate by .9 and more, those of their mean and either by more yet."""
    alike = 0.25 * images(20, 5) + np.clip(images(1, 6), -0.7, 0.7)
    flat = alike.reshape(20, -1)
    assert np.corrcoef(flat)[0, 1:].max() > 0.9
    strangers = 0.25 * images(20, 7) + np.clip(images(1, 6), -0.7, 0.7)
    means = np.stack([alike[:8].mean(axis=0), alike.mean(axis=0), alike[:2].mean(axis=0)])
    samples = np.concatenate([strangers, means])
    assert not copied(samples, np.arange(8), alike, np.arange(20)).any()
    assert copied(alike[:8], np.arange(8), alike, np.arange(20)).all()


def test_a_generator_that_makes_a_few_copies_measures_nothing() -> None:
    rule, real = fitted()
    few = np.concatenate([real[:8], real[:1], images(20, 77)])
    assert generated_recall(rule, few, np.arange(8), real, np.arange(20)) is None


def test_at_a_site_of_few_patients_thresholds_rise_until_altered_copies_are_stopped() -> None:
    """Seen with four patients: a lower prediction limit let 38 % of altered copies pass."""
    # Patients of whom some are alike and some are not: the limit is far below all of them.
    common = images(1, 9)
    real = np.concatenate(
        [(1 - w) * images(8, k) + w * common for k, w in enumerate((0, 0.1, 0.5, 0.8))]
    ).astype(np.float32)
    patients = np.repeat(np.arange(4), 8)
    rule = MemorisationFilter.calibrate(real, patients, by_features(), percentile=5)
    copies = np.concatenate(list(altered_copies(real, patients, seed=1).values()))
    raised = rule.raised(copies, recall=0.95)
    others = np.concatenate(list(altered_copies(real, patients, seed=2).values()))
    before, after = rule.judge(others).copied_N.mean(), raised.judge(others).copied_N.mean()
    assert before < 0.9
    assert after > before + 0.05
    assert raised.calibration_rejected <= 0.05 + 1 / len(real)
    assert all(a >= b for a, b in zip(raised.thresholds, rule.thresholds, strict=True))


def test_thresholds_that_stop_enough_copies_stay_as_they_are() -> None:
    rule, real = fitted()
    assert rule.raised(real[:8], recall=0.95).thresholds == rule.thresholds
