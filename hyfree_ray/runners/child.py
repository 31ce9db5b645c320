"""Calls in processes of their own: a function and its arguments are sent by value."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.failure import error_line
from hyfree_ray.core.interrupts import exit_now, is_interrupted, run_interruptible
from hyfree_ray.core.isolation import isolated_command

log = logging.getLogger("hyfree_ray")

R = TypeVar("R")

_PROGRAM = "from hyfree_ray.runners.child import main; main()"


class ChildError(Exception):
    """A call's process ended with another exit code than 0.

    Args:
        exit_code: the one that it ended with; 1 where a signal ended it.
        message: its last words, one line; empty where the user has seen them.
    """

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(exit_code, message)
        self.exit_code = exit_code
        self.message = message

    def __str__(self) -> str:
        return self.message


def call_in_child(function: Callable[[], R], *, title: str, log_file: Path | None = None) -> R:
    """Call a function in a process of its own and return what it returns.

    Args:
        function: it is pickled: a module's function, or a partial of one.
        title: what lists of processes show of it.
        log_file: what it writes to standard output and error; None: to this process's error.

    Raises:
        ChildError: it did not return.
    """
    call = pickle.dumps(function)
    command = isolated_command(_PROGRAM, title)
    if log_file is None:
        done = subprocess.run(command, input=call, stdout=subprocess.PIPE, check=False)
    else:
        with log_file.open("w") as file:
            done = subprocess.run(
                command, input=call, stdout=subprocess.PIPE, stderr=file, check=False
            )
    if done.returncode < 0:  # its last words are of what it was at
        raise ChildError(1, f"killed by signal {-done.returncode}")
    if done.returncode > 0:
        raise ChildError(done.returncode, "" if log_file is None else _last_line(log_file))
    result: R = pickle.loads(done.stdout)
    return result


def _last_line(log_file: Path) -> str:
    lines = log_file.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a message"


def main() -> None:
    """Run the call that stands on standard input; its result goes to standard output."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no result
    function = pickle.load(sys.stdin.buffer)
    try:
        result = run_interruptible(function)
    except Exception as error:
        exit_now(error_line(error), exit_code_of(error))
    with answer:
        pickle.dump(result, answer)


def exit_code_of(error: Exception) -> int:
    """Return the exit code of what failed by an error; log one that nobody has foreseen."""
    if isinstance(error, (HyfreeError, StageError)):
        return error.exit_code
    if not is_interrupted():  # or a library made this of the interrupt
        log.error("this should not have happened; please report it", exc_info=error)
    return 1
