"""How a command says why it failed: the last line on standard error, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hyfree_ray.core.error_codes import CODES
from hyfree_ray.core.errors import HyfreeError, StageError

_as_json = False


def choose_format(arguments: Sequence[str]) -> None:
    """Take the format of standard error from a command's arguments, which may turn out to be wrong:
    that of `--log-format`, else of `--format`."""
    global _as_json
    chosen = {}
    for given, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = given.partition("=")
        chosen[name] = value if equals else following
    _as_json = chosen.get("--log-format", chosen.get("--format")) == "json"


def failure_line(
    code: str, message: str, *, exit_code: int | None = None, mark: str = "error: "
) -> str:
    """Return `mark` and the message, or an object with `code`, `message` and `exit_code`.

    Args:
        code: one of `CODES`.
        message: one line.
        exit_code: where it is not the code's own, as of another process that failed.
        mark: stands before a message in text.
    """
    if not _as_json:
        return f"{mark}{message}"
    exit_code = CODES[code].exit_code if exit_code is None else exit_code
    return json.dumps({"code": code, "message": message, "exit_code": exit_code})


def error_line(error: BaseException) -> str:
    """Return the line of an error; of one that nobody expected, `internal.unexpected`."""
    if isinstance(error, (HyfreeError, StageError)):
        return failure_line(error.code, str(error))
    return failure_line("internal.unexpected", str(error))
