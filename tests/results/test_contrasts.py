from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from hyfree_ray.results.contrasts import (
    FURTHER,
    STATED,
    Contrast,
    contrast,
    could_lose,
    estimate,
    format_difference,
    interval,
    rank_biserial,
    simultaneous,
)


def normal(mean: float, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.05, count)


def test_of_patients_who_differ_evenly_the_interval_is_students() -> None:
    values_P = np.concatenate([0.02 + np.arange(1, 9) / 100, 0.02 - np.arange(1, 9) / 100])
    student = ttest_1samp(values_P, 0.0)
    found = contrast("a", "b", "s", "own", [values_P])
    assert (found.low, found.high) == pytest.approx(tuple(student.confidence_interval()))
    assert found.p == pytest.approx(student.pvalue)
    assert found.p > 0.05
    assert found.verdict == "no harm"


def test_where_a_few_lost_much_the_interval_reaches_further_down_and_never_less_up() -> None:
    values_P = np.array([0.02] * 10 + [0.01, 0.03, -0.01, -0.2])
    low, high = interval([values_P])
    student = ttest_1samp(values_P, 0.0).confidence_interval()
    assert low < student.low - 0.02
    assert high == pytest.approx(student.high)
    mirrored = interval([-values_P])
    assert mirrored == pytest.approx((-high, -low))


def skewed(kind: str, random: np.random.Generator, size: int) -> np.ndarray:
    """Patients whose true mean is nought."""
    if kind == "normal":
        return random.normal(0, 0.05, size)
    if kind == "exponential":
        return 0.05 - random.exponential(0.05, size)
    return 0.05 * (np.exp(0.5) - random.lognormal(0, 1, size))


@pytest.mark.parametrize("kind", ["normal", "exponential", "lognormal"])
@pytest.mark.parametrize("sizes", [(7,), (12,), (50,), (12, 4, 9, 4, 18)])
def test_the_interval_holds_the_truth_about_19_times_in_20(
    kind: str, sizes: tuple[int, ...]
) -> None:
    """Few tries; `benchmarks/coverage.py` makes many."""
    random, tries = np.random.default_rng(len(sizes)), 600
    drawn = ([skewed(kind, random, size) for size in sizes] for _ in range(tries))
    low, high = np.array([interval(strata) for strata in drawn]).T
    assert 0.92 <= np.mean((low <= 0) & (high >= 0)) <= 0.99
    assert max(np.mean(low > 0), np.mean(high < 0)) <= 0.055


