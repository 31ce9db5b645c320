"""A cluster that is started or joined, and what it can and cannot run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.core.isolation import PACKAGES
from hyfree_ray.core.processes import descendants
from hyfree_ray.core.store_root import ROOT_FILE
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.simulation import Simulation, sites_of
from hyfree_ray.runners import ray_cluster
from hyfree_ray.runners.planning import plan
from hyfree_ray.runners.ports import ports
from hyfree_ray.runners.ray_cluster import (
    check_resources,
    check_rounds_are_seen,
    connect,
    open_stores,
    pin_of,
)
from hyfree_ray.scheduling.resources import Execution, Resources
from tests.hospitals import write_data
from tests.refusals import refuses
from tests.scheduling.test_history import write_stage

JOIN = """
import sys
from hyfree_ray.runners.ray_cluster import connect, disconnect
from hyfree_ray.runners.ray_scheduler import machines
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


PATH_OF_A_WORKER = """
import sys
import ray
from hyfree_ray.runners.ray_cluster import connect, disconnect
connect(sys.argv[1])
def path():
    import hyfree_ray
    return sys.path
print(ray.get(ray.remote(path).remote()))
disconnect()
"""


@pytest.mark.usefixtures("cluster")
def test_workers_import_nothing_from_the_folder_that_a_run_was_started_in(tmp_path: Path) -> None:
    """Case 101: Ray would put it first, before the standard library."""
    done = subprocess.run(
        [sys.executable, "-c", PATH_OF_A_WORKER, ray.get_runtime_context().gcs_address],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "site-packages" in done.stdout, done.stderr
    assert str(tmp_path) not in done.stdout


def test_a_process_with_a_cluster_ends_at_sigterm_as_it_did_before(cluster: Any) -> None:
    """Cases 7 and 8: Ray by itself ends it with a code of Ray's."""
    assert signal.getsignal(signal.SIGTERM) == cluster


@pytest.mark.usefixtures("cluster")
def test_more_workers_than_the_cluster_has_are_refused_before_anything_starts() -> None:
    with refuses("cluster.no-room", "3 workers", "1 CPU", "2"):
        check_resources("cpu", 3)
    with refuses("cluster.no-room", "1 workers", "1 CPU, 1 GPU"):
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
    with refuses("cluster.no-room", "6 workers", "4", "site:pool"):
        check_resources("cpu", 6)
    two = Execution(resources={"pool": Resources(cpus=2, memory_gib=1)})
    monkeypatch.setattr(ray_cluster, "machines", lambda: {"head": {**nodes["head"], "memory": 9e9}})
    check_resources("cpu", 2, (), two)
    with refuses("cluster.no-room", "3 workers", "2 CPU, 1 GiB of memory"):
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
    with refuses("cluster.rounds-elsewhere", str(rounds), "site:pool"):
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
    write_stage(store / "sites" / "a" / "stages" / "x", "train_generator", 5.0, images_shown=10)
    history = open_stores(store, {"a": site})
    assert history.seconds_per_unit("cpu") == {"train_generator": (0.5, 1)}
    assert set(history.timings) == {"a/x"}
    (tmp_path / "data" / site.cases[0]["label"]).unlink()
    for one, number in ((site, 1), (away, 20)):
        with refuses("cluster.data-missing", f"{number} of the 20 files", "site:a"):
            open_stores(store, {"a": one})
    with refuses("store.not-a-store", "site:pool", str(tmp_path)):
        open_stores(tmp_path, {})


@pytest.mark.usefixtures("cluster")
def test_a_party_is_pinned_only_where_the_cluster_says_so() -> None:
    assert pin_of("site-1") == {}


def test_80_a_head_that_accepts_and_does_not_answer_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_cluster, "TOKEN_S", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        context = SimpleNamespace(gcs_address=address)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        begun = time.monotonic()
        assert ray_cluster.asks_for_token() is None
        assert time.monotonic() - begun < 15


def test_an_address_where_nobody_listens_is_one_line_within_seconds() -> None:
    """Case 79."""
    with refuses("cluster.unreachable", "--ray 127.0.0.1:9"):
        connect("127.0.0.1:9")


@pytest.mark.usefixtures("cluster")
def test_a_stage_that_can_never_start_is_named_with_what_it_lacks(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    """Case 15."""
    steps = plan(phantom_simulation(2), tmp_path).steps
    check_resources("cpu", 1, steps)
    greedy = Execution(resources={"site-2": Resources(cpus=3)})
    with refuses("cluster.no-room", "site-2: ", "3 CPU"):
        check_resources("cpu", 1, steps, greedy)
