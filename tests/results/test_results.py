from __future__ import annotations

import dataclasses
import functools
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.scores import ScoreRow
from hyfree_ray.results.comparisons import ONE_RUN, Counts, contrasts_of, summarise
from hyfree_ray.results.contrasts import Contrast
from hyfree_ray.results.summary import SiteOutcome, Summary
from hyfree_ray.results.table import table_text

SITES = ("a", "b", "c")
MODELS = ("finetuned", "local2x")
OUTCOMES = [
    SiteOutcome(site="a", outcome="released", images=400, rejection_rate=0.01),
    SiteOutcome(site="b", outcome="released", images=150, rejection_rate=None),
    SiteOutcome(site="c", outcome="withheld", reason="copies", images=0, rejection_rate=0.7),
]


def row(regime: str, train: str, test: str, patient: int, case: int, value: float) -> ScoreRow:
    return ScoreRow(
        run="r",
        round=1,
        seed=0,
        fold=0,
        regime=regime,
        train_site=train,
        test_site=test,
        patient=patient,
        case=case,
        label="organ",
        metric="dice",
        value=value,
    )


def summary(rows: list[ScoreRow], counts: Counts | None = None) -> Summary:
    return (
        summarised(tuple(rows))
        if counts is None
        else summarise("r", rows, counts=counts, outcomes=OUTCOMES)
    )


@functools.cache
def summarised(rows: tuple[ScoreRow, ...]) -> Summary:
    return summarise("r", rows, counts={}, outcomes=OUTCOMES)


def read(values: Any) -> Summary:
    return TypeAdapter(Summary).validate_python(values)


def dice(found: Summary, site: str, regime: str, tested: str) -> float | None:
    (one,) = (one for one in found.sites if one.outcome.site == site)
    score = one.score(regime, tested)  # type: ignore[arg-type]
    assert score is not None
    return score.primary


def whole_run(patients: int = 12) -> Iterator[ScoreRow]:
    """Uneven sites; fine-tuning adds .1 at home and takes .1 abroad, whatever the patient."""
    noise = np.random.default_rng(0)
    for test, extra in zip(SITES, (0, 3, 9), strict=True):
        for patient in range(patients + extra):
            level = noise.uniform(0.4, 0.8)
            yield row("general", POOL, test, patient, 0, level + noise.normal(0, 0.01))
            for train in SITES:
                gain = 0.1 if train == test else -0.1
                for regime, add in (("local", -0.01), ("local2x", 0.0), ("finetuned", gain)):
                    yield row(regime, train, test, patient, 0, level + add + noise.normal(0, 0.005))


def test_labels_then_cases_then_patients_then_sites_are_averaged() -> None:
    rows = [
        # Patient 0 has two cases, of which one has two labels; patient 1 has one case.
        row("local", "a", "a", 0, 0, 0.2),
        dataclasses.replace(row("local", "a", "a", 0, 0, 0.6), label="lesion"),
        row("local", "a", "a", 0, 1, 1.0),
        row("local", "a", "a", 1, 2, 0.3),
        # Abroad: site b has ten patients, site c one.
        *(row("local", "a", "b", patient, patient, 0.9) for patient in range(10)),
        row("local", "a", "c", 0, 0, 0.1),
    ]
    found = summary(rows)
    assert dice(found, "a", "local", "own") == pytest.approx(((0.4 + 1.0) / 2 + 0.3) / 2)
    assert dice(found, "a", "local", "foreign") == pytest.approx(0.5)
    assert dice(found, "b", "local", "own") is None
    score = found.score("local", "own")
    assert score is not None
    assert score.primary == pytest.approx(0.5)


def test_the_general_model_is_every_sites() -> None:
    rows = [
        row("general", POOL, site, 0, 0, value)
        for site, value in zip(SITES, (0.9, 0.6, 0.3), strict=True)
    ]
    found = summary(rows)
    assert dice(found, "a", "general", "own") == pytest.approx(0.9)
    assert dice(found, "a", "general", "foreign") == pytest.approx(0.45)
    assert dice(found, "c", "general", "foreign") == pytest.approx(0.75)


def test_differences_are_taken_between_the_same_patients() -> None:
    rows = [
        row("finetuned", "a", "a", 0, 0, 0.9),
        row("local2x", "a", "a", 0, 0, 0.8),
        row("local2x", "a", "a", 1, 1, 0.1),  # fine-tuned has no score of this patient
    ]
    (one,) = (
        c for c in summary(rows).contrasts if (c.site, c.tested, c.patients) == ("a", "own", 1)
    )
    assert one.difference == pytest.approx(0.1)


