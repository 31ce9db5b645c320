"""Sites that share a GPU which is none: torch.cuda's counters are played, all else is real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.journal import attempts, read_metrics
from hyfree_ray.core.records import StageRecord
from hyfree_ray.core.stage import Context, Preempted, Stage, stage, stage_record
from hyfree_ray.runners.ray import RayRunner
from hyfree_ray.runners.ray_arguments import pack
from hyfree_ray.runners.ray_cluster import connect, disconnect
from hyfree_ray.runners.ray_scheduler import SlotClient, start_scheduler
from hyfree_ray.scheduling.resources import Resources
from tests.chaos.on_ray import workers_run_toys
from tests.scheduling.test_device_memory import Counters, folder_of, reserve, stand_in

pytestmark = pytest.mark.chaos

STEPS = 900
"""Of a tenth of a second: longer than any machine takes to start three processes."""


@stage(version=1, device=True)
def grow(context: Context, *, mib: int, at: str, together: int) -> dict[str, Any]:
    """Takes what it takes from its first step on, and saves itself after each, until so many of
    its kind have been seen in the folder `at` at the same time."""
    Counters.reserve(mib)
    here, met = Path(at) / str(os.getpid()), Path(at) / "met"
    for step in range(len(read_metrics(context.out)) + 1, STEPS):
        here.touch()
        if len(list(met.parent.glob("[0-9]*"))) == together:
            met.touch()
        if met.exists():
            return {"attempts": len(attempts(context.out))}
        time.sleep(0.1)
        context.progress(step, STEPS, {})
        try:
            context.saved(step, STEPS)
        except Preempted:
            here.unlink()
            raise
    raise TimeoutError("they have never met")


@stage(version=1)
def read(context: Context) -> dict[str, Any]:
    """Computes on no device: also on a cluster with GPUs it is told of none."""
    return {"device": context.device}


@contextlib.contextmanager
def one_gpu() -> Iterator[None]:
    """A cluster which believes that it has a GPU."""
    hook = {"__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": f"{stand_in.__module__}.{stand_in.__name__}"}
    with workers_run_toys(**hook):
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 1})
        try:
            connect(found.address)
            yield
        finally:
            disconnect()
            found.shutdown()


def run_all(
    store: Path, work: Stage, calls: Mapping[str, Call], known: Mapping[str, dict[str, float]]
) -> list[StageRecord]:
    """All sites at once on the same cluster; their records.

    Args:
        store: where to.
        work: the stage.
        calls: by site.
        known: by site and stage, shares of a GPU that were measured before.
    """

    async def go() -> None:
        scheduler = start_scheduler(pack({}), 0.0)

        def run(name: str) -> Any:
            slots = SlotClient(
                scheduler=scheduler,
                resources=Resources(gpus="measured"),
                gpu_shares=known[name],
            )
            folder = folder_of(store, name, "x")
            return RayRunner("cuda", {}, slots).run(work, calls[name], folder, name)

        await asyncio.gather(*map(run, calls))

    asyncio.run(go())
    return [stage_record(folder_of(store, name, "x")) for name in calls]


def test_sites_that_nobody_knew_share_a_gpu_once_the_first_of_them_was_measured(
    tmp_path: Path,
) -> None:
    (at := tmp_path / "at").mkdir()
    calls = {f"site-{k}": grow.call(mib=16_000 + k, at=str(at), together=3) for k in range(3)}
    with one_gpu():
        records = run_all(tmp_path, grow, calls, {name: {} for name in calls})
        assert (at / "met").exists(), "all three at once on the GPU"
        assert sum(record.result["attempts"] for record in records) == 4
        assert [len(record.earlier) for record in records].count(1) == 1, "one was preempted, once"
        (told,) = run_all(tmp_path / "2", read, {"site-1": read.call()}, {"site-1": {}})
    assert told.result == {"device": "cpu"}
    assert told.device == "cpu"
    assert told.device_memory_mib is None


def test_sites_share_a_gpu_by_what_was_measured_and_get_a_process_each(tmp_path: Path) -> None:
    """What a stage leaves in its process goes with it."""
    known = {"site-1": {"reserve": 0.4}, "site-2": {"reserve": 0.4}, "site-3": {}}
    calls = {name: reserve.call(mib=9, left_mib=9, seconds=2.0) for name in known}
    with one_gpu():
        one, other, whole = records = run_all(tmp_path, reserve, calls, known)
        pids = {record.result["pid"] for record in records}
        assert len(pids) == 3
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline, "a process keeps the device's memory"
            time.sleep(0.1)
    assert {record.result["before"] for record in (one, other, whole)} == {0}
    assert {record.device_memory_mib for record in (one, other, whole)} == {9}
    assert overlap(one, other), "two that took .4 each are side by side"
    assert not overlap(one, whole), "who was never measured has all of it"
    assert not overlap(other, whole)


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(max(one["started"], other["started"]) < min(one["ended"], other["ended"]))