TABLES = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1),
        st.integers(1, 30),
        st.sampled_from([0.0, 0.01, 0.05]),
        st.integers(1, 3),
        st.sampled_from(["normal", "exponential", "lognormal"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(TABLES, st.integers(0, 3))
def test_words_interval_and_p_of_a_row_never_disagree(
    rows: list[tuple[int, int, float, int, str, bool]], stated: int
) -> None:
    estimates = []
    for seed, patients, mean, seeds, kind, constant in rows:
        random = np.random.default_rng(seed)
        values_PS = skewed(kind, random, patients)[:, None] + random.normal(mean, 0.01, seeds)
        values_PS = np.zeros_like(values_PS) if constant else values_PS
        estimates.append(estimate("a", "b", "s", "own", [values_PS, values_PS[: patients // 2]]))
    found = simultaneous(estimates, range(stated))
    for one in found:
        assert (one.low is None) == (one.high is None) == (one.p is None)
        if one.low is None or one.high is None or one.p is None or one.difference is None:
            assert one.verdict == "cannot tell"
            continue
        assert one.low <= one.difference <= one.high
        differs = one.verdict in {"helped", "worse"}
        assert differs == (one.p < 0.05) == (not one.low <= 0 <= one.high)
        says = one.describe()
        assert ("helped" in says or "helps" in says) == (one.low > 0)
        assert (one.verdict == "worse") == (one.high < 0)
        if differs:
            assert one.false is not None
            assert one.false <= one.p / 2 + 1e-9
    assert sum(one.share for one in found if one.family) <= 1 + 1e-9


def test_contrasts_that_are_read_together_share_the_5_per_cent() -> None:
    estimates = [
        estimate("a", "b", f"s{k}", "own", [normal(0.1, 24, seed=k)]) for k in range(6)
    ] + [estimate("a", "b", "few", "own", [normal(0.03, 4)])]
    found = simultaneous(estimates, stated=[0, 1])
    assert [one.family for one in found] == [STATED, STATED, *[FURTHER] * 4, ""]
    assert [one.share for one in found] == pytest.approx([1 / 4] * 2 + [1 / 8] * 4 + [1])
    alone = contrast("a", "b", "s0", "own", [normal(0.1, 24)])
    assert found[0].low is not None
    assert alone.low is not None
    assert found[0].low < alone.low
    assert found[0].p == pytest.approx((alone.p or 0.0) * 4)
    assert found[0].false == alone.false, "the probability is of the sentence by itself"
    without = simultaneous(estimates)
    assert [one.share for one in without[:6]] == pytest.approx([1 / 6] * 6)


@pytest.mark.parametrize("kind", ["normal", "exponential"])
def test_of_20_contrasts_without_a_difference_hardly_any_run_says_one(kind: str) -> None:
    random, runs = np.random.default_rng(2), 60
    wrong = 0
    for _ in range(runs):
        estimates = [estimate("a", "b", "s", "own", [skewed(kind, random, 12)]) for _ in range(20)]
        wrong += any(c.verdict in {"helped", "worse"} for c in simultaneous(estimates, range(5)))
    assert wrong / runs <= 0.1


def test_what_was_not_seen_is_said() -> None:
    gained = contrast("a", "b", "s", "own", [normal(0.05, 12)])
    assert gained.describe_losses() == "no patient of 12 lost more than .1; up to 23 % could"
    assert gained.could_lose == pytest.approx(1 - 0.05 ** (1 / 12))
    one_lost = contrast("a", "b", "s", "own", [np.append(normal(0.05, 11), -0.3)])
    assert one_lost.describe_losses() == "1 of 12 patients lost more than .1; up to 34 % could"
    assert could_lose(12, 12) == 1.0


def test_a_large_site_weighs_no_more_than_a_small_one() -> None:
    found = contrast("a", "b", "s", "foreign", [np.full(90, 0.1), np.full(10, 0.3)])
    assert found.difference == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2)
    assert found.patients == 100


@pytest.mark.parametrize(
    ("mean", "verdict", "said"),
    [
        (0.1, "helped", "] helped"),
        (-0.1, "worse", "] hurt"),
        (0.012, "no harm", "] did not hurt more than .005"),
        (0.0, "cannot tell", "] cannot tell (40 patients)"),
    ],
)
def test_the_words_say_no_more_than_the_interval(mean: float, verdict: str, said: str) -> None:
    found = contrast("finetuned", "local2x", "s", "own", [normal(mean, 40)])
    assert found.verdict == verdict
    assert found.words.endswith(said)
    assert found.words.startswith(f"{format_difference(found.difference or 0.0)} [")


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((6,), "6 patients"),
        ((3, 3), "6 patients"),
        ((30, 1), "a site with 1 "),
        ((30, 2), "a site with 2 patients"),
    ],
)
def test_without_enough_patients_nobody_can_tell(sizes: tuple[int, ...], reason: str) -> None:
    found = contrast("a", "b", "s", "own", [np.full(size, 0.5) for size in sizes])
    assert (found.low, found.high, found.verdict) == (None, None, "cannot tell")
    assert found.difference == pytest.approx(0.5)
    assert found.reason.startswith(reason)
    assert "cannot tell" in found.words


def test_seven_patients_are_enough() -> None:
    assert contrast("a", "b", "s", "own", [normal(0.1, 7)]).low is not None


def test_a_regime_that_was_not_scored_is_said() -> None:
    found = contrast("general", "local2x", None, "own", [np.array([])])
    assert found.difference is None
    assert found.words == "general and local2x were not both scored here"


def made(seeds: int, difference: float, low: float, high: float) -> Contrast:
    return Contrast(
        first="a",
        second="b",
        site=None,
        tested="own",
        difference=difference,
        low=low,
        high=high,
        patients=30,
        reason="",
        seeds=seeds,
    )


def test_a_sentence_about_the_method_needs_three_seeds() -> None:
    for low, high, of_runs, of_method in (
        (0.01, 0.03, "helped", "helps"),
        (-0.03, -0.01, "hurt", "hurts"),
        (-0.0059, -0.001, "hurt, no more than .006", "hurts, no more than .006"),
        (-0.0051, 0.03, "did not hurt more than .006", "does not hurt more than .006"),
    ):
        said = [made(seeds, (low + high) / 2, low, high).describe() for seeds in (1, 2, 3, 4)]
        assert said == [of_runs, of_runs, of_method, of_method]
    unclear = made(3, 0.01, -0.02, 0.04)
    assert unclear.describe() == "cannot tell (30 patients and 3 seeds)"


def drawn(
    random: np.random.Generator,
    seeds: int,
    training: float,
    patients: float,
    apart: bool,
    counts: tuple[int, ...] = (14, 26),
) -> list[np.ndarray]:
    """No difference but noise at two uneven sites: of trainings (half of it the sites' own), of
    patients and of neither. `apart`: each seed has patients of its own, as drawn sites have."""
    strata = []
    shared_S = random.normal(0, training / np.sqrt(2), seeds)
    for count in counts:
        of_site_S = shared_S + random.normal(0, training / np.sqrt(2), seeds)
        number = count * seeds if apart else count
        values_PS = random.normal(0, patients, (number, 1)) + of_site_S
        values_PS += random.normal(0, 0.02, (number, seeds))
        if apart:
            values_PS[np.arange(number)[:, None] % seeds != np.arange(seeds)] = np.nan
        strata.append(values_PS)
    return strata


def tried(
    seeds: int, training: float, patients: float, apart: bool = False
) -> tuple[float, float, float]:
    """How often the interval holds the truth, lies above it, and how wide it mostly is."""
    random = np.random.default_rng(17)
    found = np.array(
        [interval(drawn(random, seeds, training, patients, apart)) for _ in range(600)]
    )
    low, high = found.T
    held = float(((low <= 0) & (high >= 0)).mean())
    return held, float((low > 0).mean()), float(np.median(high - low))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("training", "patients"), [(0.02, 0.05), (0.03, 0.05), (0.03, 0.02)])
@pytest.mark.parametrize("seeds", [3, 5])
def test_with_training_noise_the_interval_holds_the_truth_19_times_in_20(
    seeds: int, training: float, patients: float, apart: bool
) -> None:
    held, helps, _ = tried(seeds, training, patients, apart)
    assert 0.92 <= held <= 0.98
    assert helps < 0.04


def test_two_seeds_are_honest_by_being_wide() -> None:
    held, helps, width = tried(2, 0.02, 0.05)
    assert held >= 0.92
    assert helps < 0.04
    assert width > 1.5 * tried(3, 0.02, 0.05)[2]


def test_what_trainings_share_beside_the_seed_is_noise_too() -> None:
    """Three random pools under each of two seeds: six trainings, but not six independent ones."""
    random = np.random.default_rng(4)
    factors = [(0, 0, 0, 1, 1, 1), (0, 1, 2, 0, 1, 2)]
    held = {"six seeds": 0, "seeds and pools": 0}
    for _ in range(400):
        training_C = np.repeat(random.normal(0, 0.02, 2), 3) + np.tile(random.normal(0, 0.02, 3), 2)
        values_PC = random.normal(0, 0.05, (40, 1)) + training_C + random.normal(0, 0.02, (40, 6))
        for name, known in (("six seeds", None), ("seeds and pools", factors)):
            low, high = interval([values_PC], known)
            held[name] += low <= 0 <= high
    assert held["six seeds"] / 400 < 0.9 < 0.92 <= held["seeds and pools"] / 400


def test_seeds_are_not_independent_patients() -> None:
    """What one training did to all patients is seen once a seed, however many they are."""
    random = np.random.default_rng(3)
    shift_S = np.array([0.06, -0.05, 0.02])
    both_PS = 0.01 + shift_S + random.normal(0, 0.01, (80, 3))
    low, high = interval([both_PS])
    naive_low, naive_high = interval([both_PS.ravel()])
    assert high - low > 0.07 > 0.03 > naive_high - naive_low
    found = contrast("a", "b", None, "own", [both_PS])
    assert (found.patients, found.seeds, found.verdict) == (80, 3, "cannot tell")


def test_equal_seeds_leave_the_interval_over_patients() -> None:
    values_P = normal(0.02, 300)
    one = interval([values_P])
    three = interval([np.repeat(values_P[:, None], 3, axis=1)])
    assert three == pytest.approx(one, abs=0.0005)


def test_a_patient_that_lacks_a_seed_still_counts_once() -> None:
    values_PS = np.repeat(normal(0.03, 20)[:, None], 2, axis=1)
    values_PS[5:, 1] = np.nan
    found = contrast("a", "b", "s", "own", [values_PS])
    assert found.difference == pytest.approx(np.nanmean(values_PS, axis=1).mean())
    assert (found.patients, found.seeds) == (20, 2)
    assert found.low is not None
    assert np.isfinite([found.low, found.high]).all()


def test_the_effect_is_the_ranks_that_were_gained_minus_those_lost() -> None:
    assert rank_biserial(np.array([0.1, 0.2, -0.3, 0.0])) == pytest.approx((1 + 2 - 3) / 6)
    assert rank_biserial(np.full(5, 0.1)) == 1.0
    assert rank_biserial(np.zeros(5)) == 0.0


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
    assert same.verdict == "no harm"


@pytest.mark.parametrize("bound", [0.0, None])
def test_where_nothing_changed_there_are_no_numbers(bound: float | None) -> None:
    same = replace(made(1, 0.0, 0.0, 0.0), low=bound, high=bound)
    assert same.words == same.describe() == "no change"
    assert replace(same, difference=0.001).words.startswith("+.001 ")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0124, "+.012"), (-0.5, "-.500"), (0, "+.000"), (-0.0001, "-.000"), (-1, "-1.000")],
)
def test_differences_are_printed_with_their_sign(value: float, text: str) -> None:
    assert format_difference(value) == text
