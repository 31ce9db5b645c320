"""Machines and messages that are lost; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from hyfree_ray.core.errors import StageError
from hyfree_ray.core.processes import descendants
from hyfree_ray.core.stage import Context, stage
from hyfree_ray.federation import protocol
from hyfree_ray.federation.participation import Rules
from hyfree_ray.observing import polling as asking
from hyfree_ray.observing.observer import Observer
from hyfree_ray.observing.progress import Progress
from hyfree_ray.observing.run_folder import write_run
from hyfree_ray.results.summary import RunSummary, read_summary
from hyfree_ray.runners.ray import RayRunner
from hyfree_ray.runners.ray_cluster import connect, disconnect
from hyfree_ray.runners.ray_parties import RayParty, start_parties
from tests import toys
from tests.chaos.on_ray import (
    attempt_at,
    attempts,
    calm,
    federate,
    table,
    workers_run_toys,
)
from tests.toy_processes import Start

pytestmark = pytest.mark.chaos


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head; whoever adds machines has a cluster of several."""
    with workers_run_toys(**{toys.STEP_S: "0.5"}):
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            connect(found.address)
            yield found
        finally:
            disconnect()
            found.shutdown()


def test_09_a_lost_machine_is_waited_for_by_who_is_pinned_to_it_and_left_by_the_others(
    cluster: Cluster, undisturbed: bytes, tmp_path: Path
) -> None:
    """site-1 is pinned to a machine that is lost while it trains, and comes back later."""
    pinned: dict[str, Any] = {"num_cpus": 1, "resources": {"site:site-1": 1}}
    lost = cluster.add_node(**pinned)
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    stage = "sites/site-1/stages/train_generator-*"

    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        await attempt_at(store, stage)
        cluster.remove_node(lost, allow_graceful=False)
        while not list(store.glob("sites/site-3/stages/release-*/record.json")):
            await asyncio.sleep(0.05)
        assert attempts(store, stage) == 1, "others go on, and it waits"
        cluster.add_node(**pinned)  # in the main thread: it sets signals

    store = tmp_path / "store"
    assert table(store, disturb) == undisturbed
    assert attempts(store, stage) == 2
    files = store.glob("sites/site-1/stages/*/record.json")
    nodes = {json.loads(file.read_text())["result"]["node"] for file in files}
    assert len(nodes) == 2  # the machine before, and what took its place


