"""Machines and messages that are lost; the numbers are those of docs/FAULTS.md."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from hyfree_ray.runners.ray import RayParty, connect, disconnect
from tests.chaos import toys
from tests.chaos.on_ray import attempt_at, attempts, calm, federate, table, workers_run_toys


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


@pytest.mark.chaos
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


@pytest.mark.chaos
def test_79_a_wrong_token_or_none_is_one_line_within_a_minute(tmp_path: Path) -> None:
    port = "6431"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 32, "HOME": str(tmp_path)}
    ray_command = str(Path(sys.executable).parent / "ray")
    start = [ray_command, "start", "--head", "--block", "--port", port, "--num-cpus", "1"]
    head = subprocess.Popen(
        [*start, "--node-ip-address", "127.0.0.1", "--include-dashboard", "false"],
        env={**os.environ, **token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        status = [ray_command, "status", "--address", f"127.0.0.1:{port}"]
        deadline = time.monotonic() + 90
        while subprocess.run(status, env={**os.environ, **token}, capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(1)
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
    finally:
        head.terminate()
        head.wait()


RPC = "grpc_client"

LOST = {
    f"CoreWorkerService.{RPC}.PushTask": {"req_failure_prob": 10, "resp_failure_prob": 10},
    f"NodeManagerService.{RPC}.RequestWorkerLease": {"req_failure_prob": 25},
    f"CoreWorkerService.{RPC}.GetObjectStatus": {"req_failure_prob": 25, "resp_failure_prob": 25},
}
"""Messages that Ray is told to lose, and how often, in percent."""


@pytest.mark.chaos
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


@pytest.mark.chaos
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
