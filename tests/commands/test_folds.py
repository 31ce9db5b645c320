"""How patients are dealt out to folds and to sites."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hyfree_ray.cohorts.cohort import Case, Split, read_cohort, split_fold
from hyfree_ray.cohorts.partitions import partition
from tests.raw_data import make
from tests.refusals import refuses


def cases_of(patients: Iterable[str], *, slices: int = 2) -> tuple[Case, ...]:
    return tuple(
        Case(name=f"{patient}_{k}", patient=patient, images=(), label="", digest="")
        for patient in patients
        for k in range(slices)
    )


def patients_in(cases: Iterable[Case]) -> set[str]:
    return {case.patient for case in cases}


def fold_of(cases: tuple[Case, ...]) -> dict[str, int]:
    return {case.patient: fold for fold in range(5) for case in split_fold(cases, fold).test}


names = st.sets(st.text(min_size=1, max_size=6), min_size=6, max_size=40)


@given(names, st.integers(0, 4))
def test_no_patient_is_in_two_parts_and_no_part_is_empty(patients: set[str], fold: int) -> None:
    """Case 66."""
    cases = cases_of(patients)
    split = split_fold(cases, fold)
    parts = [patients_in(part) for part in (split.train, split.val, split.test)]
    assert all(parts)
    assert set.union(*parts) == patients
    assert sum(map(len, parts)) == len(patients)
    assert sum(map(len, (split.train, split.val, split.test))) == len(cases)
    assert patients_in(split.val) == patients_in(split_fold(cases, (fold + 1) % 5).test)


@given(names)
def test_one_more_patient_moves_at_most_four_others(patients: set[str]) -> None:
    before = fold_of(cases_of(sorted(patients)[1:]))
    after = fold_of(cases_of(patients))
    assert sum(after[patient] != fold for patient, fold in before.items()) <= 4


@given(names, st.randoms(use_true_random=False))
def test_folds_depend_on_patient_names_only(patients: set[str], random: Any) -> None:
    shuffled = sorted(patients)
    random.shuffle(shuffled)
    assert fold_of(cases_of(shuffled, slices=1)) == fold_of(cases_of(patients, slices=3))


def test_folds_outside_the_five_and_too_few_patients_are_refused() -> None:
    with refuses("option.out-of-range", "--fold 5", "0 to 4"):
        split_fold(cases_of("abcdef"), 5)
    with refuses("data.too-few-patients", "4 patients", "5 folds"):
        split_fold(cases_of("abcd"), 0)
    assert isinstance(split_fold(cases_of("abcde"), 4), Split)


def test_a_random_partition_is_even_whole_by_patient_and_reproducible(tmp_path: Path) -> None:
    cohort = read_cohort(make(tmp_path / "x")[0])
    parts = partition(cohort, "random", sites=2, seed=1)
    assert list(parts.sites) == ["site-1", "site-2"]
    counts = [len(patients_in(cases)) for cases in parts.sites.values()]
    assert sorted(counts) == [5, 6]
    assert not patients_in(parts.sites["site-1"]) & patients_in(parts.sites["site-2"])
    everyone = {case for cases in cohort.sites.values() for case in cases}
    assert {case for cases in parts.sites.values() for case in cases} == everyone
    assert parts == partition(cohort, "random", sites=2, seed=1)
    assert parts.sites != partition(cohort, "random", sites=2, seed=2).sites


def test_more_sites_than_the_patients_fill_are_refused(tmp_path: Path) -> None:
    cohort = read_cohort(make(tmp_path / "x")[0])
    with refuses("partition.too-few-patients", "--sites 3", "11 patients", "2 sites"):
        partition(cohort, "random", sites=3, seed=0)
    with refuses("option.out-of-range", "--sites 0"):
        partition(cohort, "random", sites=0, seed=0)