def at_home(rows: list[ScoreRow]) -> Contrast:
    """Of site a's two models on its own patients."""
    found = contrasts_of(rows, SITES, pairs=[MODELS])
    return next(one for one in found if (one.site, one.tested) == ("a", "own"))


def test_a_false_alarm_costs_what_a_miss_does() -> None:
    """Healthy patients, whose empty masks have no Dice where a model leaves them empty."""
    lesions = [row(regime, "a", "a", p, p, 0.8) for p in range(12) for regime in MODELS]
    alarms = [row("local2x", "a", "a", 12 + p, 12 + p, 0.0) for p in range(12)]
    one = at_home(lesions + alarms)
    assert (one.patients, one.difference) == (24, pytest.approx(0.5))
    assert not one.unchanged
    assert one.verdict == "helped"
    other_way = [dataclasses.replace(found, regime="finetuned") for found in alarms]
    assert at_home(lesions + other_way).difference == pytest.approx(-0.5)


def test_of_healthy_patients_a_model_without_a_false_alarm_counts_at_every_site() -> None:
    """Site c's patient is a false alarm of a's control alone: b's models are both right there."""
    rows = [row(m, s, "c", p, p, 0.8) for m in MODELS for s in "ab" for p in range(12)]
    rows += [row("local2x", "a", "c", 12, 12, 0.0)]
    found = contrasts_of(rows, SITES, pairs=[MODELS])
    (one,) = (c for c in found if (c.site, c.tested) == (None, "foreign"))
    assert (one.patients, one.difference) == (13, pytest.approx(1.0 / 2 / 13))


def test_a_fold_in_which_a_model_was_not_scored_tells_nothing_of_it() -> None:
    """Its patients are no healthy ones: the other fold's model was not asked about them."""
    rows = [row(m, "a", "a", p, p, 0.8) for m in MODELS for p in range(12)]
    rows += [
        dataclasses.replace(row("local2x", "a", "a", 20 + p, p, 0.0), fold=1) for p in range(12)
    ]
    one = at_home(rows)
    assert (one.patients, one.difference) == (12, 0.0)


def test_contrasts_find_what_was_put_in() -> None:
    found = summary(list(whole_run()))
    assert found.regimes == ("local", "local2x", "general", "finetuned")
    primary = [one for one in found.contrasts if one.first == "finetuned"]
    assert [(one.site, one.tested) for one in primary] == [
        (site, tested) for site in (*SITES, None) for tested in ("own", "foreign")
    ]
    for one in primary:
        assert one.verdict == ("helped" if one.tested == "own" else "worse")
        assert one.difference == pytest.approx(0.1 if one.tested == "own" else -0.1, abs=0.01)
        assert one.low is not None
        assert one.high is not None
        assert one.low < (one.difference or 0.0) < one.high
    patients = {(one.site, one.tested): one.patients for one in primary}
    assert patients["a", "own"] == 12
    assert patients["a", "foreign"] == 15 + 21
    assert patients[None, "own"] == patients[None, "foreign"] == 12 + 15 + 21


def test_the_mean_over_sites_is_the_mean_of_the_sites_contrasts() -> None:
    found = summary(list(whole_run()))
    for tested in ("own", "foreign"):
        by_site = {
            one.site: one.difference or 0.0
            for one in found.contrasts
            if (one.first, one.tested) == ("finetuned", tested)
        }
        assert by_site[None] == pytest.approx(np.mean([by_site[site] for site in SITES]))


def test_rows_in_any_order_give_the_same_summary() -> None:
    rows = list(whole_run())
    shuffled = rows.copy()
    random.Random(3).shuffle(shuffled)
    assert summary(shuffled).to_json() == summary(rows).to_json()


def test_a_run_always_carries_its_caveat() -> None:
    assert summary(list(whole_run())).caveat == ONE_RUN == "this run; training noise not included"


def test_regimes_that_come_later_are_listed_after_ours() -> None:
    rows = [row(name, "a", "a", 0, 0, 0.5) for name in ("zeta", "finetuned", "generic", "local")]
    assert summary(rows).regimes == ("local", "finetuned", "generic", "zeta")


def test_counts_are_added_over_the_test_sites() -> None:
    rows = [row("local", "a", test, 0, 0, 0.5) for test in SITES]
    rows += [dataclasses.replace(row, metric="hd95", value=4.0) for row in rows]
    counts = {
        ("local", "a", "a"): {"scored": 3, "missed": 1},
        ("local", "a", "b"): {"scored": 5, "false-alarm": 2},
        ("local", "a", "c"): {"scored": 1, "missed": 4, "both-empty": 7},
    }
    found = summary(rows, counts)
    own, foreign = (found.sites[0].score("local", tested) for tested in ("own", "foreign"))
    assert own is not None
    assert foreign is not None
    assert own.counts == {"scored": 3, "missed": 1}
    assert foreign.counts == {"scored": 6, "missed": 4, "false-alarm": 2, "both-empty": 7}
    assert own.values["hd95"] == 4.0
    assert own.primary == 0.5


