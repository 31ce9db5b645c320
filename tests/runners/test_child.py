"""A call in a process of its own: what comes back, and how it ends."""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path

import pytest

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.runners.child import ChildError, call_in_child


def chatter(value: object) -> tuple[object, int]:
    """Return the value, after a library has printed on both streams."""
    print("what a library prints")
    print("and warns of", file=sys.stderr)
    return value, os.getpid()


def refuse() -> None:
    raise HyfreeError("run.not-found", "no such thing")


def divide() -> float:
    logging.basicConfig()
    return 1 / 0


def test_a_result_comes_back_by_value_whatever_is_printed(tmp_path: Path) -> None:
    log_file = tmp_path / "log.txt"
    value = {"path": tmp_path, "numbers": tuple(range(100_000))}
    work = functools.partial(chatter, value)
    found, pid = call_in_child(work, title="a test", log_file=log_file)
    assert (found, pid == os.getpid()) == (value, False)
    assert set(log_file.read_text().splitlines()) == {"what a library prints", "and warns of"}


def test_what_it_refuses_is_its_last_line_and_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"^error: no such thing$") as caught:
        call_in_child(refuse, title="a test", log_file=tmp_path / "log.txt")
    assert caught.value.exit_code == 2


def test_what_nobody_foresaw_is_logged_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"^error: division by zero$") as caught:
        call_in_child(divide, title="a test", log_file=tmp_path / "log.txt")
    assert caught.value.exit_code == 1
    assert "please report it\nTraceback" in (tmp_path / "log.txt").read_text()


def test_without_a_log_the_user_has_seen_its_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildError, match=r"^$"):
        call_in_child(refuse, title="a test")
    assert capfd.readouterr().err == "error: no such thing\n"
