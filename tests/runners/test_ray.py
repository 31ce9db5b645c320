"""Parties as actors, stages as tasks: where they run, how they end, what they hold."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import OutOfDiskError, RayTaskError

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.core.errors import HyfreeError, PrivacyError, StageError
from hyfree_ray.core.journal import attempts
from hyfree_ray.core.stage import Context, stage
from hyfree_ray.core.store import Store
from hyfree_ray.federation.interface import PoolProgram, SiteProgram
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.status import Status
from hyfree_ray.runners import ray as ray_runner
from hyfree_ray.runners.ray import RayRunner, all_cpus, cause_of
from hyfree_ray.runners.ray_parties import RayParty, start_parties
from hyfree_ray.runners.ray_scheduler import SlotClient
from hyfree_ray.scheduling.resources import Resources
from hyfree_ray.stages.training import train_general
from tests.refusals import refuses


@stage(version=1)
def where(context: Context, *, number: int) -> dict[str, Any]:
    """Says which process it ran in."""
    return {"pid": os.getpid(), "number": number, "owner": context.owner}


@stage(version=1)
def fail(context: Context, *, how: str) -> dict[str, Any]:
    """Fails: by a user's mistake, by a defect, or by dying once."""
    if how == "mistake":
        raise HyfreeError("data.not-found", f"{context.owner}: wrong; correct it")
    if how == "defect":
        raise RuntimeError("a defect")
    if not (context.out / "died").exists():
        (context.out / "died").touch()
        os._exit(1)
    return {"survived": True}


def run(stage_: Any, tmp_path: Path, **arguments: Any) -> Artifact:
    store = Store(tmp_path, "site-1", {})
    call = stage_.call(**arguments)
    runner = RayRunner("cpu", {})
    asyncio.run(runner.run(stage_, call, store.folder(call.stage, call.key), "site-1"))
    return store.find(call)


def test_a_full_disk_below_rays_memory_is_one_line_that_says_what_to_do() -> None:
    """Models and releases on their way are spilled to it; Ray stops at 95 %."""
    spilled = RayTaskError("call", "traceback", OutOfDiskError("Local disk is full"))
    found = cause_of(RayTaskError("call", "traceback", spilled))
    assert isinstance(found, HyfreeError)
    assert found.code == "cluster.disk-full"
    assert "RAY_TMPDIR" in str(found)


@pytest.mark.usefixtures("cluster")
def test_a_stage_runs_in_another_process_and_leaves_its_record_here(tmp_path: Path) -> None:
    done = run(where, tmp_path, number=3)
    assert done.result["number"] == 3
    assert done.result["owner"] == "site-1"
    assert done.result["pid"] != os.getpid()


@pytest.mark.usefixtures("cluster")
def test_a_users_mistake_arrives_as_itself(tmp_path: Path) -> None:
    with refuses("data.not-found", "site-1: wrong; correct it"):
        run(fail, tmp_path, how="mistake")


@pytest.mark.usefixtures("cluster")
def test_a_defect_arrives_with_its_stage_and_log(tmp_path: Path) -> None:
    with refuses("stage.failed", "site-1: ", " fail ", "RuntimeError"):
        run(fail, tmp_path, how="defect")


@pytest.mark.usefixtures("cluster")
def test_a_stage_whose_process_died_is_run_again(tmp_path: Path) -> None:
    assert run(fail, tmp_path, how="death").result == {"survived": True}


