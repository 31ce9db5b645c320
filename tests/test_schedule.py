"""Who goes first, and what a machine has room for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.costs import estimate
from hyfree_ray.errors import HyfreeError
from hyfree_ray.resources import Resources, read_resources, resources_of
from hyfree_ray.runners.planning import plan
from hyfree_ray.schedule import (
    Slots,
    expected_seconds,
    pace_of,
    priorities,
    remaining_seconds,
    unmet,
)
from hyfree_ray.simulation import Simulation


def test_the_longest_chain_counts_from_each_stage_to_the_end() -> None:
    inputs = {"a": ["raw"], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["a"]}
    seconds = {"a": 1.0, "b": 10.0, "c": 2.0, "d": 4.0, "e": 7.0}
    assert remaining_seconds(inputs, seconds) == {"a": 15, "b": 14, "c": 6, "d": 4, "e": 7}


def test_a_late_sites_generator_goes_before_an_early_sites_control(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    steps = plan(phantom_simulation(3), tmp_path).steps
    rank = priorities(steps, expected_seconds(steps, {}, "cpu"))
    by_name = {(step.owner, step.name): rank[step.key] for step in steps}
    for site in ("site-1", "site-2", "site-3"):
        for before in ("train_generator", "local", "synthesise", "release"):
            assert by_name[site, before] > max(
                by_name[other, "local2x"] for other in ("site-1", "site-2", "site-3")
            )
    assert by_name["pool", "train_general"] > by_name["site-1", "local2x"]


def record(folder: Path, stage: str, seconds: float, **params: Any) -> None:
    folder.mkdir(parents=True)
    described = {"stage": stage, "seconds": seconds, "device": "cpu", "params": params}
    (folder / "record.json").write_text(json.dumps(described))


def test_earlier_runs_tell_how_long_it_will_take(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    simulation = phantom_simulation(2)
    steps = plan(simulation, tmp_path / "new").steps
    without = estimate(simulation, steps, tmp_path / "new", "cpu")
    assert "no earlier run" in without.by_records
    stages = tmp_path / "store" / "sites" / "site-1" / "stages"
    record(stages / "train_segmenter-a", "train_segmenter", 30.0, epochs=3, iterations=5)
    record(stages / "train_segmenter-b", "train_segmenter", 90.0, epochs=3, iterations=15)
    record(stages / "train_generator-c", "train_generator", 64.0, images_shown=256)
    (stages / "broken").mkdir()
    (stages / "broken" / "record.json").write_text("{")
    pace = pace_of(tmp_path / "store", "cpu")
    assert pace == {"train_segmenter": (2.0, 2), "train_generator": (0.25, 1)}
    assert pace_of(tmp_path / "store", "cuda") == {}
    seconds = expected_seconds(steps, pace, "cpu")
    (local,) = (s for s in steps if (s.owner, s.name) == ("site-1", "local"))
    unet = simulation.experiment.budget.unet
    assert seconds[local.key] == 2.0 * unet.epochs * unet.iterations
    cost = estimate(simulation, steps, tmp_path / "store", "cpu")
    assert "by 3 earlier trainings" in cost.by_records
    assert 0 < cost.least_hours < cost.device_hours


def let_in(machines: dict[str, dict[str, float]], *asked: tuple[str, dict, float]) -> list[str]:
    """Tickets in the order in which they get in, where each ends when no other can start."""

    async def go() -> list[str]:
        slots, order = Slots(machines=machines), []

        async def one(ticket: str, needs: dict[str, float], priority: float) -> None:
            await slots.acquire(ticket, needs, priority)
            order.append(ticket)
            await asyncio.sleep(0.001)
            slots.release(ticket)

        await asyncio.gather(*(one(*each) for each in asked))
        return order

    return asyncio.run(go())


def test_priority_decides_and_not_who_came_first() -> None:
    cpu = {"CPU": 1.0}
    order = let_in({"m": cpu}, ("a/1", cpu, 5), ("a/2", cpu, 1), ("b/1", cpu, 3), ("b/2", cpu, 9))
    assert order == ["a/1", "b/2", "b/1", "a/2"]


def test_a_pinned_stage_waits_for_its_machine_and_holds_up_nobody_else() -> None:
    machines = {"m": {"CPU": 1.0, "site:a": 1.0}, "n": {"CPU": 1.0}}
    pinned, free = {"CPU": 1.0, "site:a": 0.001}, {"CPU": 1.0}
    order = let_in(machines, ("a/1", pinned, 9), ("a/2", pinned, 8), ("b/1", free, 1))
    assert order == ["a/1", "b/1", "a/2"]


def test_what_no_machine_can_hold_is_left_to_the_cluster() -> None:
    assert let_in({"m": {"CPU": 1.0}}, ("a/1", {"GPU": 1.0}, 1)) == ["a/1"]


def test_places_of_a_process_that_died_are_free_again() -> None:
    async def go() -> None:
        slots = Slots(machines={"m": {"CPU": 1.0}})
        await slots.acquire("a/1", {"CPU": 1.0}, 1)
        slots.forget("a")
        await asyncio.wait_for(slots.acquire("b/1", {"CPU": 1.0}, 1), 1)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"CPU": 2.0, "GPU": 0.5}, None),
        ({"GPU": 3.0}, "needs 3 GPU, the most that a machine has is 1"),
        ({"memory": 2.0**36}, "needs 64 GiB of memory"),
        ({"CPU": 1.0, "GPU": 1.0, "site:a": 0.001}, "on the machine of site:a"),
        ({"CPU": 8.0, "GPU": 1.0}, "all of it on one machine"),
    ],
)
def test_what_can_never_be_scheduled_is_named(needs: dict[str, float], said: str | None) -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0, "site:a": 1.0, "memory": 2.0**34}]
    found = unmet(needs, nodes)
    assert found is None if said is None else said in str(found)


def test_resources_are_read_by_site(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("resources:\n  default: {gpus: 0.5}\n  site-1: {cpus: 4, memory_gib: 8}\n")
    found = read_resources(config)
    assert resources_of("site-2", found).needs(on_gpu=True) == {"CPU": 1.0, "GPU": 0.5}
    own = resources_of("site-1", found).needs(on_gpu=False)
    assert own == {"CPU": 4.0, "memory": 8 * 2.0**30}
    assert resources_of("site-1", {}) == Resources()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{site-1: {gpu: 1}}", "resources.site-1.gpu"),
        ("[1]", "is a mapping"),
        ("{a: {cpus: 0}}", "a.cpus"),
    ],
)
def test_resources_that_are_none_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"resources: {text}\n")
    with pytest.raises(HyfreeError, match=said):
        read_resources(config)
