"""docs/RESULTS.md says what the scores beside it say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "RESULTS.md"


@pytest.mark.slow
def test_the_tables_are_those_that_the_scores_make_and_no_file_is_left_out() -> None:
    made = runpy.run_path(str(PAGE.parent / "results" / "tables.py"))
    read, names = made["read"], set()

    def noted(stem: str) -> object:
        names.add(stem)
        return read(stem)

    made["pages"].__globals__["read"] = noted
    tables = "\n".join(made["pages"]()).strip().split("\n\n")
    page = PAGE.read_text()
    assert len(tables) > 2
    for table in tables:
        assert f"\n\n{table}\n\n" in page, table
    files = {file.name.removesuffix(".csv.gz") for file in PAGE.parent.glob("results/*.csv.gz")}
    assert names <= files
    for stem in files - names:
        assert f"`{stem}`" in page, f"{stem}: of which run is it?"
