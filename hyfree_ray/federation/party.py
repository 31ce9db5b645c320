"""A party: somebody with a store of their own, who runs stages in it and exports named results.

The programs in `site.py` and `pool.py` are written against `Party.run` alone. Where a stage runs
is the runner's business.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Collection, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyfree_ray.core.errors import StageError
from hyfree_ray.core.journal import attempts, read_metrics, seconds_spent
from hyfree_ray.core.stage import Stage
from hyfree_ray.core.store import Artifact, Call, Parcel, Store

log = logging.getLogger("hyfree_ray")

MISSING = "what others were to get of it is missing"
"""All that is told to another party."""


class Runner(Protocol):
    """Where stages run."""

    planning: bool
    """True: nothing is run, written or received; calls are only looked up and noted."""

    async def run(self, stage: Stage[Any], call: Call, folder: Path, owner: str) -> None:
        """Run the call until its folder holds its record.

        Raises:
            HyfreeError: what the stage refused.
        """

    def takes(self, stage: Stage[Any], /) -> str:
        """What a stage that has not begun waits for, in words."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage that a party asked for: what observers are told of it."""

    owner: str
    name: str
    """The stage, or the role it was called for: `local`, `local2x`, `finetuned`."""
    stage: str
    key: str
    device: bool
    done: bool
    """It was there already, before it was asked for."""
    call: Call


class Party:
    """One party: its store, its runner, and what it has asked for so far.

    Args:
        name: unique among the parties.
        root: its own folder.
        runner: where its stages run.
        exports: stages whose outputs may leave, with the files that do.
    """

    def __init__(
        self, name: str, root: Path, runner: Runner, exports: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.name = name
        self.store = Store(root, name, exports)
        self.runner = runner
        self.steps: list[Step] = []
        self._asked: dict[str, asyncio.Task[Artifact]] = {}
        self._running: dict[str, tuple[str, Path, float, str]] = {}
        self._broken: dict[str, Path] = {}
        self._ready: dict[str, Any] = {}
        self._received: dict[str, Artifact] = {}

    async def run(self, stage: Stage[Any], **arguments: Any) -> Artifact:
        """The artifact of a call: from the store, or made now. Asked twice, it is made once."""
        call = stage.call(**arguments)
        if call.key not in self._asked:
            self._asked[call.key] = asyncio.ensure_future(self._make(stage, call))
        return await asyncio.shield(self._asked[call.key])

    async def _make(self, stage: Stage[Any], call: Call) -> Artifact:
        found = self.store.find(call)
        name = str(call.params.get("role", call.stage))
        self.steps.append(
            Step(
                owner=self.name,
                name=name,
                stage=call.stage,
                key=call.key,
                device=stage.device,
                done=found.record is not None,
                call=call,
            )
        )
        if found.record is not None or self.runner.planning:
            return found
        self._running[call.key] = (name, found.path, time.time(), self.runner.takes(stage))
        self._broken.pop(call.key, None)
        try:
            await self.runner.run(stage, call, found.path, self.name)
        except BaseException:
            del self._asked[call.key]  # asked again, it is tried again
            self._broken[call.key] = found.path
            raise
        finally:
            del self._running[call.key]
        return self.store.find(call)

    def export(self, artifact: Artifact) -> Parcel:
        """Pack an artifact for another party (empty while planning and not there yet)."""
        if self.runner.planning and artifact.record is None:
            return Parcel(
                sender=self.name, stage=artifact.stage, key=artifact.key, files={}, result={}
            )
        return self.store.export(artifact)

    def receive(self, parcel: Parcel) -> Artifact:
        """Take another party's parcel into the own store."""
        if self.runner.planning:
            received = self.store.received(parcel.stage, parcel.key, parcel.sender)
        else:
            received = self.store.receive(parcel)
        self._received[parcel.key] = received
        return received

    async def ready(self, made: str, method: str, *arguments: Any) -> None:
        """Call a method. What breaks is told to whoever runs the parties.

        Args:
            made: name of what it makes, by which it is handed out.
            method: of this party.
            arguments: of it.
        """
        self._ready[made] = await self.call(method, *arguments)

    async def hand_out(self, made: str, method: str, *arguments: Any) -> Any:
        """What `ready` made, which other parties are called with.

        It is kept for one time only: a release may have gigabytes. Where the party's process is
        another one by now, or this is asked again, it is made again.

        Raises:
            StageError: it is missing. Why is not told: an error's own text may name a case.
        """
        if made in self._ready:
            return self._ready.pop(made)
        try:
            return await self.call(method, *arguments)
        except Exception as error:
            log.warning("%s: %s", self.name, error)
            what = " ".join([method, *(one for one in arguments if isinstance(one, str))])
            raise StageError(self.name, what, MISSING, "that party's own store") from None

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method by its name."""
        result = getattr(self, method)(*arguments)
        return await result if isinstance(result, Awaitable) else result

    def touched(self, keys: Collection[str]) -> list[str]:
        """The party's own models, in words, that were made from what has one of these keys."""
        return [
            f"{record['params'].get('role', record['stage'])} model {record['key'][:8]}"
            for record in self.store.descendants(keys)
            if record["stage"] in self.store.exports
        ]

    async def status(self, finished: Set[str], received: Set[str]) -> dict[str, Any]:
        """What observers may be told: running stages; what has finished and come in since; and
        the time that went into stages without an end.

        `finished` and `received` are the keys of what they know already.

        No paths and no names of cases: a stage's private parameters are not in its record.
        """
        running = []
        for name, path, asked, takes in list(self._running.values()):
            curve = read_metrics(path)
            begun = [start for start in attempts(path) if start >= asked]
            signs = [entry["time"] for entry in curve if begun and entry["time"] >= begun[-1]]
            running.append(
                {
                    "name": name,
                    "first": curve[0] if curve else None,
                    "last": curve[-1] if curve else None,
                    "begun": bool(begun),
                    "takes": takes,
                    "silent_s": time.time() - max([asked, *begun[-1:], *signs]),
                }
            )
        fresh = []
        for step in self.steps:
            if step.key in finished or step.key in self._running:
                continue
            found = self.store.find_key(step.stage, step.key)
            if found.record is not None:
                curve = read_metrics(found.path)
                fresh.append({"name": step.name, "record": found.record, "curve": curve})
        parcels = [
            {
                "from": artifact.record["owner"],
                "to": self.name,
                "stage": artifact.stage,
                "key": artifact.key,
                "bytes": artifact.record["bytes"],
                "sha256": artifact.record["sha256"],
            }
            for key, artifact in self._received.items()
            if artifact.record is not None and key not in received
        ]
        open_stages = [path for _, path, *_ in self._running.values()] + [*self._broken.values()]
        return {
            "owner": self.name,
            "running": running,
            "unfinished_s": sum(seconds_spent(path) for path in open_stages),
            "finished": fresh,
            "received": parcels,
        }
