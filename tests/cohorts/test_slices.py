"""Which slices of a volume count, from headers alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyfree_ray.cohorts.slices import generator_slices, slice_axis


@pytest.mark.parametrize(
    ("count", "spacing", "expected"),
    [
        (7, 5.0, [0, 1, 2, 3, 4, 5, 6]),
        (7, 4.0, [0, 1, 2, 3, 4, 5, 6]),
        (7, 3.9, [1, 3, 5]),
        (12, 1.0, [2, 6, 10]),
        (11, 0.800000011920929, [2, 7]),
        (11, 0.7999999, [2, 7]),
        (1, 999.0, [0]),
        (1, 1.0, [0]),
        (2, 0.5, [0]),
    ],
)
def test_a_generator_sees_slices_at_least_four_mm_apart(
    count: int, spacing: float, expected: list[int]
) -> None:
    assert list(generator_slices(count, spacing)) == expected


@given(st.integers(1, 400), st.floats(0.05, 12))
def test_slices_are_as_many_as_the_rule_says_to_within_one(count: int, spacing: float) -> None:
    chosen = generator_slices(count, spacing)
    step = 1 if spacing >= 4 else math.ceil(4 / spacing - 1e-3)
    assert chosen[0] >= 0
    assert chosen[-1] < count
    assert abs(len(chosen) - count / step) <= 1


def test_the_axis_is_that_of_the_greatest_median_spacing_and_the_first_of_equal_ones() -> None:
    assert slice_axis([]) == 0
    assert slice_axis([(1.0, 1.0, 1.0)]) == 0
    assert slice_axis([(1.0, 0.5, 3.0), (1.0, 0.5, 3.0), (9.0, 0.5, 3.0)]) == 2
    assert slice_axis([(1.0, 2.0, 2.0)]) == 1