@pytest.mark.usefixtures("cluster")
def test_actors_hold_no_cpu_and_guard_their_border(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    async def ask() -> None:
        parties = start_parties(phantom_simulation(2), tmp_path, "cpu")
        assert list(parties) == ["site-1", "site-2", "pool", "oracle"]
        status = await parties["site-1"].call(SiteProgram.status, frozenset(), frozenset())
        nothing: dict[str, Any] = {"running": [], "finished": [], "received": []}
        assert status == Status(owner="site-1", unfinished_s=0, **nothing)
        assert await parties["pool"].call(PoolProgram.picture, "site-1") is None
        assert ray.available_resources()["CPU"] == 2
        secret = Artifact(stage="prepare", key="k" * 64, path=tmp_path)
        with pytest.raises(PrivacyError) as caught:
            await parties["site-1"].actor.call.remote("export", secret)
        found = cause_of(caught.value)
        assert isinstance(found, PrivacyError)
        assert found.code == "privacy.not-exported"
        for party in parties.values():
            assert isinstance(party, RayParty)
            ray.kill(party.actor)

    asyncio.run(ask())


@pytest.mark.usefixtures("cluster")
def test_a_party_with_many_cases_that_is_killed_is_there_again(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    """Ray forgets what an actor was made of if it is large, and then cannot make it again."""
    simulation = phantom_simulation(2)
    site = simulation.sites["site-1"]
    long = [{**site.cases[0], "name": f"{number}".zfill(400)} for number in range(1000)]
    many = replace(site, cases=(*site.cases, *long), key="0" * 64)  # a run of another name
    assert len(pickle.dumps(many)) > 400_000
    simulation = replace(simulation, sites={**simulation.sites, "site-1": many})

    async def ask() -> None:
        parties = start_parties(simulation, tmp_path, "cpu")
        actor = parties["site-1"].actor
        pid = await actor.__ray_call__.remote(lambda _: os.getpid())
        await asyncio.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        again = await asyncio.wait_for(actor.__ray_call__.remote(lambda _: os.getpid()), 60)
        assert again != pid
        for party in parties.values():
            ray.kill(party.actor)

    asyncio.run(ask())


@stage(version=1)
def hungry(context: Context, *, meals: int) -> dict[str, Any]:
    """Asks for more memory than there is, so many times."""
    seen = len(attempts(context.out))
    if seen <= meals:
        np.ones(1 << 50, np.uint8)
    return {"attempts": seen}


@pytest.mark.usefixtures("cluster")
def test_a_stage_that_is_out_of_memory_is_tried_once_more_and_then_named(tmp_path: Path) -> None:
    """Case 13."""
    assert run(hungry, tmp_path, meals=1).result == {"attempts": 2}
    with pytest.raises(StageError, match=r"out of memory.* at \d+ MiB"):
        run(hungry, tmp_path, meals=9)


@stage(version=1)
def shot_for_memory(context: Context, *, vmstat: str) -> dict[str, Any]:
    """Dies as it would if the kernel had run out of memory, unless it is alone."""
    if ray.get_runtime_context().get_assigned_resources()["CPU"] < 2:
        Path(vmstat).write_text(f"pgfault 7\noom_kill {len(attempts(context.out))}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"attempts": len(attempts(context.out))}


@pytest.mark.usefixtures("cluster")
def test_13_a_stage_that_the_kernel_killed_for_memory_has_its_machine_for_itself_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("oom_kill 0\n")
    monkeypatch.setattr(ray_runner, "VMSTAT", vmstat)
    monkeypatch.setattr(ray_runner, "RESTARTS", 1)
    assert run(shot_for_memory, tmp_path, vmstat=str(vmstat)).result == {"attempts": 3}


def test_13_who_is_to_be_alone_asks_for_all_cpus_of_a_machine_that_has_the_rest() -> None:
    head, worker = {"CPU": 64.0}, {"CPU": 16.0, "GPU": 1.0, "site:site-1": 1.0}
    assert all_cpus({"CPU": 1.0}, [head, worker]) == 64
    assert all_cpus({"CPU": 1.0, "GPU": 1.0}, [head, worker]) == 16
    assert all_cpus({"CPU": 1.0, "site:site-1": 0.001}, [head, worker]) == 16
    assert all_cpus({"CPU": 2.0, "GPU": 1.0}, [head]) == 2  # its machine is away: as it was


@stage(version=1)
def stop_dead(context: Context, *, steps: int) -> dict[str, Any]:
    """Reports, then stops dead; started again it works."""
    for step in range(1, steps + 1):
        context.progress(step, steps, {})
        time.sleep(0.02)
    if len(attempts(context.out)) == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return {"attempts": len(attempts(context.out))}


@pytest.mark.usefixtures("cluster")
def test_a_stage_that_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    """Case 16."""
    call = stop_dead.call(steps=3)
    folder = tmp_path / "stage"
    asyncio.run(RayRunner("cpu", {}, hung_s=0.5).run(stop_dead, call, folder, "site-1"))
    assert json.loads((folder / "record.json").read_text())["result"] == {"attempts": 2}


def test_what_a_distributed_stage_waits_for_is_what_its_workers_take() -> None:
    slots = SlotClient(
        resources=Resources(cpus=2, gpus="measured"), gpu_shares={"train_general": 0.2}
    )
    runner = RayRunner("cuda", {"site:pool": 0.001}, slots)
    assert runner.takes(train_general) == (
        "2 CPU, 1 GPU for each of its workers on the machine that declares site:pool"
    )
    assert runner.takes(where) == "2 CPU on the machine that declares site:pool"
