"""A hospital's own ranking of its patients, and the release that it makes without the worst."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.patient_risk import COLUMNS, leave_out, write_risks
from hyfree_ray.federation.simulation import patient_names, sites_of
from hyfree_ray.stages.risk import PATIENTS
from tests.refusals import refuses


@pytest.fixture
def hospital(phantom_folder: Path) -> tuple[Site, dict[int, str]]:
    cohort = read_cohort(phantom_folder)
    ((name, cases),) = cohort.sites.items()
    return sites_of(cohort, 0)[name], patient_names(cases)


def test_who_is_left_out_is_in_no_part_and_all_others_stay_where_they_were(
    hospital: tuple[Site, dict[int, str]],
) -> None:
    site, names = hospital
    worst = sorted({case["patient"] for case in site.part("train")})[:2]
    smaller = leave_out(site, [names[patient] for patient in worst], names)
    assert smaller.left_out == 2
    assert smaller.key != site.key
    kept = [case for case in site.cases if case["patient"] not in worst]
    assert list(smaller.cases) == kept
    assert {case["part"] for case in kept} == {"train", "val", "test"}
    again = leave_out(site, [names[patient] for patient in reversed(worst)], names)
    assert again == smaller  # so that the same command goes on where it stopped


def test_nobody_left_out_is_the_site_as_it_was(hospital: tuple[Site, dict[int, str]]) -> None:
    site, names = hospital
    assert leave_out(site, [], names) is site


def test_only_who_is_trained_on_can_be_left_out_and_two_patients_stay(
    hospital: tuple[Site, dict[int, str]],
) -> None:
    site, names = hospital
    tested = names[site.part("test")[0]["patient"]]
    for stranger in (tested, "nobody"):
        with refuses("option.unknown-patient", stranger):
            leave_out(site, [stranger], names)
    everybody = {names[case["patient"]] for case in site.part("train")}
    with refuses("option.unknown-patient"):
        leave_out(site, sorted(everybody)[1:], names)


def test_the_ranking_names_patients_as_the_hospital_does_and_its_owner_alone_reads_it(
    tmp_path: Path,
) -> None:
    measured = {
        "nearness": 0.4,
        "nearest_images": 9,
        "nearest_over_chance": 3.1,
        "conspicuous_images": None,
        "loss": -0.7,
        "likelihood_ratio": None,
    }
    rows = [{"patient": 3, **measured, "risk": 1.0}, {"patient": 0, **measured, "risk": 0.5}]
    (tmp_path / PATIENTS).write_text(json.dumps(rows))
    file = tmp_path / "audit" / "risk.csv"
    found: Any = SimpleNamespace(path=tmp_path)
    assert write_risks(file, found, {0: "Ann", 3: "Bob"}) == 2
    with file.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert tuple(table[0]) == COLUMNS
    assert [(row["rank"], row["patient"], row["risk"]) for row in table] == [
        ("1", "Bob", "1.0"),
        ("2", "Ann", "0.5"),
    ]
    assert table[0]["likelihood_ratio"] == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
