"""Runs with toys for stages in processes of their own: killing one costs milliseconds."""

from __future__ import annotations

import logging
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import toys
from tests.processes import forking

Start = Callable[..., Any]
Program = Callable[..., str]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a program of `toys` in a process of its own; what it says is in `STORE.log`."""
    context = forking()
    started = []

    def make(
        store: Path,
        *positional: str,
        program: Callable[..., None] = toys.federate,
        step_s: float = 0.002,
        largest_file: int | None = None,
        **named: Any,
    ) -> Any:
        process = context.Process(
            target=_child,
            args=(
                f"{store}.log",
                step_s,
                largest_file,
                program,
                positional or (str(store),),
                named,
            ),
        )
        process.start()
        started.append(process)
        return process

    yield make
    for process in started:
        process.kill()
        process.join()


def _child(
    log_file: str,
    step_s: float,
    largest_file: int | None,
    program: Callable[..., None],
    positional: tuple[str, ...],
    named: dict[str, Any],
) -> None:
    os.environ[toys.STEP_S] = str(step_s)
    log = Path(log_file).open("a", buffering=1)  # noqa: SIM115 - until the process ends
    sys.stdout = sys.stderr = log
    logging.basicConfig(stream=log, level=logging.INFO)
    os.fsync = lambda _: (
        None
    )  # what was written outlives a process that is killed, be it synced or not
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    program(*positional, **named)


@pytest.fixture(scope="session")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a run that nothing happened to."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    process = start(store)
    process.join()
    assert process.exitcode == 0, (store.parent / "store.log").read_text()
    return (store / "table.csv").read_bytes()


@pytest.fixture
def dice() -> random.Random:
    """Random times; the seed is in the output of a test that fails, CHAOS_SEED sets it."""
    seed = int(os.environ.get("CHAOS_SEED", time.time_ns() % 10**9))
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def program(start: Start, tmp_path: Path) -> Program:
    return program_with_toys(start, tmp_path)


def program_with_toys(start: Start, folder: Path) -> Program:
    """Runs a command with toys, in a process of its own; gives back what it printed."""

    def run(*arguments: Any, code: int = 0) -> str:
        log = folder / "program"
        Path(f"{log}.log").unlink(missing_ok=True)
        process = start(log, *(str(a) for a in arguments), program=toys.program)
        process.join()
        printed = Path(f"{log}.log").read_text()
        assert process.exitcode == code, printed
        return printed

    return run
