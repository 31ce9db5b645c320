"""Parties as actors, stages as tasks, the general model through Ray Train."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.errors import HyfreeError, PrivacyError, StageError
from hyfree_ray.listening import ports
from hyfree_ray.resources import Execution, Resources
from hyfree_ray.rules import Rules
from hyfree_ray.runners import ray as ray_runner
from hyfree_ray.runners import ray_cluster
from hyfree_ray.runners.planning import plan
from hyfree_ray.runners.ray import RayParty, RayRunner, all_cpus, cause_of, start_parties
from hyfree_ray.runners.ray_cluster import (
    check_resources,
    check_rounds_are_seen,
    connect,
    disconnect,
    open_stores,
    pin_of,
)
from hyfree_ray.runners.ray_gate import Place, start_gate
from hyfree_ray.runners.ray_train import RayTrainLaunch
from hyfree_ray.schedule import Outlook, ticket_of
from hyfree_ray.segmenters.nnunet.data import plan_and_preprocess
from hyfree_ray.simulation import Simulation, sites_of
from hyfree_ray.stage import METRICS, Context, attempts, execute, read_metrics, stage
from hyfree_ray.stages.training import train_general
from hyfree_ray.store import ROOT_FILE, Artifact, Store
from tests.chaos.hospitals import write_data
from tests.processes import descendants


@stage(version=1)
def where(context: Context, *, number: int) -> dict[str, Any]:
    """Says which process it ran in."""
    return {"pid": os.getpid(), "number": number, "owner": context.owner}


@stage(version=1)
def fail(context: Context, *, how: str) -> dict[str, Any]:
    """Fails: by a user's mistake, by a defect, or by dying once."""
    if how == "mistake":
        raise HyfreeError(f"{context.owner}: wrong; mend it")
    if how == "defect":
        raise RuntimeError("a defect")
    if not (context.out / "died").exists():
        (context.out / "died").touch()
        os._exit(1)
    return {"survived": True}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """What this process did at SIGTERM before it had one."""
    before = signal.getsignal(signal.SIGTERM)
    connect("local", cpus=2)
    yield before
    disconnect()


JOIN = """
import sys
from hyfree_ray.runners.ray_cluster import connect, disconnect
from hyfree_ray.runners.ray_gate import machines
connect(sys.argv[1])
print(len(machines()))
disconnect()
"""


@pytest.mark.usefixtures("cluster")
def test_a_process_of_ours_joins_the_cluster_that_listens_on_this_machine_alone() -> None:
    """As the simulations of a study do."""
    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "1\n", done.stderr


def test_a_process_with_a_cluster_ends_at_sigterm_as_it_did_before(cluster: Any) -> None:
    """Cases 7 and 8: Ray by itself ends it with a code of Ray's."""
    assert signal.getsignal(signal.SIGTERM) == cluster


def run(stage_: Any, tmp_path: Path, **arguments: Any) -> Artifact:
    store = Store(tmp_path, "site-1", {})
    call = stage_.call(**arguments)
    runner = RayRunner("cpu", {})
    asyncio.run(runner.run(stage_, call, store.folder(call.stage, call.key), "site-1"))
    return store.find(call)


@pytest.mark.usefixtures("cluster")
def test_a_stage_runs_in_another_process_and_leaves_its_record_here(tmp_path: Path) -> None:
    done = run(where, tmp_path, number=3)
    assert done.result["number"] == 3
    assert done.result["owner"] == "site-1"
    assert done.result["pid"] != os.getpid()


@pytest.mark.usefixtures("cluster")
def test_a_users_mistake_arrives_as_itself(tmp_path: Path) -> None:
    with pytest.raises(HyfreeError, match="site-1: wrong; mend it"):
        run(fail, tmp_path, how="mistake")


