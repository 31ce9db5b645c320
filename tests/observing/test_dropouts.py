"""What it cost that sites were missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyfree_ray.core.records import StageRecord
from hyfree_ray.federation.hospital import quota
from hyfree_ray.federation.interface import Receipt
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.observing.dropouts import missing_sites, straggler
from hyfree_ray.results.summary import MissingSite, Straggler
from tests.stage_records import stage_record

REGIMES = ("local", "general", "finetuned")


def record(owner: str, stage: str, seconds: float, **more: Any) -> StageRecord:
    return stage_record(stage, owner=owner, seconds=seconds, **more)


def told(outcome: Any, images: int = 0) -> Receipt:
    return Receipt(outcome=outcome, images=images)


SPENT = [
    record("site-1", "train_generator", 10.0),
    record("site-1", "train_segmenter", 5.0),
    record("site-2", "train_generator", 100.0),
    record("site-2", "train_segmenter", 50.0),
    record("site-3", "train_generator", 1000.0),
    record("site-3", "train_segmenter", 500.0),
]


def missing(
    simulation: Simulation, outcomes: dict[str, Receipt], unfinished_s: dict[str, float]
) -> dict[str, MissingSite]:
    budget = simulation.experiment.budget
    found = missing_sites(simulation.sites, budget, outcomes, REGIMES, SPENT, unfinished_s)
    return {one.site: one for one in found}


def test_a_site_that_failed_took_its_images_and_all_its_compute_with_it(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    simulation = phantom_simulation(3)
    wanted = {n: quota(s, simulation.experiment.budget) for n, s in simulation.sites.items()}
    outcomes = {"site-1": told("released", 9), "site-2": told("failed"), "site-3": told("withheld")}
    found = missing(simulation, outcomes, {"site-2": 7.0})
    assert list(found) == ["site-2", "site-3"]
    assert found["site-2"].models == ("general", "finetuned")  # trained, and of the pool
    assert found["site-2"].images == wanted["site-2"] > 0
    assert found["site-2"].of_images == sum(wanted.values())
    assert found["site-2"].wasted_seconds == 150
    assert found["site-2"].unfinished_seconds == 7
    # Who withheld its release keeps its own segmenter, and its place in the run.
    assert found["site-3"].wasted_seconds == 1000


def test_a_site_that_broke_after_its_release_was_in_lacks_in_no_model(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    outcomes = {"site-1": told("released", 9), "site-2": told("failed", images=4)}
    found = missing(phantom_simulation(3), outcomes, {"site-2": 7.0})
    assert found["site-2"].models == ()
    assert found["site-2"].images == found["site-2"].wasted_seconds == 0
    assert found["site-2"].unfinished_seconds == 7


def test_the_straggler_is_who_the_pool_waited_for_alone() -> None:
    came = [
        record("pool", "check_release", 1.0, started=start, params={"site": site})
        for site, start in (("a", 100.0), ("late", 190.5), ("b", 130.0))
    ]
    assert straggler([*SPENT, *came]) == Straggler(site="late", seconds=60.5)
    assert straggler([*SPENT, came[0]]) is None
