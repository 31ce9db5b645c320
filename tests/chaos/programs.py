"""Commands with toy stages, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import toys


@contextmanager
def under_way(
    store: Path, *command: str, checkpoint: str = "**/checkpoints/*.sha256"
) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, once there is a checkpoint in its store.

    Its trainings take a second a step.
    """
    with begun(
        store, *command, until=lambda process: bool(list(store.glob(checkpoint)))
    ) as process:
        yield process


@contextmanager
def begun(
    store: Path, *command: str, until: Callable[[subprocess.Popen[str]], bool]
) -> Iterator[subprocess.Popen[str]]:
    """The same, once something is true."""
    with subprocess.Popen(  # which closes its pipes and waits
        [sys.executable, "-m", "tests.toys", *command, "--store", str(store)],
        env={**os.environ, toys.STEP_S: "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 180
        while not until(process):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
        process.kill()