def test_without_a_general_model_the_summary_says_so() -> None:
    rows = [row for row in whole_run() if row.regime in ("local", "local2x")]
    found = summary(rows)
    assert {one.words for one in found.contrasts if one.first == "finetuned"} == {
        "finetuned and local2x were not both scored here"
    }


def test_the_summary_survives_json_and_has_no_nan() -> None:
    counts = {("local", "a", "a"): {"scored": 3}}
    for rows in (list(whole_run(4)), list(whole_run()), []):
        found = summary(rows, counts)
        text = json.dumps(found.to_json(), allow_nan=False)
        assert read(json.loads(text)).to_json() == found.to_json()
    assert {"verdict", "words"} <= set(found.to_json()["contrasts"][0])
    assert found.to_json()["sites"][2]["outcome"]["reason"] == "copies"


def with_settings() -> list[ScoreRow]:
    """A run with settings: the model without a site is .05 better there than the others' own."""
    rows = list(whole_run())
    for one in rows[:]:
        if (one.regime, one.test_site) == ("local2x", one.train_site):
            foreign = [
                other.value
                for other in rows
                if (other.regime, other.test_site, other.patient)
                == ("local2x", one.test_site, one.patient)
                and other.train_site != one.train_site
            ]
            left_out = float(np.mean(foreign)) + 0.05
            rows.append(dataclasses.replace(one, regime="leave-one-out", value=left_out))
        if one.regime == "general":
            rows.append(dataclasses.replace(one, regime="mix-50", value=one.value + 0.1))
    return rows


def test_what_knows_nothing_of_a_site_is_foreign_to_it() -> None:
    rows = with_settings()
    found = summary(rows)
    at_a = np.mean([r.value for r in rows if (r.regime, r.test_site) == ("leave-one-out", "a")])
    assert dice(found, "a", "leave-one-out", "own") is None
    assert dice(found, "a", "leave-one-out", "foreign") == pytest.approx(at_a)
    compared = [one for one in found.contrasts if one.first == "leave-one-out"]
    assert [(one.site, one.tested) for one in compared] == [
        (site, "foreign") for site in (*SITES, None)
    ]
    assert [one.patients for one in compared] == [12, 15, 21, 48]
    for one in compared:
        assert one.difference == pytest.approx(0.05)
        assert one.describe() == "helped"


def test_every_setting_that_was_asked_for_is_compared_with_the_control() -> None:
    found = summary(with_settings())
    assert {one.first for one in found.contrasts} == {
        *("finetuned", "general", "leave-one-out", "mix-50")
    }
    mixed = {(one.site, one.tested): one for one in found.contrasts if one.first == "mix-50"}
    assert mixed[None, "foreign"].describe() == mixed["b", "own"].describe() == "helped"


@pytest.mark.parametrize("width", [80, 140])
def test_further_settings_stand_in_one_table_over_all_sites(width: int) -> None:
    note = "c: no own-syn: it has no release"
    found = dataclasses.replace(summary(with_settings()), notes=(note,))
    text = table_text(found, width=width)
    assert max(map(len, text.splitlines())) <= width
    _, further = text.split("Dice of further settings minus local2x, over all sites")
    lines = [line.split("+")[0].split() for line in further.splitlines() if " helped" in line]
    assert lines[:3] == [["leave-one-out", "elsewhere"], ["mix-50", "own"], ["elsewhere"]]
    plain = " ".join(text.split())
    assert note in plain
    assert "without a site's release, at that site; minus the control models" in plain
    assert "all test sites have equal weight" in plain


def test_another_sites_model_is_nobodys_in_its_place() -> None:
    rows = [row("finetuned", "c", "a", patient, 0, 0.4) for patient in range(12)]
    rows += [row("local2x", "a", "a", patient, 0, 0.6) for patient in range(12)]
    for found in (
        summary(rows).contrasts,
        contrasts_of(rows, ("a", "b")),  # c is no site of these
    ):
        (one,) = (c for c in found if (c.first, c.site, c.tested) == ("finetuned", "a", "own"))
        assert one.difference is None


def test_a_summary_of_an_earlier_version_is_read() -> None:
    told = summary(with_settings()).to_json()
    del told["notes"]
    for one in told["contrasts"]:
        del one["false"], one["lost"], one["could_lose"]
    assert len(read(told).contrasts) == len(summary(with_settings()).contrasts)
