"""The self-test: recall for altered copies and for a generator's own, apart."""

from __future__ import annotations

import numpy as np

from hyfree_ray.border.privacy_card import UNION
from hyfree_ray.privacy.alterations import ALTERATIONS, noisy, shifted
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.self_test import (
    COPY_CORRELATION,
    MAX_IMAGES,
    REPEATS,
    copy_correlation,
    generated_recall,
    self_test,
)
from tests.privacy.test_memorization import by_features, fitted, images


def test_the_self_test_tells_recall_by_alteration_and_detector_and_over_seeds() -> None:
    real = images(20, 0)
    patients = np.arange(20)
    rule = MemorisationFilter.calibrate(real, patients, by_features(), percentile=5)
    recall, altered = self_test(rule, real, patients, seed=4)
    assert set(recall) == set(ALTERATIONS)
    for by_detector in recall.values():
        assert set(by_detector) == {*rule.names, UNION}
        assert by_detector[UNION] >= max(by_detector.values()) - 1e-9
    assert recall["exact"][UNION] == 1
    assert recall["mirrored"][UNION] >= 0.979
    assert len(altered.by_repeat) == REPEATS
    assert altered.copies == REPEATS * MAX_IMAGES * len(ALTERATIONS)
    told = altered.values()
    assert told["lowest"] <= told["stopped"] <= told["highest"]
    assert self_test(rule, real, patients, seed=4) == (recall, altered)


def test_what_a_generator_copied_is_told_by_pixels_and_apart_from_what_it_invented() -> None:
    rule, real = fitted()
    rng = np.random.default_rng(0)
    copies = shifted(noisy(real[:6, :, :, ::-1], 0.02, rng), 0.03, 0).astype(np.float32)
    samples = np.concatenate([copies, images(20, 77)])
    correlation = copy_correlation(samples, real[:8])
    assert correlation[:6].min() > COPY_CORRELATION > correlation[6:].max()
    generated = generated_recall(rule, np.clip(samples, -1, 1), real[:8], real[8:])
    assert generated is not None
    assert generated.copies == 6
    assert generated.by_name[UNION] == 1


def test_a_generator_that_copies_nothing_measures_nothing() -> None:
    rule, real = fitted()
    assert generated_recall(rule, images(20, 77), real[:8], real[8:]) is None
