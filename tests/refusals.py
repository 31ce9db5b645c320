"""What is refused is known by the code of its error: messages may be worded anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from click.testing import Result

from hyfree_ray.core.errors import HyfreeError, StageError


@contextlib.contextmanager
def refuses(code: str, *names: str) -> Iterator[pytest.ExceptionInfo[HyfreeError | StageError]]:
    """See that the block raises an error of this code, whose message has the names, in one line."""
    with pytest.raises((HyfreeError, StageError)) as caught:
        yield caught
    _check(caught.value, code, names)


def refused(result: Result, code: str, *names: str) -> str:
    """See that a command ended with an error of this code, whose message has the names.

    Returns:
        The one line that it printed, without `error: `.
    """
    assert isinstance(result.exception, SystemExit), result.output
    error = result.exception.__cause__
    assert isinstance(error, HyfreeError | StageError), result.output
    _check(error, code, names)
    assert result.exit_code == error.exit_code
    assert "Traceback" not in result.output
    assert [line for line in result.output.splitlines() if "error: " in line] == [f"error: {error}"]
    return str(error)


def _check(error: HyfreeError | StageError, code: str, names: tuple[str, ...]) -> None:
    said = str(error)
    assert error.code == code, said
    assert "\n" not in said
    assert [name for name in names if name not in said] == [], said
