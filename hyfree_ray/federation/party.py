"""A party: an owner of a store, who runs stages in it and exports named results.

The programs in `site.py`, `pool.py` and `oracle.py` use `Party.run` alone. The runner decides where
a stage runs, and whether anything does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Protocol

from hyfree_ray.core.artifacts import Artifact, Call
from hyfree_ray.core.journal import attempts, read_metrics, seconds_spent
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.records import ParcelRecord, StageRecord
from hyfree_ray.core.stage import Stage
from hyfree_ray.federation.status import (
    FinishedStage,
    ReceivedParcel,
    RunningStage,
    Status,
    Step,
)
from hyfree_ray.federation.workspace import Exports, Workspace

P = ParamSpec("P")


class Runner(Protocol):
    """Runs the stages of a party."""

    async def run(self, stage: Stage[Any], call: Call, folder: Path, owner: str) -> None:
        """Run the call until its folder holds its record; a dry run returns at once.

        Raises:
            HyfreeError: what the stage refused.
        """

    def takes(self, stage: Stage[Any], /) -> str:
        """Describe the resources that a stage waits for before it begins."""

    def workspace(self, root: Path, owner: str, exports: Exports) -> Workspace:
        """Open a party's own folder."""


@dataclass(frozen=True)
class _Asked:
    """A stage that is running or waiting."""

    step: Step
    folder: Path
    since: float
    takes: str


class Party:
    """A party: its workspace, its runner, and the calls it has made so far.

    Args:
        name: unique among the parties.
        root: its own folder.
        runner: runs its stages.
        exports: stages whose outputs may leave, with the files that may.
    """

    def __init__(self, name: str, root: Path, runner: Runner, exports: Exports) -> None:
        self.name = name
        self.runner = runner
        self.workspace = runner.workspace(root, name, exports)
        self.store = self.workspace.store
        self.steps: list[Step] = []
        self._artifacts: dict[str, asyncio.Task[Artifact]] = {}
        self._running: dict[str, _Asked] = {}
        self._broken: dict[str, Path] = {}
        self._received: dict[str, Artifact] = {}

    async def run(
        self, purpose: str, stage: Stage[P], *args: P.args, **kwargs: P.kwargs
    ) -> Artifact:
        """Return the artifact of a call: from the store, or made now.

        Args:
            purpose: the regime that it is for, or `regimes.RELEASE`: for observers, in no key.
                A call that is requested twice is made once, for the first purpose.
            stage: the stage to call.
            args: the stage's.
            kwargs: the stage's.
        """
        call = stage.call(*args, **kwargs)
        if call.key not in self._artifacts:
            making = self._make(purpose, stage, call)
            self._artifacts[call.key] = asyncio.ensure_future(making)
        return await asyncio.shield(self._artifacts[call.key])

    async def _make(self, purpose: str, stage: Stage[Any], call: Call) -> Artifact:
        found = self.store.find(call)
        step = Step(
            owner=self.name,
            name=str(call.params.get("role", call.stage)),
            purpose=purpose,
            stage=call.stage,
            key=call.key,
            device=stage.device,
            done=found.record is not None,
            call=call,
        )
        self.steps.append(step)
        if step.done:
            return found
        takes = self.runner.takes(stage)
        self._running[call.key] = _Asked(step, found.path, time.time(), takes)
        self._broken.pop(call.key, None)
        try:
            await self.runner.run(stage, call, found.path, self.name)
        except BaseException:
            del self._artifacts[call.key]  # a repeated request tries again
            self._broken[call.key] = found.path
            raise
        finally:
            del self._running[call.key]
        return self.store.find(call)

    def export(self, artifact: Artifact) -> Parcel:
        """Pack an artifact for another party.

        Raises:
            PrivacyError: its stage is none of the party's exports.
        """
        return self.workspace.export(artifact)

    def receive(self, parcel: Parcel) -> Artifact:
        """Take another party's parcel into the own store."""
        received = self.workspace.receive(parcel)
        self._received[parcel.key] = received
        return received

    async def models_derived_from(self, keys: Collection[str]) -> list[str]:
        """Name the party's own models that were derived from artifacts with these keys."""
        return [
            f"{record.params.get('role', record.stage)} model {record.key[:8]}"
            for record in self.store.descendants(keys)
            if record.stage in self.store.exports
        ]

    async def status(self, finished: Set[str], received: Set[str]) -> Status:
        """Return what observers may know.

        Args:
            finished: keys of the stages known to be done.
            received: keys of the parcels known already.
        """
        open_stages = [asked.folder for asked in self._running.values()]
        return Status(
            owner=self.name,
            running=[_running(asked) for asked in list(self._running.values())],
            unfinished_s=sum(map(seconds_spent, [*open_stages, *self._broken.values()])),
            finished=self._finished_since(finished),
            received=[
                ReceivedParcel(
                    sender=artifact.record.owner,
                    receiver=self.name,
                    stage=artifact.stage,
                    key=artifact.key,
                    bytes=artifact.record.bytes,
                    sha256=artifact.record.sha256,
                )
                for key, artifact in self._received.items()
                if isinstance(artifact.record, ParcelRecord) and key not in received
            ],
        )

    def _finished_since(self, known: Set[str]) -> list[FinishedStage]:
        fresh = []
        for step in self.steps:
            if step.key in known or step.key in self._running:
                continue
            found = self.store.find_key(step.stage, step.key)
            if isinstance(found.record, StageRecord):
                curve = read_metrics(found.path)
                fresh.append(
                    FinishedStage(
                        name=step.name, purpose=step.purpose, record=found.record, curve=curve
                    )
                )
        return fresh


def _running(asked: _Asked) -> RunningStage:
    curve = read_metrics(asked.folder)
    begun = [start for start in attempts(asked.folder) if start >= asked.since]
    signs = [entry["time"] for entry in curve if begun and entry["time"] >= begun[-1]]
    return RunningStage(
        name=asked.step.name,
        purpose=asked.step.purpose,
        first=curve[0] if curve else None,
        last=curve[-1] if curve else None,
        begun=bool(begun),
        takes=asked.takes,
        silent_s=time.time() - max([asked.since, *begun[-1:], *signs]),
    )
