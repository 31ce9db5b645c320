"""Parties and stages on Ray under faults; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyfree_ray.core.journal import METRICS
from hyfree_ray.federation.participation import Rules
from hyfree_ray.runners.ray_cluster import connect, disconnect
from hyfree_ray.runners.ray_parties import RayParty
from hyfree_ray.runners.ray_train import RayTrainLaunch
from tests import toys
from tests.chaos.on_ray import (
    attempt_at,
    attempt_of_another,
    attempts,
    federate,
    finished,
    kill_actor,
    table,
    workers_run_toys,
)

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster whose workers run toys."""
    with workers_run_toys():
        connect("local", cpus=4)
        yield
        disconnect()


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


@pytest.mark.parametrize(
    "stage", ["prepare", "train_segmenter", "synthesise", "release", "score", "quality_card"]
)
def test_01_a_worker_is_killed_in_any_other_stage(
    undisturbed: bytes, tmp_path: Path, stage: str
) -> None:
    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        os.kill(await attempt_at(store, f"sites/*/stages/{stage}-*"), signal.SIGKILL)

    assert table(tmp_path / "store", disturb) == undisturbed


KINDS = ("draw_phantom", "prepare", "choose_snapshot", "audit", "prepare_for_general")

OF_THE_POOL = ("check_release", "pool_releases")


def test_01_a_worker_is_killed_in_one_of_each_kind_of_stage_in_one_run(
    undisturbed: bytes, tmp_path: Path
) -> None:
    async def kill_in(store: Path, stages: str) -> None:
        os.kill(await attempt_at(store, stages), signal.SIGKILL)

    every = [f"sites/*/stages/{kind}-*" for kind in KINDS]
    every += [f"pool/stages/{kind}-*" for kind in OF_THE_POOL]

    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        await asyncio.gather(*(kill_in(store, stages) for stages in every))

    store = tmp_path / "store"
    assert table(store, disturb) == undisturbed
    for stages in every:
        tried = [len(f.read_text().splitlines()) for f in store.glob(f"{stages}/attempts.jsonl")]
        assert max(tried) > 1, stages


def test_01_a_worker_is_killed_while_it_fine_tunes(undisturbed: bytes, tmp_path: Path) -> None:
    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        # What a site begins to train once there is a general model is that one, fine-tuned.
        await finished(store, "pool/stages/train_general-*")
        before = set(store.glob("sites/site-1/stages/train_segmenter-*"))
        pid, folder = await attempt_of_another(
            store, "sites/site-1/stages/train_segmenter-*", before
        )
        os.kill(pid, signal.SIGKILL)
        killed.append(folder)

    killed: list[Path] = []
    assert table(tmp_path / "store", disturb) == undisturbed
    assert len((killed[0] / "attempts.jsonl").read_text().splitlines()) == 2


def test_03_a_stage_killed_three_times_succeeds(undisturbed: bytes, tmp_path: Path) -> None:
    stage = "sites/site-3/stages/train_generator-*"

    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        for count in range(1, 4):
            os.kill(await attempt_at(store, stage, count), signal.SIGKILL)

    assert table(tmp_path / "store", disturb) == undisturbed
    assert attempts(tmp_path / "store", stage) == 4


def test_03_a_stage_killed_four_times_is_failed_and_the_others_finish(tmp_path: Path) -> None:
    stage = "sites/site-3/stages/train_generator-*"

    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        for count in range(1, 5):
            os.kill(await attempt_at(store, stage, count), signal.SIGKILL)

    rules = Rules(min_sites=2)
    outcome = asyncio.run(federate(tmp_path / "store", disturb, rules=rules))
    assert outcome.sites["site-3"]["outcome"] == "failed"
    assert "train_generator: WorkerCrashedError" in outcome.sites["site-3"]["reason"]
    tested = {score["test_site"] for score in outcome.scores}
    assert tested == {"site-1", "site-2"}


@pytest.mark.parametrize("rank", [0, 1])
def test_04_a_worker_of_the_general_training_is_killed(tmp_path: Path, rank: int) -> None:
    """Two workers, through Ray Train: the value is that of the undisturbed training."""
    values = []
    for name in ("calm", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        killing = name == "killed"
        watcher = threading.Thread(target=_kill_rank, args=(folder, rank), daemon=True)
        if killing:
            watcher.start()
        RayTrainLaunch("cpu", {})(toys.work, {"out": str(folder), "start": "s"}, 2, folder)
        values.append((folder / "value").read_text())
    assert values[0] == values[1]
    assert (tmp_path / "killed" / "was-killed").exists()
    # From its checkpoint: from the start there would be two steps more than are needed.
    steps = len((tmp_path / "killed" / METRICS).read_text().splitlines())
    assert toys.STEPS <= steps <= toys.STEPS + 1


def _kill_rank(folder: Path, rank: int) -> None:
    while not list((folder / "checkpoints").glob("*2.sha256")):
        time.sleep(0.01)
    os.kill(int((folder / f"rank-{rank}.pid").read_text()), signal.SIGKILL)
    (folder / "was-killed").touch()


def test_16_28_30_a_stopped_process_is_not_waited_for_and_its_late_release_not_mixed_in(
    tmp_path: Path,
) -> None:
    """It is stopped until the round has closed, and then goes on and makes its release."""
    closed = "pool/rounds/*/1.json"

    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        stopped = await attempt_at(store, "sites/site-2/stages/train_generator-*")
        os.kill(stopped, signal.SIGSTOP)
        try:
            while not list(store.glob(closed)):
                await asyncio.sleep(0.05)
            assert not list(store.glob("sites/site-2/stages/train_generator-*/record.json"))
        finally:
            os.kill(stopped, signal.SIGCONT)
        await finished(store, "sites/site-2/stages/release-*")

    store, rules = tmp_path / "store", Rules(min_sites=2, deadline_s=8.0)
    outcome = asyncio.run(federate(store, disturb, rules=rules))
    assert outcome.sites["site-2"]["outcome"] == "late"
    assert {score["test_site"] for score in outcome.scores} == {"site-1", "site-3"}
    (file,) = store.glob(closed)
    assert sorted(json.loads(file.read_text())["releases"]) == ["site-1", "site-3"]
    assert not list(store.glob("pool/received/site-2/*"))


def test_10_a_head_that_is_killed_ends_the_run_soon_and_the_same_command_ends_it_well(
    training_on_ray: subprocess.Popen[str], tmp_path: Path
) -> None:
    process = training_on_ray
    for name in ("gcs_server", "raylet"):
        _kill_children(process.pid, name)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - begun < 60
    assert process.returncode != 0
    assert "run the same command again" in errors
    again, apart = list(process.args), tmp_path / "apart"
    undisturbed = [str(apart) if part == str(tmp_path / "store") else part for part in again]
    for command in (again, undisturbed):
        subprocess.run(command, env={**os.environ, toys.STEP_S: "0.002"}, check=True)
    found, expected = (
        next(store.glob("runs/*/results.csv")) for store in (tmp_path / "store", apart)
    )
    assert found.read_bytes() == expected.read_bytes()


def _kill_children(parent: int, name: str) -> None:
    """Kill the driver's own children of that name, and nobody else's."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = file.read_text().split(" (", 1)
            command, fields = rest.rsplit(") ", 1)
            if command == name and int(fields.split()[1]) == parent:
                os.kill(int(pid), signal.SIGKILL)
