"""The real protocol with toy stages on Ray, and what is done to it meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from hyfree_ray.core.records import RECORD
from hyfree_ray.evaluation.scores import write_results
from hyfree_ray.federation import protocol
from hyfree_ray.federation.simulation import score_rows
from hyfree_ray.runners.ray_parties import RayParty, start_parties
from hyfree_ray.scheduling.resources import Execution
from tests import toys

Disturb = Callable[[Path, dict[str, RayParty]], Awaitable[None]]


@contextmanager
def workers_run_toys(**environment: str) -> Iterator[None]:
    """Workers of clusters that are started meanwhile run toys, a tenth of a second a step."""
    patch = pytest.MonkeyPatch()
    patch.setenv("__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR", "tests.toys.install")
    patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    patch.setenv(toys.STEP_S, "0.1")
    for name, value in environment.items():
        patch.setenv(name, value)
    try:
        yield
    finally:
        patch.undo()


async def federate(
    store: Path, disturb: Disturb, execution: Execution | None = None, **rules: Any
) -> protocol.Outcome:
    """A whole run on Ray while `disturb` does its worst."""
    simulation = toys.toy_simulation()
    parties = start_parties(simulation, store, "cpu", execution)
    try:
        running = protocol.simulate(parties, **rules)
        outcome, _ = await asyncio.gather(running, disturb(store, parties))
    finally:
        for party in parties.values():
            ray.kill(party.actor)
        # Ray would end it once nothing refers to it, which a cycle of objects may put off.
        ray.kill(ray.get_actor(f"{simulation.run}:scheduler"))
    write_results(store / "table.csv", score_rows(simulation, outcome))
    return outcome


async def attempt_at(store: Path, pattern: str, least: int = 1) -> int:
    """Wait until a stage is being run, at least for the nth time: the process that runs it."""
    for _ in range(6000):
        for file in store.glob(f"{pattern}/attempts.jsonl"):
            lines = file.read_text().splitlines()
            if len(lines) >= least and not (file.parent / RECORD).exists():
                return int(json.loads(lines[-1])["pid"])
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {pattern} in {store}")


async def attempt_of_another(store: Path, pattern: str, known: set[Path]) -> tuple[int, Path]:
    """Wait until a stage that is none of the known ones is being run: its process and folder."""
    for _ in range(6000):
        for folder in set(store.glob(pattern)) - known:
            file = folder / "attempts.jsonl"
            lines = file.read_text().splitlines() if file.exists() else []
            if lines and not (folder / RECORD).exists():
                return int(json.loads(lines[-1])["pid"]), folder
        await asyncio.sleep(0.01)
    raise AssertionError(f"no other {pattern} in {store}")


async def finished(store: Path, pattern: str) -> None:
    """Wait until such a stage has been done."""
    for _ in range(6000):
        if list(store.glob(f"{pattern}/{RECORD}")):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {pattern} is done in {store}")


async def kill_actor(party: RayParty) -> None:
    pid = await party.actor.__ray_call__.remote(lambda _: os.getpid())
    os.kill(pid, signal.SIGKILL)


def table(store: Path, disturb: Disturb) -> bytes:
    asyncio.run(federate(store, disturb))
    return (store / "table.csv").read_bytes()


def attempts(store: Path, pattern: str) -> int:
    (file,) = store.glob(f"{pattern}/attempts.jsonl")
    return len(file.read_text().splitlines())


async def calm(store: Path, parties: dict[str, RayParty]) -> None:
    """Nothing is done to the run."""