def test_09_28_a_machine_that_does_not_come_back_is_left_out_and_the_run_with_its_observer_ends(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The observer asks everybody how far they are, and one of them answers never again."""
    monkeypatch.setattr(asking, "ANSWER_S", 1.0)
    monkeypatch.setattr(asking, "LAST_ANSWER_S", 2.0)
    lost = cluster.add_node(num_cpus=1, resources={"site:site-1": 1})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    simulation, store = toys.toy_simulation(), tmp_path / "store"
    rules = Rules(min_sites=2, deadline_s=45.0)

    async def through() -> RunSummary:
        parties = start_parties(simulation, store, "cpu")
        with Progress(simulation.party_names, 0, Console(quiet=True)) as progress:
            observer = Observer(simulation, store, progress)
            watching = asyncio.ensure_future(observer.watch(parties))
            running = asyncio.ensure_future(protocol.simulate(parties, rules=rules))
            await attempt_at(store, "sites/site-1/stages/train_generator-*")
            cluster.remove_node(lost, allow_graceful=False)
            outcome = await running
            watching.cancel()
            await observer.poll(parties, last=True)
            folder = store / "runs" / simulation.run
            await write_run(folder, simulation, observer.observed, outcome, parties)
        for party in parties.values():
            ray.kill(party.actor)
        return read_summary(folder)

    summary = asyncio.run(asyncio.wait_for(through(), 180))
    assert {site.site: site.outcome for site in summary.missing} == {"site-1": "late"}
    assert summary.unanswered == ("site-1",)


CHUNK = 1 << 20
"""Bytes. Ray sends large objects in such, here with half a second between them."""

SLOWLY = {
    "RAY_object_manager_default_chunk_size": f"{CHUNK}",
    "RAY_object_manager_max_bytes_in_flight": f"{CHUNK}",
    "RAY_testing_asio_delay_us": "ObjectManagerService.grpc_server.Push.HandleRequestImpl="
    "500000:500000",
}


BALLAST_MIB = 8
"""Of each of a site's models: some chunks, and over in seconds."""


def with_a_large_release(store: str) -> None:
    os.environ[toys.LARGE_RELEASE] = "site-1"
    toys.federate(store)


def arrived(machine: Any) -> int:
    """Bytes of the machine's object store that have been written to by its raylet."""
    status = Path(f"/proc/{raylet_of(machine)}/status").read_text()
    return int(status.split("RssShmem:")[1].split()[0]) << 10


async def arriving(machine: Any, least: int) -> None:
    while arrived(machine) < least:
        await asyncio.sleep(0.01)


def raylet_of(machine: Any) -> int:
    return int(machine.all_processes["raylet"][0].process.pid)


@contextmanager
def slow_cluster(*, head: str, others: Sequence[str], **environment: str) -> Iterator[Slow]:
    """Parties with machines of their own; what travels between these takes seconds.

    Args:
        head: parties on the first machine, and so many CPUs, "2: pool site-2".
        others: parties with one each.
        environment: of the toys.
    """
    cpus, _, names = head.partition(":")
    here = {"num_cpus": int(cpus), "resources": {f"site:{name}": 1 for name in names.split()}}
    with workers_run_toys(**SLOWLY, **environment):
        found = Cluster(initialize_head=True, head_node_args=here)
        pinned: dict[str, dict[str, Any]] = {
            name: {"num_cpus": 1, "resources": {f"site:{name}": 1}} for name in others
        }
        machines = {name: found.add_node(**settings) for name, settings in pinned.items()}
        found.wait_for_nodes()
        try:
            connect(found.address)
            yield Slow(found, machines, pinned)
        finally:
            disconnect()
            found.shutdown()


@dataclass(frozen=True)
class Slow:
    """A slow cluster."""

    cluster: Cluster
    machines: dict[str, Any]
    pinned: dict[str, dict[str, Any]]

    async def lose(self, party: str) -> int:
        """Kill a party's machine once some chunks of it have come to the head; how many bytes."""
        before = arrived(self.cluster.head_node)
        await asyncio.wait_for(arriving(self.cluster.head_node, before + 2 * CHUNK), 120)
        for pid in descendants(raylet_of(self.machines[party])):
            os.kill(pid, signal.SIGKILL)
        self.cluster.remove_node(self.machines[party], allow_graceful=False)
        await asyncio.sleep(2)
        return arrived(self.cluster.head_node) - before

    def bring_back(self, party: str) -> None:
        """The machine, with its disk."""
        self.cluster.add_node(**self.pinned[party])


def test_09_a_machine_is_lost_while_its_release_is_on_its_way_to_the_pool(
    start: Start, tmp_path: Path
) -> None:
    """The stage has ended and is recorded, some chunks have arrived, and the pool has nothing."""
    calmly, store = tmp_path / "calm", tmp_path / "store"
    process = start(calmly, program=with_a_large_release)
    lost: list[int] = []

    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        lost.append(await slow.lose("site-1"))
        assert list(store.glob("sites/site-1/stages/release-*/record.json"))
        assert not list(store.glob("pool/received/site-1/*"))
        assert not list(store.glob("pool/rounds/*/in/site-1.json"))
        slow.bring_back("site-1")

    large = {toys.LARGE_RELEASE: "site-1"}
    with slow_cluster(head="2: pool site-2", others=("site-1", "site-3"), **large) as slow:
        again = table(store, disturb)
    process.join()
    assert again == (calmly / "table.csv").read_bytes()
    (release,) = store.glob("pool/received/site-1/release-*/release.arrow")
    assert 2 * CHUNK <= lost[0] < release.stat().st_size - CHUNK, "it fell into the transfer"
    assert attempts(store, "sites/site-1/stages/release-*") == 1


def test_09_a_machine_is_lost_while_its_model_is_on_its_way_to_another_site(
    start: Start, tmp_path: Path
) -> None:
    """Nothing else of that size comes to the head from another machine."""
    calmly, store = tmp_path / "calm", tmp_path / "store"
    process = start(calmly)
    lost: list[int] = []
    made: dict[Path, int] = {}

    async def disturb(store: Path, parties: dict[str, RayParty]) -> None:
        lost.append(await slow.lose("site-1"))
        assert list(store.glob("pool/rounds/*/in/site-1.json")), "its release had come through"
        assert not list(store.glob("sites/site-*/received/site-1/*")), "and no model of it"
        for path in store.glob("sites/site-1/stages/*/record.json"):
            made[path] = path.stat().st_mtime_ns
        slow.bring_back("site-1")

    large = {toys.BALLAST_MIB: f"{BALLAST_MIB}@site-1"}
    with slow_cluster(head="2: pool site-2 site-3", others=("site-1",), **large) as slow:
        again = table(store, disturb)
    process.join()
    assert again == (calmly / "table.csv").read_bytes()
    models = 2  # `local` and `local2x` are on their way at the same time
    assert 2 * CHUNK <= lost[0] < models * BALLAST_MIB << 20, "it fell into the transfer"
    assert list(store.glob("sites/site-2/received/site-1/*/model/ballast"))
    assert {path: path.stat().st_mtime_ns for path in made} == made, "nothing is made again"


@contextmanager
def head(port: str, **environment: str) -> Iterator[None]:
    """A head that was started by hand."""
    ray_command = str(Path(sys.executable).parent / "ray")
    start = [ray_command, "start", "--head", "--block", "--port", port, "--num-cpus", "1"]
    process = subprocess.Popen(
        [*start, "--node-ip-address", "127.0.0.1", "--include-dashboard", "false"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        status = [ray_command, "status", "--address", f"127.0.0.1:{port}"]
        deadline = time.monotonic() + 90
        while subprocess.run(
            status, env={**os.environ, **environment}, capture_output=True
        ).returncode:
            assert time.monotonic() < deadline
            time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_80_the_doctor_comes_without_a_token_and_lists_rays_ports(
    tmp_path: Path, mode: str
) -> None:
    token = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "a" * 32, "HOME": str(tmp_path)}
    port = {"token": "6433", "disabled": "6434"}[mode]
    with head(port, **token):
        command = [sys.executable, "-m", "hyfree_ray.cli", "doctor", "--store", str(tmp_path / "s")]
        done = subprocess.run(
            [*command, "--ray", f"127.0.0.1:{port}"],
            env={**os.environ, **token, "RAY_AUTH_MODE": "token"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert re.search(rf"ports, \w+ .*gcs_server {port}", done.stdout), done.stdout
    assert re.search(r"ports, \w+ .*raylet \d+", done.stdout)
    if mode == "token":
        assert "ok    token           required" in done.stdout
    else:
        assert "WRONG token           not required" in done.stdout
        assert "start every node with RAY_AUTH_MODE=token" in done.stdout
        assert done.returncode == 1


def test_79_a_wrong_token_or_none_is_one_line_within_a_minute(tmp_path: Path) -> None:
    port = "6431"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32, "HOME": str(tmp_path)}
    with head(port, **token):
        for wrong in ({"RAY_AUTH_TOKEN": "b" * 32}, {"RAY_AUTH_MODE": "disabled"}):
            store = tmp_path / "store"
            command = [sys.executable, "-m", "hyfree_ray.cli", "simulate", "--store", str(store)]
            begun = time.monotonic()
            done = subprocess.run(
                [*command, "--ray", f"127.0.0.1:{port}"],
                env={**os.environ, **token, **wrong},
                capture_output=True,
                text=True,
                check=False,
            )
            assert time.monotonic() - begun < 60
            assert done.returncode == 2, done.stderr
            assert done.stderr.splitlines()[-1].startswith("error: --ray 127.0.0.1:")
            assert "set its token (RAY_AUTH_MODE=token" in done.stderr.splitlines()[-1]
            assert "a" * 32 not in done.stderr
            assert not store.exists()


RPC = "grpc_client"

LOST = {
    f"CoreWorkerService.{RPC}.PushTask": {"req_failure_prob": 10, "resp_failure_prob": 10},
    f"NodeManagerService.{RPC}.RequestWorkerLease": {"req_failure_prob": 25},
    f"CoreWorkerService.{RPC}.GetObjectStatus": {"req_failure_prob": 25, "resp_failure_prob": 25},
}
"""Messages that Ray is told to lose, and how often, in percent."""


def test_11_messages_that_are_lost_between_processes_change_nothing(
    undisturbed: bytes, tmp_path: Path
) -> None:
    failures = {name: {"num_failures": 20, **how} for name, how in LOST.items()}
    with workers_run_toys(RAY_testing_rpc_failure=json.dumps(failures)):
        connect("local", cpus=4)
        try:
            logs = Path(ray._private.worker._global_node.get_logs_dir_path())
            store = tmp_path / "store"
            assert table(store, calm) == undisturbed
            assert len(list(store.glob("pool/received/*/release-*"))) == 3  # O2: one a site
            injected = sum(
                file.read_text(errors="replace").count("Inject RPC")
                for file in logs.glob("*core*.log")
            )
        finally:
            disconnect()
    assert injected > 5


@stage(version=1)
def devour(context: Context, *, number: int) -> dict[str, Any]:
    """Takes memory, a hundred MiB at a time, until it is ended."""
    taken = []
    while len(taken) < 80:
        taken.append(np.ones(100 << 20, np.uint8))
        time.sleep(0.05)
    return {"number": number}


def test_13_a_stage_that_a_cluster_ends_for_memory_is_tried_once_more_and_then_named(
    tmp_path: Path,
) -> None:
    """A cluster that somebody else has started: by itself Ray would try for ever."""
    memory = psutil.virtual_memory()
    most = (memory.total - memory.available + (2 << 30)) / memory.total
    limits = {
        "RAY_memory_usage_threshold": f"{most:.4f}",
        "RAY_memory_monitor_refresh_ms": "500",
        "RAY_max_kill_memory_buffer_bytes": "0",  # as in cluster/
    }
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_task_oom_retries", raising=False)
    with workers_run_toys(**limits):
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        try:
            connect(found.address)
            outcome = ray.get(_Owner.remote().run.remote(str(tmp_path)), timeout=200)
        finally:
            disconnect()
            found.shutdown()
            patch.undo()
    assert re.search(r"out of memory, even alone .*ended by Ray at [\d.]+GB used", outcome)
    assert attempts(tmp_path, "stage") == 2


@ray.remote(num_cpus=0)
class _Owner:
    """Owns a stage, as a party's process does."""

    async def run(self, folder: str) -> str:
        call = devour.call(number=1)
        try:
            await RayRunner("cpu", {}).run(devour, call, Path(folder) / "stage", "site-1")
        except StageError as error:
            return str(error)
        return "nothing happened"


def test_14_an_object_store_that_is_too_small_for_the_models_holds_up_nobody(
    undisturbed: bytes, tmp_path: Path
) -> None:
    """Ten models of 16 MiB in a store of 80: Ray puts them on the disk."""
    with workers_run_toys(**{toys.BALLAST_MIB: "16"}):
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=80 << 20,
            include_dashboard=False,
            log_to_driver=False,
        )
        try:
            store = tmp_path / "store"
            asyncio.run(asyncio.wait_for(federate(store, calm), 300))
        finally:
            disconnect()
    assert (store / "table.csv").read_bytes() == undisturbed
    models = list(store.glob("sites/*/received/*/*/model/ballast"))
    assert sum(file.stat().st_size for file in models) > 80 << 20
