"""The runner without Ray, and the handle by which a party in this process is called."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hyfree_ray.core.execution import execute
from hyfree_ray.core.stage import Stage
from hyfree_ray.core.store import Call
from hyfree_ray.federation.party import Party


class LocalRunner:
    """Runs stages in this process, one after the other, for all parties that share it."""

    planning = False

    def __init__(self, device: str) -> None:
        self.device = device
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stage")

    async def run(self, stage: Stage, call: Call, folder: Path, owner: str) -> None:
        """Run one call in the stage thread."""

        def work() -> None:
            execute(stage.module, call, folder, owner=owner, device=self.device)

        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def takes(self, _stage: Stage, /) -> str:
        """This process, which runs one after the other."""
        return "its turn"


class LocalParty:
    """Calls a party's methods as Ray's actors are called: at once, for a result that comes later.

    Results of other calls may be arguments; they are waited for.
    """

    def __init__(self, party: Party) -> None:
        self.party = party

    def call(self, method: str, *arguments: Any) -> asyncio.Task[Any]:
        """Start a method and return the task of its result."""
        return asyncio.ensure_future(self._call(method, arguments))

    async def _call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        ready = [await a if isinstance(a, asyncio.Future) else a for a in arguments]
        return await self.party.call(method, *ready)
