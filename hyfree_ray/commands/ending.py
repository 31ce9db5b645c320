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

from hyfree_ray.processes import kill_descendants

GO_ON = "nothing is lost: to go on, give the same command again"


@contextlib.contextmanager
def ends_at_signals() -> Iterator[None]:
    """Leave on Ctrl-C with 130 and on SIGTERM with 143, and say how to go on."""
    told: list[object] = []

    def terminated(*said: object) -> None:
        told.append(said)
        raise KeyboardInterrupt  # asyncio and Ray let it through, and nothing of our own

    before = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"{'terminated' if told else 'interrupted'}; {GO_ON}", err=True)
        leave(143 if told else 130)
    finally:
        if before is not None and in_main_thread:
            signal.signal(signal.SIGTERM, before)


def leave(code: int) -> NoReturn:
    """End this process and what it has started now: stages run there, made to be killed."""
    sys.stdout.flush()
    sys.stderr.flush()
    kill_descendants()
    os._exit(code)
