"""A hospital's program where its gate does not answer: nothing leaves, and the run goes on."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.errors import StageError
from hyfree_ray.core.records import write_record
from hyfree_ray.core.stage import Stage
from hyfree_ray.federation.hospital import quota
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.workspace import Exports, Workspace
from hyfree_ray.runners.local import LocalRunner
from tests.stage_records import stage_record


class Pretending:
    """Writes a record for each stage and runs none; the audit breaks as often as it is told to."""

    def __init__(self, breaks: int) -> None:
        self.breaks = breaks
        self.ran: list[str] = []

    def takes(self, _stage: Stage, /) -> str:
        return "nothing"

    def workspace(self, root: Path, owner: str, exports: Exports) -> Workspace:
        return Workspace(root, owner, exports)

    async def run(self, _stage: Stage, call: Call, folder: Path, owner: str) -> None:
        self.ran.append(call.stage)
        if call.stage == "audit" and self.breaks:
            self.breaks -= 1
            raise StageError(owner, call.stage, "TimeoutError", "error.txt")
        folder.mkdir(parents=True)
        (folder / "nearest_pairs.png").write_bytes(b"")
        (folder / "manifest.json").write_bytes(b"{}")
        result: dict[str, Any] = {"outcome": "released", "reason": None, "rejection_rate": 0.1}
        write_record(folder, stage_record(call.stage, key=call.key, result=result))


def test_a_site_whose_audit_breaks_hands_in_nothing_and_says_so(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    """Case 89: the gate fails closed, for this site alone."""
    simulation = phantom_simulation(1)
    runner = Pretending(breaks=9)
    site = simulation.site_party("site-1", tmp_path / "store", runner)

    async def protocol() -> tuple[Any, Any]:
        return await site.submit(), await site.model("local2x")

    handed, control = asyncio.run(protocol())
    assert sorted(handed.files) == ["withheld.json", "withheld.sig"]
    assert handed.result["outcome"] == "withheld"
    assert "nothing is released without one" in handed.result["reason"]
    assert control.stage == "train_segmenter"
    assert not {"release", "label", "quality_card"} & set(runner.ran)
    assert runner.ran.count("audit") == 1  # it is not tried again and again
    pool = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    asyncio.run(pool.trust("site-1", site.workspace.public_key()))
    taken = asyncio.run(pool.take("site-1", handed))
    assert (taken.outcome, taken.images) == ("withheld", 0)
    assert (taken.reason, taken.rejection_rate) == (handed.result["reason"], 0.1)


def test_a_site_of_few_images_releases_as_many_as_a_pool_takes(
    phantom_simulation: Callable[[int], Simulation],
) -> None:
    """A fifth of a release validates; one that is too small for that would be refused."""
    simulation = phantom_simulation(1)
    site = simulation.sites["site-1"]
    few = dataclasses.replace(site, cases=tuple(site.part("train")[:2]))
    budget = simulation.experiment.budget
    assert budget.synthesis.per_real * few.training_images < 5
    assert quota(few, budget) == 5
    assert quota(site, budget) > 5


def test_the_same_command_tries_a_broken_audit_again(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    simulation = phantom_simulation(1)
    for breaks in (1, 0):
        runner = Pretending(breaks)
        site = simulation.site_party("site-1", tmp_path / "store", runner)
        handed = asyncio.run(site.submit())
    assert runner.ran == ["audit", "label", "audit_labels", "quality_card", "release"]
    assert sorted(handed.files) == ["manifest.json", "manifest.sig"]


def test_a_phantom_shows_its_training_and_a_hospital_keeps_it(
    phantom_simulation: Callable[[int], Simulation], tmp_path: Path
) -> None:
    simulation = phantom_simulation(1)
    phantom = simulation.sites["site-1"]
    hospital = dataclasses.replace(phantom, phantom=None, folder=tmp_path)
    for drawn_from, shown in ((phantom, {"nearest_pairs.png"}), (hospital, set())):
        run = dataclasses.replace(simulation, sites={"site-1": drawn_from})
        site = run.site_party("site-1", tmp_path / f"store-{len(shown)}", Pretending(breaks=0))
        assert asyncio.run(site.training_pictures()) == {}

        async def made(site: Any = site) -> Any:
            await site.contribute()
            return await site.training_pictures()

        assert set(asyncio.run(made())) == shown
        assert list((tmp_path / f"store-{len(shown)}").rglob("audit/*.png"))
