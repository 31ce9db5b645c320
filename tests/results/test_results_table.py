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
    return summarise("r", whole_run(patients), counts=COUNTS, outcomes=OUTCOMES)


@pytest.mark.parametrize("width", [70, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    text = table_text(summary(), width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text


def test_a_row_a_site_says_what_became_of_it() -> None:
    lines = table_text(summary()).splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("Dice on real"))
    lines = lines[start:]
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
    plain = " ".join(text.split())
    together = "together: 8 stated before, 8 further; this run; training noise not included"
    assert plain.count(f"95 % intervals over test patients; {together}") == 1
    assert plain.count("The question stated before: Dice of finetuned minus local2x") == 1
    assert "cannot tell (4 patients)" in table_text(summary(patients=4), width=140)
    assert "No interval is given for fewer than 7 test" in table_text(summary(patients=4))


def test_short_names_are_explained_and_the_worst_site_stands_beside_the_mean() -> None:
    text = " ".join(table_text(summary(), width=140).split())
    assert "local2x: the hospital's own images alone, for as many steps as with sharing" in text
    assert "elsewhere: the other hospitals' test patients" in text
    found = summary()
    worst = min(
        (site.score("finetuned", "own") for site in found.sites),
        key=lambda score: 0.0 if score is None else score.primary or 0.0,
    )
    assert found.worst("finetuned", "own") == worst
    over_all = [one for one in found.contrasts if one.site is None and one.difference is not None]
    assert all(one.worst is not None and one.worst <= one.difference for one in over_all)
    assert all(one.describe_worst() in text for one in over_all)


def test_misses_are_counted_out_of_what_could_be_missed() -> None:
    line = next(line for line in table_text(summary()).splitlines() if "3/12" in line)
    assert line.split() == ["local", "own", "-", "-", "-", "3/12", "1/5"]


def test_the_heading_says_where_not_all_have_as_many_seeds() -> None:
    one, *others = (one for one in summary().contrasts if one.difference is not None)
    three = [dataclasses.replace(other, seeds=3) for other in others]
    assert covered(three, "").startswith("95 % intervals over test patients and 3 seeds; together")
    both = covered([one, *three], "x")
    assert both.startswith("95 % intervals over test patients and up to 3 seeds; together")
    assert both.endswith("; x")
    nobody = dataclasses.replace(one, difference=None)
    assert " and 3 seeds" in covered([nobody, *three], "")


def test_p_and_what_may_be_false_stand_where_there_is_room() -> None:
    wide, narrow = table_text(summary(), width=110), table_text(summary(), width=80)
    for column in ("  false  ", "lost >.1"):
        assert column in wide
        assert column not in narrow.split("difference: all test")[0]
    assert "<.001" in wide


def test_further_regimes_are_compared_with_the_control() -> None:
    rows = list(whole_run())
    rows += [dataclasses.replace(row, regime="real-all") for row in rows if row.regime == "local"]
    found = summarise("r", rows, counts={}, outcomes=OUTCOMES)
    assert "Dice of real-all minus local2x" in table_text(found)


def test_a_sites_name_is_text_and_not_markup() -> None:
    name = "[red]A[/red] [link=x]ö"
    outcomes = [dataclasses.replace(OUTCOMES[0], site=name), *OUTCOMES[1:]]
    found = summarise("r", whole_run(), counts={}, outcomes=outcomes)
    assert "[red]A[/red]" in table_text(found, width=160)
