"""How every command ends when it is told to: at once, with a line that says how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import click

GO_ON = "nothing is lost: to go on, give the same command again"


class TerminatedError(BaseException):
    """SIGTERM: a scheduler wants the machine back."""


def take_sigterm() -> None:
    """Have SIGTERM raise `TerminatedError`; again after a library has put its own handler there."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)


@contextlib.contextmanager
def ends_at_signals() -> Iterator[None]:
    """Leave on Ctrl-C with 130 and on SIGTERM with 143, and say how to go on."""
    before = signal.getsignal(signal.SIGTERM)
    take_sigterm()
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"interrupted; {GO_ON}", err=True)
        leave(130)
    except TerminatedError:
        click.echo(f"terminated; {GO_ON}", err=True)
        leave(143)
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def leave(code: int) -> NoReturn:
    """End this process now: a stage may run in one of its threads, and is made to be killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _terminated(*_: object) -> None:
    raise TerminatedError
