"""A site that breaks once its models go to others, on Ray: no actor hears why."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import ray

from hyfree_ray.federation import protocol
from hyfree_ray.federation.participation import Rules
from hyfree_ray.runners.ray_cluster import connect, disconnect
from hyfree_ray.runners.ray_parties import start_parties
from tests import toys
from tests.chaos.on_ray import workers_run_toys
from tests.faults.test_late_failures import SECRET, SETTINGS, Listening, broken

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("kind", [":", "!"])
def test_91_an_error_of_a_late_stage_goes_to_no_other_actor(tmp_path: Path, kind: str) -> None:
    heard: list[tuple[str, Any]] = []

    async def through() -> tuple[Any, list[Any]]:
        actors = start_parties(toys.toy_simulation(), tmp_path / "store", "cpu")
        handles = {name: Listening(actor, heard) for name, actor in actors.items()}
        running = protocol.simulate(handles, settings=SETTINGS, rules=Rules(min_sites=2))
        (ended,) = await asyncio.gather(running, return_exceptions=True)
        references = [one for _, one in heard if isinstance(one, ray.ObjectRef)]
        found = await asyncio.gather(*references, return_exceptions=True)
        for actor in actors.values():
            ray.kill(actor.actor)
        return ended, found

    with workers_run_toys(**{toys.STEP_S: "0.002", toys.BREAK: broken(kind)}):
        connect("local", cpus=2)
        try:
            ended, found = asyncio.run(through())
        finally:
            disconnect()
    assert len(found) > 20
    assert not [one for one in found if isinstance(one, Exception)]
    assert all(SECRET.encode() not in cloudpickle.dumps(one) for one in found)
    if kind == ":":
        assert ended.sites["site-2"].reason == "prepare_for_general: ValueError"
        trained = {(s.regime, s.train_site) for s in ended.scores}
        assert ("finetuned", "site-1") in trained
        assert ("finetuned", "site-2") not in trained
    else:
        assert SECRET in str(ended)
