"""docs/FAULTS.md: every fault has a line, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "FAULTS.md").read_text()

NUMBERS = {*range(1, 38), *range(76, 81), 82, 83}
"""Of processes and clusters, storage, sites and rounds, services. The border has its own page."""


def test_every_fault_has_a_line() -> None:
    found: set[int] = set()
    for first in re.findall(r"^\| ([\d, -]+) \|", PAGE, re.M):
        for part in first.split(","):
            low, _, high = part.strip().partition("-")
            found |= set(range(int(low), int(high or low) + 1))
    assert found == NUMBERS


def test_every_test_that_is_named_is_there() -> None:
    named = [
        one
        for one in re.findall(r"`([\w/]+\.py)(?:::(\w+)(\*?))?`", PAGE)
        if not one[0].startswith("benchmarks/")
    ]
    assert len(named) > 40
    wrong = []
    for file, name, more in named:
        path = ROOT / "tests" / file.removeprefix("tests/")
        text = path.read_text() if path.exists() else ""
        wanted = rf"def {name}" + (r"\w*\(" if more else r"\(") if name else "def test_"
        if not re.search(wanted, text):
            wrong.append(f"{file}::{name}{more}")
    assert not wrong
