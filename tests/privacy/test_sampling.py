"""Sampling until the quota is met: what is dropped is replaced, and copies end it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.sampling import (
    MAX_DRAWS_PER_IMAGE,
    Draw,
    DrawnSamples,
    draw_until,
    quantise,
    restore,
)
from tests.privacy.test_memorization import by_features, images

REAL = images(40, 0)
NEW = images(600, 7)
MOST = 0.5


@functools.cache
def rule() -> MemorisationFilter:
    return MemorisationFilter.calibrate(REAL, np.arange(40), by_features(), percentile=5)


def generator(copies: float) -> Draw:
    """Honest samples with this share of copies of training images among them."""
    is_copy = np.random.default_rng(0).random(600) < copies
    samples = np.where(is_copy[:, None, None, None], REAL[np.arange(600) % 40], NEW)

    def draw(start: int, count: int) -> Iterator[np.ndarray]:
        for first in range(start, start + count, 16):
            yield samples[first : min(first + 16, start + count)]

    return draw


def draw(quota: int, source: Draw, **options: Any) -> DrawnSamples:
    return draw_until(quota, source, rule(), max_rejection_rate=MOST, **options)


def test_the_quota_is_met_although_copies_are_dropped() -> None:
    drawn = draw(100, generator(0.2))
    assert len(drawn.accepted_NCHW) == 100
    assert drawn.drawn > 100
    assert drawn.reason_to_withhold(MOST) is None


def test_no_planted_copy_is_released() -> None:
    """Case 84."""
    drawn = draw(100, generator(0.2))
    copies = {image.tobytes() for image in quantise(REAL)}
    assert not [image for image in drawn.accepted_NCHW if image.tobytes() in copies]
    assert 0.15 < drawn.rejection_rate < 0.45
    assert set(drawn.rejected_by) == set(rule().names)
    assert 0 < max(drawn.rejected_by.values()) <= drawn.rejected


def test_a_generator_that_mostly_copies_withholds_with_the_reason_in_words() -> None:
    """Cases 86 and 94."""
    drawn = draw(100, generator(0.8))
    reason = drawn.reason_to_withhold(MOST)
    assert reason is not None
    assert "look like copies of training images" in reason
    assert drawn.drawn == 100  # it does not draw on to fill the quota


def test_draws_are_bounded() -> None:
    drawn = draw(100, generator(0.45))
    assert drawn.drawn <= MAX_DRAWS_PER_IMAGE * 100


def test_no_two_accepted_images_are_equal() -> None:
    def twice(start: int, count: int) -> Iterator[np.ndarray]:
        yield NEW[np.arange(start, start + count) // 2]

    drawn = draw(20, twice)
    assert len({image.tobytes() for image in drawn.accepted_NCHW}) == len(drawn.accepted_NCHW)


def test_the_samples_nearest_to_real_images_are_kept_to_be_looked_at() -> None:
    drawn = draw(60, generator(0.2), keep_nearest=5)
    assert drawn.nearest_sample_NCHW.shape == (5, *REAL.shape[1:])
    assert (np.diff(drawn.nearest_N) >= 0).all()
    difference = np.abs(drawn.nearest_sample_NCHW[0] - REAL[drawn.nearest_real_N[0]]).max()
    assert difference < 0.02


def test_storing_costs_at_most_half_a_level() -> None:
    assert np.abs(restore(quantise(NEW)) - NEW).max() <= 1 / 255 + 1e-6


def test_accepted_images_are_known_by_their_numbers_in_the_series() -> None:
    source = generator(0.3)
    drawn = draw(90, source)
    series_NCHW = np.concatenate(list(source(0, drawn.drawn)))
    assert len(drawn.accepted_at_N) == 90
    assert (np.diff(drawn.accepted_at_N) > 0).all()
    np.testing.assert_array_equal(quantise(series_NCHW[drawn.accepted_at_N]), drawn.accepted_NCHW)
