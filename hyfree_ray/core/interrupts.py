"""End every command at once when a signal comes, with a line that says how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from hyfree_ray.core.error_codes import CODES
from hyfree_ray.core.failure import failure_line
from hyfree_ray.core.processes import descendants, kill_descendants

GO_ON = "nothing is lost; run the same command again to resume"

PATIENCE_S = 7.0
"""Seconds from a signal until the command is ended from without: a library that swallows the
interrupt, or that takes its time to close, does not hold it up."""

_PRINT_S = 1.0
"""The longest that the last line may take: its reader may have stopped, as a pager has."""

_CODES = {signal.SIGINT: "run.interrupted", signal.SIGTERM: "run.terminated"}

_signals: list[int] = []
"""The signals that came, in their order. Whoever got one exits: it is never emptied."""

_earlier_children: set[int] = set()
"""Processes that this one had before its command: a shell that becomes it by `exec` leaves them."""

_printing = threading.Lock()

_Result = TypeVar("_Result")


def is_interrupted() -> bool:
    """Return whether a signal asked this process to end; libraries may make any error of it."""
    return bool(_signals)


def run_interruptible(command: Callable[[], _Result]) -> _Result:
    """Run a command; exit on Ctrl-C with 130 and on SIGTERM with 143, and say how to go on.

    A function, not a context: between a context's last line and its end a signal would be lost.
    """
    # No lock is taken where a signal is met: a second signal could come while the first holds it.
    reader, writer = os.pipe()

    def on_signal(number: int, _frame: object) -> None:
        first = not _signals  # a second signal may come at any point of this
        _signals.append(number)
        if first:
            os.write(writer, b"!")
            raise KeyboardInterrupt  # asyncio and Ray let it through, and nothing of our own

    def exit_late() -> None:
        while os.read(reader, 1):
            if _signals:  # or a fork of this process got one, that has this pipe
                time.sleep(PATIENCE_S)
                exit_now(*_ending())
        os.close(reader)

    before: dict[int, Any] = {}
    try:
        _earlier_children.update(descendants(os.getpid()) - {os.getpid()})
        # A thread from the start: a signal may come while another one is being started.
        threading.Thread(target=exit_late, daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            for number in _CODES:
                before[number] = signal.getsignal(number)
                if before[number] != signal.SIG_IGN:
                    signal.signal(number, on_signal)
        return command()
    except KeyboardInterrupt:
        if not _signals:
            _signals.append(signal.SIGINT)
        raise
    finally:
        try:
            try:
                _ignore(before)
            except KeyboardInterrupt:  # in the last moment
                _ignore(before)
            if _signals:
                exit_now(*_ending())
        finally:
            os.close(writer)
            for handled, handler in before.items():
                signal.signal(handled, handler or signal.SIG_DFL)


def _ignore(numbers: Iterable[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _ending() -> tuple[str, int]:
    """Return the last line and the exit code, by the first signal."""
    code = _CODES[signal.Signals(_signals[0])]
    line = failure_line(code, f"{code.removeprefix('run.')}; {GO_ON}", mark="")
    return line, CODES[code].exit_code


def exit_now(line: str, code: int) -> NoReturn:
    """Print `line` and end this process and what it has started: stages are made to be killed.

    Where a signal asked it to end, the signal's line and exit code are taken instead.
    """
    if threading.current_thread() is threading.main_thread():
        _ignore(_CODES)  # a signal before that interrupts this, and `run_interruptible` exits
    if _signals:
        line, code = _ending()
    try:
        kill_descendants(_earlier_children)
        if _printing.acquire(blocking=False):  # once
            printer = threading.Thread(target=_print, args=(line,), daemon=True)
            printer.start()
            printer.join(_PRINT_S)
    finally:
        os._exit(code)


def _print(line: str) -> None:
    # Who reads it may have gone before, as `tee` does at Ctrl-C, and a daemon has no streams.
    with contextlib.suppress(Exception):
        print(line, file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
