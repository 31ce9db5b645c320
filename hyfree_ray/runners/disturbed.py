"""Make a site of a simulation drop out or lag behind, on request."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.errors import StageError
from hyfree_ray.core.stage import Stage
from hyfree_ray.federation.participation import Disturbance, Rules
from hyfree_ray.federation.party import Runner
from hyfree_ray.federation.workspace import Exports, Workspace


def disturbed(runner: Runner, rules: Rules, party: str) -> Runner:
    """Return the runner of a party, as the rules let it be."""
    disturbance = rules.disturbances.get(party)
    return runner if disturbance is None else DisturbedRunner(runner, disturbance)


class DisturbedRunner:
    """Runs stages as another runner does, but breaks at some and is slow in all."""

    def __init__(self, runner: Runner, disturbance: Disturbance) -> None:
        self.runner = runner
        self.disturbance = disturbance

    async def run(self, stage: Stage[Any], call: Call, folder: Path, owner: str) -> None:
        """Run the call, unless the site drops out here.

        Raises:
            StageError: the site dropped out.
        """
        if not {stage.name, call.params.get("role")}.isdisjoint(self.disturbance.drops):
            raise StageError(owner, stage.name, "dropped out (--drop)", "the options")
        begun = time.monotonic()
        await self.runner.run(stage, call, folder, owner)
        # The device is free again: what is slow about a slow site is the site.
        await asyncio.sleep((self.disturbance.slowness - 1) * (time.monotonic() - begun))

    def takes(self, stage: Stage[Any], /) -> str:
        """Say what the other runner says."""
        return self.runner.takes(stage)

    def workspace(self, root: Path, owner: str, exports: Exports) -> Workspace:
        """Open a party's own folder."""
        return self.runner.workspace(root, owner, exports)
