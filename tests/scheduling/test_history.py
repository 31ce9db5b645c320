"""How long stages take, and what sites' stages take of a machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.config.budget import budget_values
from hyfree_ray.core.records import StageRecord, write_record
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.runners.planning import plan
from hyfree_ray.scheduling.estimates import estimate
from hyfree_ray.scheduling.history import (
    RunHistory,
    StageTiming,
    critical_paths,
    expected_seconds,
    merge,
    outlooks,
    read_history,
    share_of_full_size,
    task_id,
)
from hyfree_ray.scheduling.resources import Resources, read_resources, resources_of
from hyfree_ray.segmenters.plan_caps import PlanCaps
from tests.refusals import refuses
from tests.stage_records import stage_record


def test_the_longest_chain_counts_from_each_stage_to_the_end() -> None:
    inputs = {"a": ["raw"], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": ["a"]}
    seconds = {"a": 1.0, "b": 10.0, "c": 2.0, "d": 4.0, "e": 7.0}
    assert critical_paths(inputs, seconds) == {"a": 15, "b": 14, "c": 6, "d": 4, "e": 7}


def test_a_late_sites_generator_goes_before_an_early_sites_control(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    steps = plan(phantom_simulation(3), tmp_path).steps
    found = outlooks(steps, expected_seconds(steps, {}, "cpu"))
    by_name = {
        (step.owner, step.name): found[task_id(step.owner, step.key)].critical_path
        for step in steps
    }
    for site in ("site-1", "site-2", "site-3"):
        for before in ("train_generator", "local", "synthesise", "release"):
            assert by_name[site, before] > max(
                by_name[other, "local2x"] for other in ("site-1", "site-2", "site-3")
            )
    assert by_name["pool", "train_general"] > by_name["site-1", "local2x"]


def write_stage(folder: Path, stage: str, seconds: float, **params: Any) -> StageRecord:
    folder.mkdir(parents=True)
    record = stage_record(
        stage,
        owner=folder.parts[-3],
        key=folder.name,
        params=params,
        seconds=seconds,
        device_seconds=seconds if stage.startswith("train") else 0.0,
    )
    write_record(folder, record)
    return record


def test_earlier_runs_tell_how_long_it_will_take(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    simulation = phantom_simulation(2)
    steps = plan(simulation, tmp_path / "new").steps
    without = estimate(simulation, steps, tmp_path / "new", "cpu")
    assert "no earlier run" in without.describe_time()
    tried = {"train_segmenter": 2.0, "train_generator": 0.25}
    calibrated = estimate(simulation, steps, tmp_path / "new", "cpu", tried)
    assert "by a calibration on this machine" in calibrated.describe_time()
    stages = tmp_path / "store" / "sites" / "site-1" / "stages"
    write_stage(stages / "train_segmenter-a", "train_segmenter", 30.0, epochs=3, iterations=5)
    write_stage(stages / "train_segmenter-b", "train_segmenter", 90.0, epochs=3, iterations=15)
    write_stage(stages / "train_generator-c", "train_generator", 64.0, images_shown=256)
    (stages / "broken").mkdir()
    (stages / "broken" / "record.json").write_text("{")
    known = read_history(tmp_path / "store").seconds_per_unit("cpu")
    assert known == {"train_segmenter": (2.0, 2), "train_generator": (0.25, 1)}
    assert read_history(tmp_path / "store").seconds_per_unit("cuda") == {}
    write_stage(stages / "prepare-d", "prepare", 3.0)
    assert read_history(tmp_path / "store").seconds_per_unit("cuda") == {"prepare": (3.0, 1)}, (
        "no device, any device"
    )
    seconds = expected_seconds(steps, known, "cpu")
    (local,) = (s for s in steps if (s.owner, s.name) == ("site-1", "local"))
    unet = simulation.experiment.budget.unet
    assert seconds[local.key] == 2.0 * unet.epochs * unet.iterations
    cost = estimate(simulation, steps, tmp_path / "store", "cpu")
    assert "by 3 earlier trainings" in cost.describe_time()
    assert 0 < cost.least_hours < cost.device_hours
    for hours, words in ((0.001, "1 minute "), (1.0, "60 minutes "), (2.5, "2.5 hours ")):
        assert (
            f": {words}of one device"
            in dataclasses.replace(cost, device_hours=hours).describe_time()
        )
    assert calibrated.device_hours == pytest.approx(cost.device_hours)
    slow = dict.fromkeys(tried, 1e6)  # where records tell, they are believed
    assert estimate(simulation, steps, tmp_path / "store", "cpu", slow) == cost


def test_stores_of_several_machines_tell_together_what_is_done_and_how_long_it_takes(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    steps = plan(phantom_simulation(2), tmp_path / "new").steps
    (local,) = (s for s in steps if (s.owner, s.name) == ("site-1", "local"))
    first = StageTiming(stage="a", seconds=1.0, work=1.0, device="cpu", gpu_share=0.2)
    second = StageTiming(stage="a", seconds=9.0, work=2.0, device="cpu", gpu_share=0.1)
    other = RunHistory(
        timings={
            "x/2": second,
            "y/1": dataclasses.replace(second, stage="b", device="any", gpu_share=0.0),
            task_id("site-1", local.key): dataclasses.replace(first, device="cuda", gpu_share=0.0),
        }
    )
    merged = merge([RunHistory(timings={"x/1": first}), other, other])
    assert merged.seconds_per_unit("cpu") == {"a": (10 / 3, 2), "b": (4.5, 1)}
    assert merged.gpu_shares() == {"x": {"a": 0.2}}
    assert merge([]) == RunHistory()
    seconds = expected_seconds(steps, merged.seconds_per_unit("cpu"), "cpu", merged.timings)
    assert seconds[local.key] == 0.0
    (others,) = (s for s in steps if (s.owner, s.name) == ("site-2", "local"))
    assert seconds[others.key] > 0.0


def test_sites_share_a_gpu_by_what_was_measured(tmp_path: Path) -> None:
    stages = tmp_path / "store" / "sites" / "site-1" / "stages"
    for number, (used, stage) in enumerate(
        ((6_000.0, "train_segmenter"), (9_000.0, "train_segmenter"), (79_000.0, "train_generator"))
    ):
        folder = stages / f"{stage}-{number}"
        record = write_stage(folder, stage, 1.0, epochs=1, iterations=2, images_shown=3)
        measured = {"device": "cuda", "device_memory_mib": used, "device_total_mib": 80_000.0}
        write_record(folder, record.model_copy(update=measured))
    write_stage(stages / "synthesise-0", "synthesise", 1.0)  # on a CPU: it says nothing
    shares = read_history(tmp_path / "store").gpu_shares()
    assert shares == {"site-1": {"train_segmenter": 0.15, "train_generator": 1.0}}
    config = tmp_path / "c.yaml"
    config.write_text("resources:\n  default: {gpus: measured}\n")
    resources = resources_of("site-1", read_resources(config))
    assert resources.needs(on_gpu=True, measured=0.15) == {"CPU": 1.0, "GPU": 0.15}
    assert resources.needs(on_gpu=True) == {"CPU": 1.0, "GPU": 1.0}  # never seen: all of it
    assert Resources().needs(on_gpu=True, measured=0.15) == {"CPU": 1.0, "GPU": 1.0}


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
        ("[1]", "c.yaml"),
        ("{a: {cpus: 0}}", "a.cpus"),
        ("{a: {gpus: many}}", "a.gpus"),
    ],
)
def test_resources_that_are_none_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"resources: {text}\n")
    with refuses("config.bad-value", said):
        read_resources(config)


def test_where_no_record_tells_narrowed_trainings_take_their_share_of_full_ones() -> None:
    """A run of twenty minutes was announced as one of 32 hours."""
    small, paper = (
        PlanCaps.model_validate(budget_values(name)["plan"]) for name in ("small", "paper")
    )
    assert share_of_full_size(paper) == 1
    assert share_of_full_size(small) == pytest.approx((64 / 256 * 16 / 32) ** 2)
