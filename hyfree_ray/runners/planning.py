"""Walking through the protocol without running anything: what a run would do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from hyfree_ray.core.stage import Stage
from hyfree_ray.core.store import Call
from hyfree_ray.federation import protocol
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.party import Party, Step
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.runners.local import LocalParty


class PlanningRunner:
    """Runs nothing. What parties would run is what they then list as their steps."""

    planning = True

    async def run(self, stage: Stage, call: Call, folder: Path, owner: str) -> None:
        """Never called: a planning party does not get this far."""
        raise AssertionError(f"{owner}: {stage.name} was to run while planning {call.key} {folder}")

    def takes(self, _stage: Stage, /) -> str:
        """Nothing."""
        return "nothing"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run would do, and what is there already."""

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
        told = self.outcome.sites.items()
        return [name for name, site in told if site.get("outcome") != "withdrawn"]


def plan(simulation: Simulation, store: Path, rules: Rules | None = None) -> Planned:
    """Walk through the protocol without running, writing or importing anything heavy."""
    runner = PlanningRunner()
    parties = tuple(simulation.party(name, store, runner) for name in simulation.party_names)
    handles = {party.name: LocalParty(party) for party in parties}
    outcome = asyncio.run(
        protocol.simulate(
            handles,
            settings=simulation.experiment.settings,
            rules=rules,
            contributors=simulation.contributors,
        )
    )
    steps = tuple(step for party in parties for step in party.steps)
    return Planned(steps=steps, outcome=outcome, parties=parties)