@pytest.mark.usefixtures("cluster")
def test_a_defect_arrives_with_its_stage_and_log(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the stage fail failed: RuntimeError"):
        run(fail, tmp_path, how="defect")


@pytest.mark.usefixtures("cluster")
def test_a_stage_whose_process_died_is_run_again(tmp_path: Path) -> None:
    assert run(fail, tmp_path, how="death").result == {"survived": True}


@pytest.mark.usefixtures("cluster")
def test_more_workers_than_the_cluster_has_are_refused_before_anything_starts() -> None:
    with pytest.raises(HyfreeError, match="wants 3 workers of 1 CPU each, there is room for 2;"):
        check_resources("cpu", 3)
    with pytest.raises(HyfreeError, match=r"wants 1 workers of 1 CPU, 1 GPU each, .* room for 0;"):
        check_resources("cuda", 1)


def test_workers_of_the_general_model_have_room_where_the_pool_is_pinned_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Case 15."""
    nodes = {"head": {"CPU": 4.0, "site:pool": 1.0}, "other": {"CPU": 8.0}}
    total = {"CPU": 12.0, "site:pool": 1.0}
    monkeypatch.setattr(ray_cluster, "machines", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    check_resources("cpu", 4)
    with pytest.raises(HyfreeError, match="room for 4 on the machine of site:pool"):
        check_resources("cpu", 6)
    two = Execution(resources={"pool": Resources(cpus=2, memory_gib=1)})
    monkeypatch.setattr(ray_cluster, "machines", lambda: {"head": {**nodes["head"], "memory": 9e9}})
    check_resources("cpu", 2, (), two)
    with pytest.raises(HyfreeError, match=r"3 workers of 2 CPU, 1 GiB of memory each, .* for 2 on"):
        check_resources("cpu", 3, (), two)


@pytest.mark.usefixtures("cluster")
def test_80_a_cluster_of_our_own_listens_on_this_machine_alone() -> None:
    """Sockets are those of this process and of all that it has started."""
    family = descendants(os.getpid())
    found = ports(lambda pid, _: pid in family)
    assert {"gcs_server", "raylet"} <= {port.process for port in found}
    assert len(found) >= 5
    assert not [port for port in found if not port.loopback]
    with socket.socket() as outside, socket.socket() as inside:
        for opened, address in ((outside, "0.0.0.0"), (inside, "127.0.0.1")):
            opened.bind((address, 0))
            opened.listen()
        here = {port.number: port.loopback for port in ports(lambda pid, _: pid == os.getpid())}
        assert here[outside.getsockname()[1]] is False
        assert here[inside.getsockname()[1]] is True


@pytest.mark.usefixtures("cluster")
def test_rounds_that_lie_on_another_machine_are_not_counted_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, later = tmp_path / "pool" / "rounds", Rules(min_sites=2, next_round=True)
    check_rounds_are_seen(rounds, later)  # nobody says where the pool is
    monkeypatch.setattr(ray_cluster, "pin_of", lambda name: {f"site:{name}": 0.001})
    with pytest.raises(HyfreeError, match="give the command on the machine that declares site:po"):
        check_rounds_are_seen(rounds, later)
    check_rounds_are_seen(rounds, Rules())
    rounds.mkdir(parents=True)
    check_rounds_are_seen(rounds, later)


@pytest.mark.usefixtures("cluster")
def test_the_store_is_opened_and_the_data_are_looked_for_on_the_machine_of_who_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = next(name for name in ray.cluster_resources() if name.startswith("node:1"))
    monkeypatch.setattr(ray_cluster, "pin_of", lambda name: {node: 0.001} if name != "b" else {})
    write_data(tmp_path / "data", ["alpha"])
    (site,) = sites_of(read_cohort(tmp_path / "data"), 0).values()
    store, away = tmp_path / "store", replace(site, folder=tmp_path / "elsewhere")
    open_stores(store, {"a": site, "b": away})
    assert (store / ROOT_FILE).exists()
    (tmp_path / "data" / site.cases[0]["label"]).unlink()
    for one, number in ((site, 1), (away, 20)):
        said = rf"{number} of the 20 files of a are not there on the machine of site:a; copy"
        with pytest.raises(HyfreeError, match=said):
            open_stores(store, {"a": one})
    with pytest.raises(HyfreeError, match=r"on the machine of site:pool: .* not empty and not a"):
        open_stores(tmp_path, {})


@pytest.mark.usefixtures("cluster")
def test_a_party_is_pinned_only_where_the_cluster_says_so() -> None:
    assert pin_of("site-1") == {}


@pytest.mark.usefixtures("cluster")
def test_actors_hold_no_cpu_and_guard_their_border(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    async def ask() -> None:
        parties = start_parties(phantom_simulation(2), tmp_path, "cpu")
        assert list(parties) == ["site-1", "site-2", "pool", "oracle"]
        status = await parties["site-1"].call("status", frozenset(), frozenset())
        nothing: dict[str, Any] = {"running": [], "finished": [], "received": []}
        assert status == {"owner": "site-1", "unfinished_s": 0, **nothing}
        assert await parties["pool"].call("picture", "site-1") is None
        assert ray.available_resources()["CPU"] == 2
        secret = Artifact(stage="prepare", key="k" * 64, path=tmp_path, record={"result": {}})
        with pytest.raises(Exception, match="may not leave") as caught:
            await parties["site-1"].call("export", secret)
        assert isinstance(cause_of(caught.value), PrivacyError)
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
    many = replace(site, cases=(*site.cases, *long))
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


def test_an_address_where_nobody_listens_is_one_line_within_seconds() -> None:
    """Case 79."""
    with pytest.raises(HyfreeError, match=r"--ray 127\.0\.0\.1:9: no Ray cluster answers there"):
        connect("127.0.0.1:9")


@pytest.fixture
def pooled(phantom_folder: Path, tmp_path: Path) -> Artifact:
    from hyfree_ray.budget import PlanCaps
    from tests.segmenters.test_nnunet import cases_of

    torch.set_num_threads(1)
    caps = PlanCaps(working_size=32, base_features=4, max_features=16, batch_size=4)
    cases = cases_of(phantom_folder)[:30]
    dataset = json.loads((phantom_folder / "dataset.json").read_text())
    folder = tmp_path / "pooled"
    plan_and_preprocess(folder, cases, dataset, caps, validation=[c.name for c in cases[-8:]])
    return Artifact(stage="pool_releases", key="p" * 64, path=folder, record={"result": {}})


def general(pooled: Artifact, folder: Path, workers: int, launch: Any) -> dict[str, Any]:
    call = train_general.call(
        prepared=pooled,
        epochs=2,
        iterations=3,
        validation_iterations=1,
        precision="fp32",
        workers=workers,
        seed=4,
    )
    return execute(train_general.module, call, folder, owner="pool", device="cpu", launch=launch)


@pytest.mark.usefixtures("cluster")
def test_one_ray_train_worker_gives_the_network_of_this_process(
    pooled: Artifact, tmp_path: Path
) -> None:
    here = general(pooled, tmp_path / "here", 1, None)
    there = general(pooled, tmp_path / "there", 1, RayTrainLaunch("cpu", {}))
    assert here["result"] == there["result"]
    one = load_file(tmp_path / "here" / "model" / "weights.safetensors")
    other = load_file(tmp_path / "there" / "model" / "weights.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def crash_once(*, out: str, device: str, report: Any) -> None:
    """A worker that dies before its first report and works when it is started again."""
    assert device == "cpu"
    marker = Path(out) / "crashed"
    if not marker.exists():
        marker.touch()
        os._exit(1)
    report(1)
    (Path(out) / "done").touch()


@pytest.mark.usefixtures("cluster")
def test_a_train_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    """Case 4."""
    RayTrainLaunch("cpu", {})(crash_once, {"out": str(tmp_path)}, 1, tmp_path)
    assert (tmp_path / "done").exists()


@pytest.mark.usefixtures("cluster")
def test_two_ray_train_workers_share_the_batch(pooled: Artifact, tmp_path: Path) -> None:
    record = general(pooled, tmp_path / "two", 2, RayTrainLaunch("cpu", {}))
    assert record["result"]["workers"] == 2
    assert record["result"]["iterations"] == 6
    assert (tmp_path / "two" / "model" / "weights.safetensors").exists()
    one = general(pooled, tmp_path / "one", 1, None)
    assert one["key"] != record["key"]


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
    with pytest.raises(StageError, match=r"out of memory, also alone .* at \d+ MiB"):
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
def walk(context: Context, *, steps: int) -> dict[str, Any]:
    """Walks step by step, from where it was saved; how many attempts it took."""
    done = len(read_metrics(context.out))
    for step in range(done + 1, steps + 1):
        time.sleep(0.02)
        context.progress(step, steps, {})
        context.saved(step, steps)
    return {"attempts": len(attempts(context.out))}


@pytest.mark.usefixtures("cluster")
def test_a_training_gives_its_place_to_a_longer_chain_and_goes_on_afterwards(
    tmp_path: Path,
) -> None:
    long, urgent = walk.call(steps=100), walk.call(steps=2)
    outlooks = {
        ticket_of("site-1", long.key): Outlook(seconds=100.0, chain=100.0),
        ticket_of("site-2", urgent.key): Outlook(seconds=10.0, chain=1000.0),
    }
    place = Place(gate=start_gate(outlooks, 0.0), resources=Resources(cpus=2))
    runner = RayRunner("cpu", {}, place)

    async def both() -> None:
        first = asyncio.ensure_future(runner.run(walk, long, tmp_path / "long", "site-1"))
        while len(read_metrics(tmp_path / "long")) < 3:
            await asyncio.sleep(0.01)
        await runner.run(walk, urgent, tmp_path / "urgent", "site-2")
        assert not first.done()
        await first

    asyncio.run(both())
    assert len(read_metrics(tmp_path / "long")) == 100
    lines = (tmp_path / "long" / METRICS).read_text().splitlines()
    assert len(lines) == 100  # no step was done twice
    for name, number in (("long", 2), ("urgent", 1)):
        record = json.loads((tmp_path / name / "record.json").read_text())
        assert record["result"] == {"attempts": number}


@pytest.mark.usefixtures("cluster")
def test_a_gate_before_which_thousands_wait_still_hears_who_has_ended() -> None:
    gate, needs = start_gate({}, 0.0), {"CPU": 2.0}

    async def go() -> None:
        await gate.acquire.remote("a/1", needs)
        waiting = [gate.acquire.remote(f"b/{number}", needs) for number in range(1500)]
        gate.release.remote("a/1", True)
        # Whoever is the first to be heard: calls may overtake each other on their way.
        calls = [asyncio.ensure_future(call) for call in waiting]
        done, _ = await asyncio.wait(calls, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        assert done
        ray.kill(gate)
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(go())


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


@pytest.mark.usefixtures("cluster")
def test_a_stage_that_can_never_start_is_named_with_what_it_lacks(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    """Case 15."""
    steps = plan(phantom_simulation(2), tmp_path).steps
    check_resources("cpu", 1, steps)
    greedy = Execution(resources={"site-2": Resources(cpus=3)})
    with pytest.raises(HyfreeError, match=r"site-2: \w+ can never start: it needs 3 CPU, the most"):
        check_resources("cpu", 1, steps, greedy)
