"""A runner that injects faults into a site of a simulation: dropouts and stragglers, on request."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.errors import StageError
from hyfree_ray.core.stage import Stage
from hyfree_ray.federation.participation import FaultInjection, Rules
from hyfree_ray.federation.party import Runner
from hyfree_ray.federation.workspace import Exports, Workspace


def inject_faults(runner: Runner, rules: Rules, party: str) -> Runner:
    """Return the runner of a party, wrapped if the rules inject faults into it."""
    fault_injection = rules.fault_injections.get(party)
    return runner if fault_injection is None else FaultInjectingRunner(runner, fault_injection)


class FaultInjectingRunner:
    """Runs stages as another runner does, but fails at some and is slow in all."""

    def __init__(self, runner: Runner, fault_injection: FaultInjection) -> None:
        self.runner = runner
        self.fault_injection = fault_injection

    async def run(self, stage: Stage[Any], call: Call, folder: Path, owner: str) -> None:
        """Run the call, unless the site drops out here.

        Raises:
            StageError: the site dropped out.
        """
        if not {stage.name, call.params.get("role")}.isdisjoint(self.fault_injection.drops):
            raise StageError(owner, stage.name, "dropped out (--drop)", "")
        begun = time.monotonic()
        await self.runner.run(stage, call, folder, owner)
        # The device is free again: the site is slow, not the device.
        await asyncio.sleep((self.fault_injection.slowness - 1) * (time.monotonic() - begun))

    def takes(self, stage: Stage[Any], /) -> str:
        """Return the other runner's description."""
        return self.runner.takes(stage)

    def workspace(self, root: Path, owner: str, exports: Exports) -> Workspace:
        """Open a party's own folder."""
        return self.runner.workspace(root, owner, exports)
