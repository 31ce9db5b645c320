"""The record of error codes: every raise has one of its codes, and docs/ERRORS.md shows them."""

from __future__ import annotations

import ast
import functools
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyfree_ray
from hyfree_ray.core.error_codes import CODES
from hyfree_ray.core.errors import ClusterError, HyfreeError, ReleaseError, StageError

ROOT = Path(hyfree_ray.__file__).parent
PAGE = ROOT.parent / "docs" / "ERRORS.md"

CODED = {"HyfreeError": 0, "PrivacyError": 0, "ClusterError": 0, "failure_line": 0}
"""Where the code stands among the arguments of what is raised or printed."""

RULED = {"ReleaseError": 1, "LayoutError": 0, "UntrustedFileError": 0, "as_release_error": 1}
"""Where the rule does, whose code is `release.RULE`."""

KEYWORDS = {"code": "", "rule": "release."}


@functools.cache
def nodes() -> list[tuple[str, ast.AST]]:
    """All nodes of the package's code, but the record's, with where they stand."""
    return [
        (f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node)
        for file in sorted(ROOT.rglob("*.py"))
        if file.name != "error_codes.py"
        for node in ast.walk(ast.parse(file.read_text()))
    ]


def calls() -> Iterator[tuple[str, ast.Call]]:
    return ((where, node) for where, node in nodes() if isinstance(node, ast.Call))


def codes_in(call: ast.Call) -> list[ast.expr | str]:
    """The codes that a call names; an expression where it is not spelt out."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    found = [(k.value, KEYWORDS[k.arg]) for k in call.keywords if k.arg in KEYWORDS]
    for places, area in ((CODED, ""), (RULED, "release.")):
        if name in places and len(call.args) > places[name]:
            found.append((call.args[places[name]], area))
    return [one for value, area in found for one in spelt_out(value, area)]


def spelt_out(value: ast.expr, area: str) -> Iterator[ast.expr | str]:
    if isinstance(value, ast.IfExp):
        yield from (*spelt_out(value.body, area), *spelt_out(value.orelse, area))
    elif isinstance(value, ast.Constant):
        yield f"{area}{value.value}"
    else:
        yield value


def strings() -> set[str]:
    return {str(node.value) for _, node in nodes() if isinstance(node, ast.Constant)}


def test_every_error_has_a_code_of_the_record_or_hands_on_anothers() -> None:
    wrong, count = [], 0
    for where, call in calls():
        for code in codes_in(call):
            count += 1
            handed_on = isinstance(code, (ast.Attribute, ast.Name))
            if not handed_on and code not in CODES:
                wrong.append(f"{where}: {ast.unparse(code) if isinstance(code, ast.AST) else code}")
    assert not wrong
    assert count > 250


def test_every_raise_names_its_code_first() -> None:
    wrong = [
        where
        for where, call in calls()
        if isinstance(call.func, ast.Name) and call.func.id in CODED | RULED and not codes_in(call)
    ]
    assert not wrong


def test_every_code_of_the_record_is_raised_somewhere() -> None:
    named = {code for _, call in calls() for code in codes_in(call)} | strings()
    rules = {f"release.{text}" for text in strings()}  # a rule may be handed on first
    assert CODES.keys() - named - rules == set()


def test_codes_are_in_order_and_known_by_their_area() -> None:
    assert list(CODES) == sorted(CODES)
    assert {code.count(".") for code in CODES} == {1}
    assert {code.exit_code for code in CODES.values()} == {0, 1, 2, 3, 130, 143}


def test_a_misspelt_code_is_no_error_of_ours() -> None:
    with pytest.raises(KeyError):
        HyfreeError("data.to-few-patients", "site-1: four patients; add one")


@pytest.mark.parametrize(
    "error",
    [
        HyfreeError("data.too-few-patients", "site-1: four patients; add one"),
        ClusterError("cluster.head-lost", "the head is gone; give the same command again"),
        ReleaseError("site-1", "signature", "not signed"),
        StageError("site-1", "train_generator", "out of memory", "log.txt"),
    ],
)
def test_errors_travel_between_processes(error: HyfreeError | StageError) -> None:
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is type(error)
    assert (same.code, same.exit_code, str(same)) == (error.code, error.exit_code, str(error))


def table() -> str:
    """The page's table, made of the record."""
    lines = ["| code | what is wrong | exit code |", "|---|---|---|"]
    lines += [
        f"| `{code}` | {known.meaning} | {known.exit_code} |" for code, known in CODES.items()
    ]
    return "\n".join(lines) + "\n"


def test_the_page_shows_the_record() -> None:
    """To write it again: `python -m tests.core.test_error_codes`."""
    assert PAGE.read_text().endswith("\n\n" + table())


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition("| code |")[0] + table())
