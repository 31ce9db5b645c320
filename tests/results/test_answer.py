"""The last screen of a run."""

from __future__ import annotations

import dataclasses

import pytest

from hyfree_ray.results.answer import render_answer
from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.summary import Summary
from hyfree_ray.results.table import table_text
from tests.results.test_results import OUTCOMES, whole_run


def found(**more: str) -> Summary:
    return summarise("r", whole_run(), counts={}, outcomes=OUTCOMES, **more)


def of_five(summary: Summary) -> Summary:
    """The first site's lines under five names of a usual length."""
    names = [f"Hospital-{number}" for number in range(5)]
    site, verdict = summary.sites[0], summary.verdicts[0]
    lines = [one for one in summary.contrasts if one.site == "a"]
    return dataclasses.replace(
        summary,
        sites=tuple(
            dataclasses.replace(site, outcome=dataclasses.replace(site.outcome, site=name))
            for name in names
        ),
        verdicts=tuple(dataclasses.replace(verdict, site=name) for name in names),
        contrasts=(
            *(dataclasses.replace(one, site=name) for name in names for one in lines),
            *(one for one in summary.contrasts if one.site is None),
        ),
    )


@pytest.mark.parametrize("warning", ["", "networks have learned nothing"])
def test_the_answer_of_five_hospitals_fits_a_screen(warning: str) -> None:
    """Four lines below it say where all tables, the report, the files and MLflow are."""
    lines = table_text(render_answer(of_five(found(warning=warning))), width=100).splitlines()
    assert len(lines) <= 30 - 4 - 1  # and the prompt
    assert max(len(line) for line in lines) <= 100


@pytest.mark.parametrize("width", [76, 80, 100, 140])
def test_no_number_is_cut_whatever_the_width(width: int) -> None:
    text = table_text(render_answer(found()), width=width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for one in found().contrasts:
        if one.first == found().verdicts[0].model:
            assert one.format_interval() in text


def test_every_hospital_has_its_verdict_and_its_line() -> None:
    summary = found()
    lines = table_text(render_answer(summary), width=100).splitlines()
    assert lines[0] == "Would sharing help?"
    for one in summary.verdicts:
        assert any(line.startswith(f" {one.site}: {one.advice}") for line in lines)
    rows = [line.split() for line in lines]
    (withheld,) = (row for row in rows if row[:1] == ["c"])
    assert "withheld" in withheld
    assert any(row[:2] == ["all", "sites"] for row in rows)


def test_where_numbers_mean_nothing_no_word_is_said_of_them() -> None:
    text = table_text(render_answer(found(warning="networks have learned nothing")), width=100)
    assert text.startswith("NOT A RESULT: networks have learned nothing")
    assert "a: no verdict\n" in text


def test_without_a_shared_model_the_answer_is_the_table_of_dice() -> None:
    rows = [one for one in whole_run() if one.regime in {"local", "local2x"}]
    text = table_text(render_answer(summarise("r", rows, counts={}, outcomes=OUTCOMES)), width=100)
    assert "Dice on real test cases" in text
    assert "Would sharing help" not in text
