"""Partitions: patients stay whole, the seed says everything, sites differ as they are meant to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hyfree_ray.cohorts.cohort import Case, Cohort
from hyfree_ray.cohorts.partitions import partition
from hyfree_ray.cohorts.summary import render_sites, summarise_sites
from tests.refusals import refuses

HOW = ("random", "size-skew", "dirichlet")


def cohort(patients: int = 60, *, columns: dict[str, str] | None = None) -> Cohort:
    """Patients p000, p001, ... of one to three cases; p000 has least foreground."""
    cases = [
        Case(
            name=f"p{patient:03d}_{part}",
            patient=f"p{patient:03d}",
            images=(),
            label="",
            digest="",
            intensity=(100.0 + patient, 5.0),
            label_pixels=((0, 1000 - patient), (1, patient)) if patient else ((0, 1000),),
            columns=tuple(
                (name, cell.format(patient % 3, part)) for name, cell in (columns or {}).items()
            ),
        )
        for patient in range(patients)
        for part in range(1 + patient % 3)
    ]
    return Cohort(
        name="x",
        root=Path("data"),
        channel_names=("MR",),
        labels={"background": 0, "organ": 1},
        file_ending=".png",
        sites={"only": tuple(cases)},
        dataset_json={},
    )


def patients_of(found: Cohort) -> list[set[str]]:
    return [{case.patient for case in cases} for cases in found.sites.values()]


@pytest.mark.parametrize("how", HOW)
@settings(deadline=None, max_examples=25)
@given(sites=st.integers(1, 6), seed=st.integers(0, 9))
def test_patients_stay_whole_no_case_is_lost_and_every_site_fills_its_folds(
    how: str, sites: int, seed: int
) -> None:
    whole = cohort(35)
    found = partition(whole, how, sites=sites, seed=seed)
    groups = patients_of(found)
    assert list(found.sites) == [f"site-{k}" for k in range(1, sites + 1)]
    assert all(len(group) >= 5 for group in groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == 35
    dealt = {case for cases in found.sites.values() for case in cases}
    assert dealt == set(whole.sites["only"])
    for cases in found.sites.values():
        assert [case.name for case in cases] == sorted(case.name for case in cases)


@pytest.mark.parametrize("how", HOW)
def test_a_partition_comes_from_the_seed_and_not_from_the_order_of_the_cases(how: str) -> None:
    whole = cohort()
    backwards = Cohort(**{**vars(whole), "sites": {"only": whole.sites["only"][::-1]}})
    one = partition(whole, how, sites=4, seed=1)
    assert one.sites == partition(backwards, how, sites=4, seed=1).sites
    assert one.sites != partition(whole, how, sites=4, seed=2).sites


def test_sizes_are_skewed_as_one_to_a_half_to_a_third() -> None:
    sizes = [len(group) for group in patients_of(partition(cohort(), "size-skew", sites=4, seed=0))]
    # 5 each are sure, the other 40 go as 19.2, 9.6, 6.4 and 4.8.
    assert sizes == [24, 15, 11, 10]


def test_a_dirichlet_partition_mixes_foreground_otherwise_than_a_random_one() -> None:
    def spread(how: str) -> float:
        found = [
            np.std(
                [
                    one.label_share["organ"]
                    for one in summarise_sites(partition(cohort(200), how, sites=4, seed=seed))
                ]
            )
            for seed in range(6)
        ]
        return float(np.mean(found))

    assert spread("dirichlet") > 2 * spread("random")


def test_a_column_of_sites_csv_names_the_sites() -> None:
    found = partition(
        cohort(30, columns={"scanner": "scan {}", "part": "{1}"}),
        "column:scanner",
        sites=None,
        seed=0,
    )
    assert list(found.sites) == ["scan 0", "scan 1", "scan 2"]
    assert all(len(group) == 10 for group in patients_of(found))


@pytest.mark.parametrize(
    ("how", "sites", "code", "names"),
    [
        ("randon", 2, "partition.unknown", ("--partition randon", "natural, random, size-skew")),
        ("random", None, "option.conflict", ("--partition random", "--sites N")),
        ("dirichlet", 0, "option.out-of-range", ("--sites 0",)),
        ("size-skew", 5, "partition.too-few-patients", ("--sites 5", "24 patients", "4 sites")),
        ("natural", 2, "option.conflict", ("--sites 2", "1 natural", "(only)")),
        ("column:scanner", 2, "option.conflict", ("--sites 2", "3 column:scanner")),
        ("column:age", None, "partition.bad-column", ("p000_0", "scanner, part")),
        ("column:part", None, "partition.bad-column", ("p001_0", "(0, 1)")),
        ("column:odd", None, "data.bad-site-name", ("--partition column:odd", "'-0'")),
        ("column:few", None, "partition.too-few-patients", ("few 0: 4", "5 folds")),
    ],
)
def test_a_partition_that_cannot_be_made_is_refused(
    how: str, sites: int | None, code: str, names: tuple[str, ...]
) -> None:
    whole = cohort(24, columns={"scanner": "s{}", "part": "{1}"})
    if how == "column:odd":
        whole = cohort(24, columns={"odd": "-{}"})
    if how == "column:few":
        whole = cohort(12, columns={"few": "few {}"})
    with refuses(code, *names):
        partition(whole, how, sites=sites, seed=0)


def test_the_table_says_what_the_sites_hold() -> None:
    found = partition(cohort(30, columns={"scanner": "s{}"}), "column:scanner", sites=None, seed=0)
    first, second, _ = summarise_sites(found)
    assert (first.cases, first.patients, first.empty) == (10, 10, 1)
    assert (second.cases, second.patients, second.empty) == (20, 10, 0)
    assert first.intensity == (113.5, 5.0)
    assert first.label_share["organ"] == pytest.approx(0.0135)
    console = Console(width=90, record=True)
    console.print(render_sites(found))
    text = console.export_text()
    assert "MR: mean ± sd" in text
    assert "1.35 %" in text
