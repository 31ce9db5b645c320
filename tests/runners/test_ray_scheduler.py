"""Who goes first, on a cluster: trainings are preempted, and the scheduler hears everybody."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from hyfree_ray.core.journal import METRICS, attempts, read_metrics
from hyfree_ray.core.stage import Context, stage
from hyfree_ray.runners.ray import RayRunner
from hyfree_ray.runners.ray_arguments import pack
from hyfree_ray.runners.ray_scheduler import SlotClient, start_scheduler
from hyfree_ray.scheduling.history import Outlook, task_id
from hyfree_ray.scheduling.queue import SlotRequest
from hyfree_ray.scheduling.resources import Resources


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
def test_a_training_gives_its_slot_to_a_longer_chain_and_goes_on_afterwards(
    tmp_path: Path,
) -> None:
    long, urgent = walk.call(steps=100), walk.call(steps=2)
    outlooks = {
        task_id("site-1", long.key): Outlook(seconds=100.0, critical_path=100.0),
        task_id("site-2", urgent.key): Outlook(seconds=10.0, critical_path=1000.0),
    }
    slots = SlotClient(scheduler=start_scheduler(pack(outlooks), 0.0), resources=Resources(cpus=2))
    runner = RayRunner("cpu", {}, slots)

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
def test_a_scheduler_for_which_thousands_wait_still_hears_who_has_ended() -> None:
    scheduler, needs = start_scheduler(pack({}), 0.0), {"CPU": 2.0}

    def request(task: str) -> SlotRequest:
        return SlotRequest(task=task, needs=needs)

    async def go() -> None:
        await scheduler.acquire.remote(request("a/1"))
        waiting = [scheduler.acquire.remote(request(f"b/{number}")) for number in range(1500)]
        scheduler.release.remote(request("a/1"))
        # Whoever is the first to be heard: calls may overtake each other on their way.
        calls = [asyncio.ensure_future(call) for call in waiting]
        done, _ = await asyncio.wait(calls, timeout=120, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert done.pop().result() == needs
        ray.kill(scheduler)
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(go())
