"""How every command ends when it is told to: at once, with a line that says how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import click

from hyfree_ray.processes import kill_descendants

GO_ON = "nothing is lost: to go on, give the same command again"

PATIENCE_S = 7.0
"""After a signal, until the command is ended from without: a library that swallows the interrupt,
or that takes its time to close, does not hold it up."""

_WORDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}


@contextlib.contextmanager
def ends_at_signals() -> Iterator[None]:
    """Leave on Ctrl-C with 130 and on SIGTERM with 143, and say how to go on."""
    told: list[int] = []
    over = threading.Event()

    def tell(number: int, _frame: object) -> None:
        told.append(number)
        over.set()
        raise KeyboardInterrupt  # asyncio and Ray let it through, and nothing of our own

    def end_late() -> None:
        over.wait()
        if told:
            time.sleep(PATIENCE_S)
            _say_and_leave(told[0])

    before = {}
    if threading.current_thread() is threading.main_thread():
        # A thread from the start: a signal may come while another one is being started.
        threading.Thread(target=end_late, daemon=True).start()
        for number in _WORDS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, tell)
    try:
        yield
    except KeyboardInterrupt:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        _say_and_leave(told[0] if told else signal.SIGINT)
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _say_and_leave(number: int) -> NoReturn:
    word, code = _WORDS[signal.Signals(number)]
    click.echo(f"{word}; {GO_ON}", err=True)
    leave(code)


def leave(code: int) -> NoReturn:
    """End this process and what it has started now: stages run there, made to be killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    kill_descendants()
    os._exit(code)
