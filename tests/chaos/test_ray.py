"""Parties and stages on Ray under faults; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from hyfree_ray import protocol
from hyfree_ray.runners.ray import RayParty, connect, disconnect, start_parties
from hyfree_ray.scores import write_results
from hyfree_ray.simulation import score_rows
from hyfree_ray.store import RECORD
from tests.chaos import toys

ROOT = Path(__file__).parents[2]

Disturb = Callable[[Path, dict[str, RayParty]], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster whose workers run toys."""
    patch = pytest.MonkeyPatch()
    patch.setenv("__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR", "tests.chaos.toys.install")
    patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    patch.setenv(toys.STEP_S, "0.1")
    connect("local", cpus=4)
    yield
    disconnect()
    patch.undo()


async def federate(store: Path, disturb: Disturb, **rules: Any) -> protocol.Outcome:
    """A whole run on Ray while `disturb` does its worst."""
    simulation = toys.toy_simulation()
    parties = start_parties(simulation, store, "cpu")
    disturbing = asyncio.ensure_future(disturb(store, parties))
    try:
        outcome = await protocol.simulate(parties, **rules)
        await disturbing
    finally:
        for party in parties.values():
            ray.kill(party.actor)
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


async def kill_actor(party: RayParty) -> None:
    pid = await party.actor.__ray_call__.remote(lambda _: os.getpid())
    os.kill(pid, signal.SIGKILL)


def table(store: Path, disturb: Disturb) -> bytes:
    asyncio.run(federate(store, disturb))
    return (store / "table.csv").read_bytes()


def attempts(store: Path, pattern: str) -> int:
    (file,) = store.glob(f"{pattern}/attempts.jsonl")
    return len(file.read_text().splitlines())


def test_01_04_a_stage_a_site_and_the_pool_are_killed_and_the_table_is_the_same(
    undisturbed: bytes, tmp_path: Path
) -> None:
    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        os.kill(await attempt_at(store, "sites/site-1/stages/train_generator-*"), signal.SIGKILL)
        await attempt_at(store, "sites/site-2/stages/train_segmenter-*")
        await kill_actor(parties["site-2"])
        os.kill(await attempt_at(store, "pool/stages/train_general-*"), signal.SIGKILL)
        await attempt_at(store, "pool/stages/train_general-*", 2)
        await kill_actor(parties["pool"])

    store = tmp_path / "store"
    assert table(store, disturb) == undisturbed
    assert attempts(store, "sites/site-1/stages/train_generator-*") == 2
    assert attempts(store, "pool/stages/train_general-*") == 3
    assert len(list(store.glob("pool/received/*/release-*"))) == 3  # O2: one a site


@pytest.mark.chaos
@pytest.mark.parametrize(
    "stage", ["prepare", "train_segmenter", "synthesise", "release", "score", "quality_card"]
)
def test_01_a_worker_is_killed_in_any_other_stage(
    undisturbed: bytes, tmp_path: Path, stage: str
) -> None:
    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        os.kill(await attempt_at(store, f"sites/*/stages/{stage}-*"), signal.SIGKILL)

    assert table(tmp_path / "store", disturb) == undisturbed


@pytest.mark.chaos
def test_03_a_stage_killed_three_times_succeeds(undisturbed: bytes, tmp_path: Path) -> None:
    stage = "sites/site-3/stages/train_generator-*"

    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        for count in range(1, 4):
            os.kill(await attempt_at(store, stage, count), signal.SIGKILL)

    assert table(tmp_path / "store", disturb) == undisturbed
    assert attempts(tmp_path / "store", stage) == 4
