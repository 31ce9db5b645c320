"""How every command ends when it is told to: at once, with a line that says how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import click

from hyfree_ray.core.processes import descendants, kill_descendants

GO_ON = "nothing is lost: to go on, give the same command again"

PATIENCE_S = 7.0
"""After a signal, until the command is ended from without: a library that swallows the interrupt,
or that takes its time to close, does not hold it up."""

_SPEAK_S = 1.0
"""The longest that the last line may take: its reader may have stopped, as a pager has."""

_WORDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}

_told: list[int] = []
"""The signals that came, in their order. Who was told leaves: it is never emptied."""

_found_there: set[int] = set()
"""Processes that this one had before its command: a shell that becomes it by `exec` leaves them."""

_speaking = threading.Lock()

_Result = TypeVar("_Result")


def is_told() -> bool:
    """Whether a signal told this process to end; its libraries may make any error of it."""
    return bool(_told)


def until_told(command: Callable[[], _Result]) -> _Result:
    """Run a command; leave on Ctrl-C with 130 and on SIGTERM with 143, and say how to go on.

    A function, not a context: between a context's last line and its end a signal would be lost.
    """
    # No lock is taken where a signal is met: a second signal could come while the first holds it.
    ear, mouth = os.pipe()

    def tell(number: int, _frame: object) -> None:
        first = not _told  # a second signal may come at any point of this
        _told.append(number)
        if first:
            os.write(mouth, b"!")
            raise KeyboardInterrupt  # asyncio and Ray let it through, and nothing of our own

    def end_late() -> None:
        while os.read(ear, 1):
            if _told:  # or a fork of this process was, that has this pipe
                time.sleep(PATIENCE_S)
                leave(*_told_words())
        os.close(ear)

    before: dict[int, Any] = {}
    try:
        _found_there.update(descendants(os.getpid()) - {os.getpid()})
        # A thread from the start: a signal may come while another one is being started.
        threading.Thread(target=end_late, daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            for number in _WORDS:
                before[number] = signal.getsignal(number)
                if before[number] != signal.SIG_IGN:
                    signal.signal(number, tell)
        return command()
    except KeyboardInterrupt:
        if not _told:
            _told.append(signal.SIGINT)
        raise
    finally:
        try:
            try:
                _turn_deaf(before)
            except KeyboardInterrupt:  # in the last moment
                _turn_deaf(before)
            if _told:
                leave(*_told_words())
        finally:
            os.close(mouth)
            for heard, handler in before.items():
                signal.signal(heard, handler or signal.SIG_DFL)


def _turn_deaf(numbers: Iterable[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _told_words() -> tuple[str, int]:
    word, code = _WORDS[signal.Signals(_told[0])]
    return f"{word}; {GO_ON}", code


def leave(line: str, code: int) -> NoReturn:
    """Say `line` and end this process and what it has started now: stages are made to be killed.

    Where a signal told it to end, that is what it says and what its exit code tells.
    """
    if threading.current_thread() is threading.main_thread():
        _turn_deaf(_WORDS)  # a signal before that interrupts this, and `until_told` leaves
    if _told:
        line, code = _told_words()
    try:
        kill_descendants(_found_there)
        if _speaking.acquire(blocking=False):  # once
            speaker = threading.Thread(target=_say, args=(line,), daemon=True)
            speaker.start()
            speaker.join(_SPEAK_S)
    finally:
        os._exit(code)


def _say(line: str) -> None:
    # Who reads it may have gone before, as `tee` does at Ctrl-C, and a daemon has no streams.
    with contextlib.suppress(Exception):
        click.echo(line, err=True)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
