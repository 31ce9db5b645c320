from __future__ import annotations

import numpy as np
import pytest

from hyfree_ray.contrasts import Contrast, contrast, interval, signed


def normal(mean: float, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.05, count)


def test_the_interval_is_that_of_a_bootstrap_written_out() -> None:
    strata = [normal(0.02, 12), normal(0.1, 31, seed=1)]
    random = np.random.default_rng(5)
    means = [
        np.mean([random.choice(stratum, len(stratum)).mean() for stratum in strata])
        for _ in range(4000)
    ]
    low, high = interval(strata, seed=0)
    assert [low, high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.002)


def test_the_interval_holds_the_truth_about_19_times_in_20() -> None:
    held = 0
    for seed in range(60):
        low, high = interval([normal(0.03, 30, seed=seed)], seed)
        held += low <= 0.03 <= high
    assert 51 <= held <= 60


def test_equal_seeds_give_equal_intervals() -> None:
    strata = [normal(0.0, 20)]
    assert interval(strata, 3) == interval(strata, 3) != interval(strata, 4)


def test_a_large_site_weighs_no_more_than_a_small_one() -> None:
    found = contrast("a", "b", "s", "foreign", [np.full(90, 0.1), np.full(10, 0.3)], seed=0)
    assert found.difference == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2)
    assert found.patients == 100


@pytest.mark.parametrize(
    ("mean", "verdict", "said"),
    [
        (0.1, "helped", "] helped"),
        (-0.1, "did not", "] did not, it hurt"),
        (0.0, "cannot tell", "] cannot tell"),
    ],
)
def test_the_words_say_no_more_than_the_interval(mean: float, verdict: str, said: str) -> None:
    found = contrast("finetuned", "local2x", "s", "own", [normal(mean, 40)], seed=0)
    assert found.verdict == verdict
    assert found.words.endswith(said)
    assert found.words.startswith(f"{signed(found.difference or 0.0)} [")


@pytest.mark.parametrize(
    ("sizes", "reason"), [((9,), "9 patients"), ((4, 5), "9 patients"), ((30, 1), "a site with 1")]
)
def test_without_enough_patients_nobody_can_tell(sizes: tuple[int, ...], reason: str) -> None:
    found = contrast("a", "b", "s", "own", [np.full(size, 0.5) for size in sizes], seed=0)
    assert (found.low, found.high, found.verdict) == (None, None, "cannot tell")
    assert found.difference == pytest.approx(0.5)
    assert found.reason.startswith(reason)
    assert "cannot tell" in found.words


def test_ten_patients_are_enough() -> None:
    assert contrast("a", "b", "s", "own", [normal(0.1, 10)], seed=0).low is not None


def test_a_regime_that_was_not_scored_is_said() -> None:
    found = contrast("general", "local2x", None, "own", [np.array([])], seed=0)
    assert found.difference is None
    assert found.words == "general and local2x were not both scored here"


def test_an_interval_that_touches_zero_does_not_help() -> None:
    same = Contrast(
        first="a",
        second="b",
        site=None,
        tested="own",
        difference=0.0,
        low=0.0,
        high=0.0,
        patients=10,
        reason="",
    )
    assert same.verdict == "cannot tell"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0124, "+.012"), (-0.5, "-.500"), (0, "+.000"), (-0.0001, "-.000"), (-1, "-1.000")],
)
def test_differences_are_printed_with_their_sign(value: float, text: str) -> None:
    assert signed(value) == text
