"""A walk through the protocol without running anything, to plan a run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.stage import Stage
from hyfree_ray.federation import protocol
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.party import Party
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.status import Step
from hyfree_ray.federation.workspace import DryWorkspace, Exports, Workspace
from hyfree_ray.runners.local import LocalParty


class PlanningRunner:
    """Runs nothing and writes nothing. The stages that parties would run become their steps."""

    async def run(self, stage: Stage[Any], call: Call, folder: Path, owner: str) -> None:
        """Leave the stage to the run that is planned."""

    def takes(self, _stage: Stage[Any], /) -> str:
        """Return that nothing is waited for."""
        return "nothing"

    def workspace(self, root: Path, owner: str, exports: Exports) -> Workspace:
        """Open a party's folder to read it."""
        return DryWorkspace(root, owner, exports)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The stages that a run would execute, and those that are done."""

    steps: tuple[Step, ...]
    outcome: protocol.Outcome
    parties: tuple[Party, ...]

    @property
    def missing(self) -> list[Step]:
        """Stages that have yet to run."""
        return [step for step in self.steps if not step.done]

    @property
    def taking_part(self) -> list[str]:
        """Sites that have not withdrawn."""
        sites = self.outcome.sites.items()
        return [name for name, receipt in sites if receipt.outcome != "withdrawn"]


def plan(simulation: Simulation, store: Path, rules: Rules | None = None) -> Planned:
    """Walk through the protocol without running, writing or importing anything heavy.

    No site is late in it: only a run counts how long the round has waited.
    """
    runner = PlanningRunner()
    parties = tuple(simulation.party(name, store, runner) for name in simulation.party_names)
    handles = {party.name: LocalParty(party) for party in parties}
    outcome = asyncio.run(
        protocol.simulate(
            handles,
            settings=simulation.experiment.settings,
            rules=replace(rules or Rules(), deadline_s=None),
            contributors=simulation.contributors,
        )
    )
    steps = tuple(step for party in parties for step in party.steps)
    return Planned(steps=steps, outcome=outcome, parties=parties)
