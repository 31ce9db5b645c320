"""docs/RESULTS.md says what the scores beside it say."""

from __future__ import annotations

import runpy
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "RESULTS.md"
MADE = runpy.run_path(str(PAGE.parent / "results" / "tables.py"))


def test_the_tables_are_those_that_the_scores_make() -> None:
    lines = [line for line in MADE["pages"]() if line]
    assert len(lines) > 20
    page = set(PAGE.read_text().splitlines())
    assert [line for line in lines if line not in page] == []


def test_every_file_of_scores_is_read_or_named() -> None:
    text = PAGE.read_text()
    for file in PAGE.parent.glob("results/*.csv.gz"):
        stem = file.name.removesuffix(".csv.gz")
        cohort = stem.split("-")[0]
        assert cohort in dict(MADE["COHORTS"]) or stem in text, file.name
