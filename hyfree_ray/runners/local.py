"""The runner without Ray, and the handle by which a party in this process is called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.execution import execute
from hyfree_ray.core.stage import Stage
from hyfree_ray.federation.party import Party
from hyfree_ray.federation.workspace import Exports, Workspace

P = ParamSpec("P")
R = TypeVar("R")


class LocalRunner:
    """Runs stages in this process, one after the other, for all parties that share it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stage")

    async def run(self, stage: Stage[Any], call: Call, folder: Path, owner: str) -> None:
        """Run one call in the stage thread."""

        def work() -> None:
            execute(stage.module, call, folder, owner=owner, device=self.device)

        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def takes(self, _stage: Stage[Any], /) -> str:
        """Return that a stage waits for those before it."""
        return "its turn"

    def workspace(self, root: Path, owner: str, exports: Exports) -> Workspace:
        """Open a party's own folder."""
        return Workspace(root, owner, exports)


class LocalParty:
    """A party in this process."""

    def __init__(self, party: Party) -> None:
        self.party = party

    def call(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[R]:
        """Start a method of the party."""
        return asyncio.ensure_future(getattr(self.party, method.__name__)(*args, **kwargs))

    async def make(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Wait for a method's answer."""
        return await self.call(method, *args, **kwargs)
