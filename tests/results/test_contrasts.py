from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as students_t

from hyfree_ray.results import contrasts
from hyfree_ray.results.contrasts import (
    Contrast,
    contrast,
    corrected,
    format_difference,
    interval,
    rank_biserial,
)
from hyfree_ray.results.uncertainty import noise_of


def normal(mean: float, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.05, count)


def test_the_interval_is_that_of_an_expanded_bootstrap_written_out() -> None:
    strata = [normal(0.02, 12), normal(0.1, 31, seed=1)]
    random = np.random.default_rng(5)
    means = [
        np.mean(
            [
                stratum.mean()
                + (random.choice(stratum, len(stratum)).mean() - stratum.mean())
                * np.sqrt(len(stratum) / (len(stratum) - 1))
                for stratum in strata
            ]
        )
        for _ in range(8000)
    ]
    parts = [stratum.var(ddof=1) / len(stratum) for stratum in strata]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 11 + parts[1] ** 2 / 30)  # Satterthwaite
    tail = 100 * float(norm.sf(students_t.ppf(0.975, freedom)))
    low, high = interval(strata, seed=0)
    assert [low, high] == pytest.approx(np.percentile(means, [tail, 100 - tail]), abs=0.003)


@pytest.mark.parametrize("sizes", [(12, 4, 9, 4, 18), (6, 46), (7, 24, 118), (12,)])
def test_the_interval_holds_the_truth_about_19_times_in_20(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At sites as uneven as real ones; the plain bootstrap does in 87 to 91 %."""
    monkeypatch.setattr(contrasts, "RESAMPLES", 1000)
    random, held, tries = np.random.default_rng(len(sizes)), 0, 800
    for seed in range(tries):
        low, high = interval([random.normal(0.03, 0.05, size) for size in sizes], seed)
        held += low <= 0.03 <= high
    assert 0.922 <= held / tries <= 0.972


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
        (-0.1, "worse", "] hurt"),
        (0.012, "no harm", "] did not hurt more than .004"),
        (0.0, "cannot tell", "] cannot tell with 40 patients: about 1,400 would be needed"),
    ],
)
def test_the_words_say_no_more_than_the_interval(mean: float, verdict: str, said: str) -> None:
    found = contrast("finetuned", "local2x", "s", "own", [normal(mean, 40)], seed=0)
    assert found.verdict == verdict
    assert found.words.endswith(said)
    assert found.words.startswith(f"{format_difference(found.difference or 0.0)} [")


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((9,), "9 patients"),
        ((4, 5), "9 patients"),
        ((30, 1), "a site with 1 "),
        ((30, 2), "a site with 2 patients"),
    ],
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
        needed=120,
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
    assert unclear.describe() == "cannot tell with 30 patients: about 120 would be needed"


def spread(mean: float, count: int, sd: float = 0.05) -> np.ndarray:
    """Patients of just this mean and spread."""
    values_P = normal(0.0, count)
    return mean + sd * (values_P - values_P.mean()) / values_P.std(ddof=1)


@pytest.mark.parametrize(("mean", "about"), [(0.02, 50), (0.04, 14)])
def test_the_number_of_patients_needed_is_the_one_that_would_have_shown_it(
    mean: float, about: int
) -> None:
    """Four times in five: tried on patients drawn anew. Of few, Student's t asks for more."""
    random = np.random.default_rng(1)
    needed = contrast("a", "b", "s", "own", [spread(mean, 400)], seed=0).needed
    assert needed is not None
    assert needed == pytest.approx(about, abs=3)
    shown = 0
    for _ in range(400):
        drawn_P = random.normal(mean, 0.05, needed)
        reach = students_t.ppf(0.975, needed - 1) * drawn_P.std(ddof=1) / np.sqrt(needed)
        shown += drawn_P.mean() - reach > 0
    assert 0.72 < shown / 400 < 0.9


def test_one_seed_and_seeds_that_agree_need_the_same_patients() -> None:
    values_P = spread(0.005, 12)
    one = contrast("a", "b", "s", "own", [values_P], seed=0)
    two = contrast("a", "b", "s", "own", [np.repeat(values_P[:, None], 2, axis=1)], seed=0)
    assert one.needed == two.needed
    assert one.needed is not None
    assert one.needed == pytest.approx(790, abs=30)


def test_a_difference_that_no_number_of_patients_would_show_is_over_the_most() -> None:
    found = contrast("a", "b", "s", "own", [spread(0.0001, 12)], seed=0)
    assert found.describe() == "cannot tell with 12 patients: over 10,000 would be needed"
    alike = contrast("a", "b", "s", "own", [np.full(4, 0.5)], seed=0)
    assert alike.describe() == "cannot tell (4 patients)"


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
        [interval(drawn(random, seeds, training, patients, apart), 0) for _ in range(600)]
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
    assert width > 2 * tried(3, 0.02, 0.05)[2]


def test_what_trainings_share_beside_the_seed_is_noise_too() -> None:
    """Three random pools under each of two seeds: six trainings, but not six independent ones."""
    random = np.random.default_rng(4)
    factors = [(0, 0, 0, 1, 1, 1), (0, 1, 2, 0, 1, 2)]
    held = {"six seeds": 0, "seeds and pools": 0}
    for _ in range(400):
        training_C = np.repeat(random.normal(0, 0.02, 2), 3) + np.tile(random.normal(0, 0.02, 3), 2)
        values_PC = random.normal(0, 0.05, (40, 1)) + training_C + random.normal(0, 0.02, (40, 6))
        for name, known in (("six seeds", None), ("seeds and pools", factors)):
            low, high = interval([values_PC], 0, known)
            held[name] += low <= 0 <= high
    assert held["six seeds"] / 400 < 0.9 < 0.92 <= held["seeds and pools"] / 400


def test_seeds_are_not_independent_patients() -> None:
    """What one training did to all patients is seen once a seed, however many they are."""
    random = np.random.default_rng(3)
    shift_S = np.array([0.06, -0.05, 0.02])
    both_PS = 0.01 + shift_S + random.normal(0, 0.01, (80, 3))
    low, high = interval([both_PS], seed=0)
    naive_low, naive_high = interval([both_PS.ravel()], seed=0)
    assert high - low > 0.07 > 0.03 > naive_high - naive_low
    found = contrast("a", "b", None, "own", [both_PS], seed=0)
    assert (found.patients, found.seeds, found.verdict) == (80, 3, "cannot tell")


def test_where_seeds_disagree_more_patients_are_not_what_is_needed() -> None:
    random = np.random.default_rng(0)

    def said(shift_S: list[float], spread: float, mean: float) -> str:
        noise_PS = random.normal(0, spread, (40, 1)) + random.normal(0, 0.01, (40, len(shift_S)))
        noise_PS -= noise_PS.mean(axis=0)
        strata = [mean + np.array(shift_S) + noise_PS]
        return contrast("a", "b", None, "own", strata, seed=0).describe()

    assert said([0.05, -0.05, 0.0], 0.02, 0.02) == (
        "cannot tell with 40 patients and 3 seeds: about 59 seeds would be needed"
    )
    assert said([0.05, -0.05], 0.02, 0.0001) == (
        "cannot tell with 40 patients and 2 seeds: more of both would be needed"
    )
    found = said([0.001, -0.001, 0.0], 0.2, 0.02)
    assert found.startswith("cannot tell with 40 patients: about")
    assert int(found.split()[-4].replace(",", "")) == pytest.approx(
        40 * ((1.96 + 0.84) * 0.2 / np.sqrt(40) / 0.02) ** 2, rel=0.25
    )


def test_the_seeds_needed_are_those_that_would_have_shown_it() -> None:
    random = np.random.default_rng(5)
    values_PS = random.normal(0, 0.03, (60, 1)) + np.array([0.045, -0.015, 0.015, 0.03, 0.0])
    values_PS += 0.02 - values_PS.mean()
    found = contrast("a", "b", None, "own", [values_PS], seed=0)
    assert found.needed is None
    assert found.seeds_needed is not None
    shown = 0
    for _ in range(200):
        again_PS = random.normal(0.02, 0.03, (60, 1)) + random.normal(
            0, values_PS.mean(axis=0).std(ddof=1), found.seeds_needed
        )
        shown += interval([again_PS], 0)[0] > 0
    assert 0.7 < shown / 200 < 0.93


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("training", [0.0, 0.03])
def test_more_seeds_take_away_their_own_noise_and_not_the_patients(
    training: float, apart: bool
) -> None:
    """What three seeds foretell of twelve, on as many patients in all: tried on numbers drawn."""
    random = np.random.default_rng(8)

    def of_seeds(seeds: int) -> list[np.ndarray]:
        each = seeds if apart else 1
        return drawn(random, seeds, training, 0.05, apart, (48 // each, 72 // each))

    foretold = []
    for _ in range(400):
        noise = noise_of(of_seeds(3), [range(3)]).with_levels(12)
        (trainings,) = noise.trainings
        foretold.append(noise.patients.variance - trainings.of_patients + trainings.variance)
    means = [
        np.mean([np.nanmean(x_PS, axis=1).mean() for x_PS in of_seeds(12)]) for _ in range(800)
    ]
    assert np.mean(foretold) == pytest.approx(np.var(means), rel=0.25)


def test_the_seeds_needed_are_enough_where_each_has_its_own_of_as_many_patients() -> None:
    random = np.random.default_rng(6)

    def own(means_S: np.ndarray, count: int) -> np.ndarray:
        """(P, S): patients of one seed each."""
        values_PS = np.full((count, len(means_S)), np.nan)
        seed_P = np.arange(count) % len(means_S)
        values_PS[np.arange(count), seed_P] = means_S[seed_P] + random.normal(0, 0.05, count)
        return values_PS

    seen_S = 0.02 + np.array([0.05, -0.05, 0.02, -0.02, 0.0])
    values_PS = own(seen_S, 100)
    values_PS += seen_S - np.nanmean(values_PS, axis=0)
    found = contrast("a", "b", None, "own", [values_PS], seed=0)
    assert found.needed is None
    assert found.seeds_needed is not None
    shown = 0
    for _ in range(200):
        means_S = random.normal(0.02, 0.0354, found.seeds_needed)
        shown += interval([own(means_S, 100)], 0)[0] > 0
    assert 0.7 < shown / 200 < 0.95, found.seeds_needed


def test_equal_seeds_leave_the_interval_over_patients() -> None:
    values_P = normal(0.02, 300)
    one = interval([values_P], seed=0)
    three = interval([np.repeat(values_P[:, None], 3, axis=1)], seed=0)
    assert three == pytest.approx(one, abs=0.0005)


def test_a_patient_that_lacks_a_seed_still_counts_once() -> None:
    values_PS = np.repeat(normal(0.03, 20)[:, None], 2, axis=1)
    values_PS[5:, 1] = np.nan
    found = contrast("a", "b", "s", "own", [values_PS], seed=0)
    assert found.difference == pytest.approx(np.nanmean(values_PS, axis=1).mean())
    assert (found.patients, found.seeds) == (20, 2)
    assert found.low is not None
    assert np.isfinite([found.low, found.high]).all()


def test_the_tests_are_scipys_and_corrected_for_their_number() -> None:
    from scipy.stats import wilcoxon

    strata = [normal(0.02, 24, seed=k) for k in range(3)] + [normal(0.0, 4)]
    found = corrected(contrast("a", "b", f"s{k}", "own", [x], seed=0) for k, x in enumerate(strata))
    p = [wilcoxon(x).pvalue for x in strata[:3]]
    assert [one.p for one in found] == [*p, None]
    order = np.argsort(p)
    holm = np.maximum.accumulate(np.minimum(1, np.sort(p) * [3, 2, 1]))
    assert [found[k].p_holm for k in order] == pytest.approx(list(holm))
    greater = [min(1.0, 3 * wilcoxon(x, alternative="greater").pvalue) for x in strata[:3]]
    assert [one.p_paper for one in found[:3]] == pytest.approx(greater)
    assert found[3].p_holm is None


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
