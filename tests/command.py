"""The command line as a user calls it, in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.processes import forking

SIMULATE = ("simulate", "--budget", "smoke", "--precision", "fp32")


class Done(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A command that is running."""

    def __init__(self, *arguments: str | Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._printed = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        given = ([str(argument) for argument in arguments], self._printed)
        self._process = forking().Process(target=_run, args=(*given, dict(os.environ), Path.cwd()))
        self._process.start()

    def wait_until(self, so_far: Callable[[], object]) -> None:
        """Wait until that is true."""
        while not so_far():
            assert self._process.is_alive(), self.ended()
            time.sleep(0.02)

    def stderr(self) -> str:
        """Return what it has said so far."""
        return self._printed[1].read_text() if self._printed[1].exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(int(self._process.pid or 0), number)

    def ended(self, timeout: float = 400) -> Done:
        """Wait for its end.

        Raises:
            TimeoutError: it has not come.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"it still ran after {timeout} s")
        texts = [file.read_text() for file in self._printed]
        self._folder.cleanup()
        return Done(self._process.exitcode, *texts)


def simulate(store: Path, *options: str) -> Done:
    """`hyfree-ray simulate` at the smoke budget in fp32, to its end."""
    return Command(*SIMULATE, "--store", store, *options).ended()


def _run(
    arguments: list[str], printed: list[Path], environment: dict[str, str], folder: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(printed, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
    from hyfree_ray.cli import main

    main(arguments, prog_name="hyfree-ray")
