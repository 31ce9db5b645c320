"""Ranks over data sets, against Demsar's worked example and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from hyfree_ray.results.ranks import agreement, complete, critical_difference, rank_methods

DEMSAR = {
    "C4.5": (
        *(0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661),
        *(0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957),
    ),
    "C4.5+m": (
        *(0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668),
        *(0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978),
    ),
    "C4.5+cf": (
        *(0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609),
        *(0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946),
    ),
    "C4.5+m+cf": (
        *(0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685),
        *(0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970),
    ),
}
"""AUC on 14 data sets (Demsar 2006, table 6); two that print alike are ranked apart there."""


def test_ranks_and_tests_are_those_of_demsars_worked_example() -> None:
    found = rank_methods(DEMSAR)
    assert dict(zip(found.methods, found.means, strict=True)) == pytest.approx(
        {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}, abs=5e-4
    )
    assert found.methods[0] == "C4.5+m+cf"
    assert found.chi2 == pytest.approx(9.28, abs=5e-3)
    assert found.f == pytest.approx(3.69, abs=5e-3)
    assert found.f_p < 0.05
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    # Nobody is told from everybody: of all four the extremes are 1.179 apart.
    assert found.cliques() == [(0, 3)]


def test_friedmans_statistic_is_scipys_where_nothing_is_tied() -> None:
    random = np.random.default_rng(3)
    scores = {f"m{k}": random.normal(k / 3, 1, 11).tolist() for k in range(5)}
    found = rank_methods(scores)
    chi2, p = friedmanchisquare(*scores.values())
    assert (found.chi2, found.chi2_p) == (pytest.approx(chi2), pytest.approx(p))


def test_the_critical_difference_is_that_of_a_comparison_of_26_models_on_18_data_sets() -> None:
    assert critical_difference(26, 18) == pytest.approx(9.38, abs=5e-3)
    assert critical_difference(2, 30) == pytest.approx(1.960 / 30**0.5, abs=1e-3)


def test_cliques_are_the_widest_runs_that_are_not_told_apart() -> None:
    always = rank_methods({name: [3.0 - k] * 40 for k, name in enumerate("abc")})
    assert always.means == (1.0, 2.0, 3.0)
    assert (always.cliques(), always.f_p) == ([], 0.0)
    half = {"a": [1.0, 0.9] * 20, "b": [0.9, 1.0] * 20, "c": [0.0] * 40}
    assert rank_methods(half).cliques() == [(0, 1)]
    few = {"a": [3.0] * 4, "b": [2.0] * 4, "c": [1.0] * 4, "d": [0.0] * 4}
    assert rank_methods(few).cliques() == [(0, 2), (1, 3)]  # 2 apart is not told, 3 is


def test_data_sets_without_all_methods_and_methods_mostly_missing_are_left_out() -> None:
    scores = {
        "a": {"x": 0.1, "y": 0.2, "z": 0.3},
        "b": {"x": 0.2, "y": 0.1},
        "c": {"z": 0.5},
    }
    assert complete(scores) == ({"a": [0.1, 0.2], "b": [0.2, 0.1]}, ["c"], ["z"])
    assert complete({}) == ({}, [], [])
    with pytest.raises(ValueError, match="two"):
        rank_methods({"a": [0.1], "b": [0.2]})


def test_a_rank_correlation_is_exact_and_needs_three_that_differ() -> None:
    found = agreement([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5])
    assert found is not None
    assert (found.tau, found.count) == (pytest.approx(13 / 15), 6)
    assert found.p == pytest.approx(12 / 720)  # of 720 orders: one with no inversion, five with one
    assert agreement([1, 2], [2, 1]) is None
    assert agreement([1, 1, 1], [1, 2, 3]) is None
