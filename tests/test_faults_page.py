"""docs/FAULTS.md and docs/BORDER.md: every fault has a line, every test that one names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "FAULTS.md").read_text()
BORDER = (ROOT / "docs" / "BORDER.md").read_text()

NUMBERS = {*range(1, 38), *range(76, 81), 82, 83}
"""Of processes and clusters, storage, sites and rounds, services."""

OF_THE_BORDER = {*range(38, 57), *range(58, 65), 66, 67, 68, *range(69, 75), *range(84, 90)} | {
    *range(91, 95),
    *range(101, 118),
}
"""Of hostile release files, images and hospital data, models, the privacy gate."""


def spans(text: str) -> set[int]:
    """The numbers of `1, 4-6 and 9`."""
    pairs = re.findall(r"(\d+)(?:-(\d+))?", text)
    return {number for low, high in pairs for number in range(int(low), int(high or low) + 1)}


def numbers_of(name: str) -> set[int]:
    """1 and 2 of `test_01_02_what_holds`."""
    return {int(number) for number in re.findall(r"(?<=_)\d\d(?=_)", name)}


def lines_of(page: str) -> set[int]:
    return {n for first in re.findall(r"^\| ([\d, -]+) \|", page, re.M) for n in spans(first)}


@pytest.fixture(scope="module")
def tests() -> dict[str, dict[str, str]]:
    """Names of the tests of each file, with what they say of themselves."""
    found = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        functions = [
            n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)
        ]
        found[file.relative_to(ROOT / "tests").with_suffix("").as_posix()] = {
            function.name: ast.get_docstring(function) or ""
            for function in functions
            if function.name.startswith("test_")
        }
    return found


def test_every_fault_has_a_line() -> None:
    assert lines_of(PAGE) == NUMBERS
    assert lines_of(BORDER) >= OF_THE_BORDER
    assert lines_of(BORDER) <= OF_THE_BORDER | NUMBERS


def test_every_fault_is_named_by_a_test(tests: dict[str, dict[str, str]]) -> None:
    """By the test's name, `test_01_02_...`, or by what it says of itself, as Case 40."""
    named: set[int] = set()
    for of_file in tests.values():
        for name, said in of_file.items():
            named |= numbers_of(name)
            for text in re.findall(r"\bCases? ([\d, and-]+)", said):
                named |= spans(text)
    assert (OF_THE_BORDER | NUMBERS) - named == set()


def test_every_test_that_the_border_names_is_there(tests: dict[str, dict[str, str]]) -> None:
    """A file, or a file with words of names of its tests, in their order."""
    wrong, count = [], 0
    for line in BORDER.splitlines():
        if not re.match(r"\| \d", line):
            continue
        column = re.sub(r"\([^)]*\)", "", line.rstrip(" |").split(" | ")[-1])
        named = re.findall(r"`(\w[\w/]*)`(?:: ([^`]+?))?(?=[.;] `|\. |$)", column)
        assert named, line
        for file, words in named:
            for phrase in re.split(r"[;,] ", words):
                name = "_".join(re.findall(r"[a-z0-9]+", phrase.lower().replace("'", "")))
                count += 1
                if not any(name in one for one in tests.get(file, ())):
                    wrong.append(f"{file}: {phrase}")
    assert count > 70
    assert not wrong


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
