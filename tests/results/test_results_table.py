from __future__ import annotations

import dataclasses
import functools
import re

import pytest

from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.summary import Summary
from hyfree_ray.results.table import covered, table_text
from tests.results.test_results import OUTCOMES, whole_run

COUNTS = {
    ("local", "a", "a"): {"scored": 9, "missed": 3, "both-empty": 4, "false-alarm": 1},
}


@functools.cache
def summary(patients: int = 12) -> Summary:
    return summarise("r", whole_run(patients), counts=COUNTS, outcomes=OUTCOMES, seed=0)


@pytest.mark.parametrize("width", [70, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    text = table_text(summary(), width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text


def test_a_row_a_site_says_what_became_of_it() -> None:
    lines = table_text(summary()).splitlines()
    assert lines[2].split() == [
        "site", "released", "rejected", "local", "local2x", "general", "finetuned",
    ]  # fmt: skip
    rows = {line.split()[0]: line.split()[1:3] for line in lines[4:7]}
    assert rows == {"a": ["400", "1.0%"], "b": ["150", "-"], "c": ["withheld", "70.0%"]}
    assert "c: release withheld: copies" in table_text(summary())


def test_the_words_and_the_caveat_stand_beside_the_numbers() -> None:
    text = table_text(summary())
    assert "Dice of finetuned minus local2x" in text
    assert "Dice of general minus local2x" in text
    assert re.search(r"\[\+\.\d{3}, \+\.\d{3}\] .* helped\n", text)
    assert re.search(r"\[-\.\d{3}, -\.\d{3}\] .* hurt\n", text)
    assert (
        text.count("95 % interval over test patients; this run; training noise not included") == 1
    )
    assert "cannot tell with 4 patients: about" in table_text(summary(patients=4), width=140)
    assert "No interval is given for fewer than 10 test" in table_text(summary(patients=4))


def test_misses_are_counted_out_of_what_could_be_missed() -> None:
    line = next(line for line in table_text(summary()).splitlines() if "3/12" in line)
    assert line.split() == ["local", "own", "-", "-", "-", "3/12", "1/5"]


def test_the_heading_says_where_not_all_have_as_many_seeds() -> None:
    one, *others = (one for one in summary().contrasts if one.difference is not None)
    three = [dataclasses.replace(other, seeds=3) for other in others]
    assert covered(three, "") == "95 % interval over test patients and 3 seeds"
    assert covered([one, *three], "x") == "95 % interval over test patients and up to 3 seeds; x"
    nobody = dataclasses.replace(one, difference=None)
    assert covered([nobody, *three], "") == covered(three, "")


def test_p_values_and_effects_stand_where_there_is_room() -> None:
    wide, narrow = table_text(summary(), width=110), table_text(summary(), width=80)
    assert "p 1-sided" in wide
    assert "<.001" in wide
    assert "p 1-sided" not in narrow


def test_further_regimes_are_compared_with_the_control() -> None:
    rows = list(whole_run())
    rows += [dataclasses.replace(row, regime="real-all") for row in rows if row.regime == "local"]
    found = summarise("r", rows, counts={}, outcomes=OUTCOMES, seed=0)
    assert "Dice of real-all minus local2x" in table_text(found)


def test_a_sites_name_is_text_and_not_markup() -> None:
    name = "[red]A[/red] [link=x]ö"
    outcomes = [dataclasses.replace(OUTCOMES[0], site=name), *OUTCOMES[1:]]
    found = summarise("r", whole_run(), counts={}, outcomes=outcomes, seed=0)
    assert "[red]A[/red]" in table_text(found, width=160)
