"""Whose turn it is on a cluster. Ray itself starts stages in the order in which they were asked.

One light actor lets stages in and tells trainings to give way; Ray still gives out the resources.
If the actor is lost, so is the order of those that wait, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from hyfree_ray.resources import Resources
from hyfree_ray.schedule import Outlook
from hyfree_ray.slots import Slots, Turn
from hyfree_ray.stage import Stage

LOOK_S = 2.0
"""How often the gate looks which machines there are."""

MOST_WAITING = 1_000_000
"""Stages that wait at once, each in a call of its own: sites score the models of all sites. At
Ray's default of 1000 nobody would get through any more who wants to say that a stage has ended."""

ANSWER_S = 10.0
"""A training that asks whether to give way waits for so long, and then goes on."""


def machines(pin: Mapping[str, float] | None = None) -> dict[str, dict[str, float]]:
    """What each living machine has in all, by Ray's id; only those that have the pin."""
    found = {
        node["NodeID"]: {name: float(amount) for name, amount in node["Resources"].items()}
        for node in ray.nodes()
        if node["Alive"]
    }
    return {key: has for key, has in found.items() if all(name in has for name in pin or ())}


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Gate:
    """Lets stages in by the length of their chains."""

    def __init__(self, outlooks: Mapping[str, Outlook], segment_s: float) -> None:
        self.slots = Slots(machines=machines(), outlooks=outlooks, segment_s=segment_s)
        self.looking: asyncio.Task[None] | None = None

    async def acquire(
        self, ticket: str, needs: Mapping[str, float], turn: Turn | None = None
    ) -> None:
        """Wait for the stage's turn."""
        if self.looking is None:
            self.looking = asyncio.ensure_future(self._look_around())
        await self.slots.acquire(ticket, needs, turn)

    async def _look_around(self) -> None:
        """A machine that everybody waits for may be back."""
        while True:
            self.slots.see(machines())
            await asyncio.sleep(LOOK_S)

    async def release(self, ticket: str, done: bool) -> None:
        """The stage has ended, or given way."""
        self.slots.release(ticket, done=done)

    async def gives_way(self, ticket: str, share: float) -> bool:
        """Whether a training, of which a share is done and saved, is to make room."""
        return self.slots.gives_way(ticket, share)

    async def forget(self, owner: str, process: str) -> None:
        """The party's process is new."""
        self.slots.forget(owner, process)


def start_gate(outlooks: Any, segment_s: float) -> Any:
    """Start a gate; its handle.

    Args:
        outlooks: what is expected of each stage, by ticket: a mapping, or Ray's reference to one.
        segment_s: a training keeps its place for at least as long.
    """
    return Gate.options(max_concurrency=MOST_WAITING).remote(outlooks, segment_s)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a training asks the gate, from its worker, whenever it has saved itself."""

    gate: Any
    """Handle of the `Gate`."""
    ticket: str

    def __call__(self, share: float) -> bool:
        """Whether to give way. A gate that does not answer holds up nobody."""
        try:
            return bool(ray.get(self.gate.gives_way.remote(self.ticket, share), timeout=ANSWER_S))
        except RayError:
            return False


@dataclass(frozen=True, kw_only=True)
class Place:
    """A party's standing in the cluster."""

    gate: Any = None
    """Handle of the `Gate`; None: stages go as they come."""
    resources: Resources = field(default_factory=Resources)
    device_shares: Mapping[str, float] = field(default_factory=dict)
    """By stage, the share of a GPU that it took before."""

    def needs(self, stage: Stage, device: str) -> dict[str, float]:
        """What a stage of the party takes."""
        measured = self.device_shares.get(stage.name, 1.0)
        return self.resources.needs(on_gpu=device == "cuda" and stage.device, measured=measured)

    def question(self, ticket: str) -> Question | None:
        """What the stage may ask while it runs."""
        return None if self.gate is None else Question(gate=self.gate, ticket=ticket)

    async def enter(self, ticket: str, needs: Mapping[str, float]) -> None:
        """Wait for the stage's turn."""
        if self.gate is not None:
            turn = Turn(process=_this_process(), number=uuid4().hex)
            await self.gate.acquire.remote(ticket, dict(needs), turn)

    def leave(self, ticket: str, *, done: bool) -> None:
        """The stage has ended, well or not, or given way."""
        if self.gate is not None:
            self.gate.release.remote(ticket, done)

    def begin(self, owner: str) -> None:
        """A party's process has just started: places of the one before it are free.

        It is not waited for, so that what the process asks for next may be heard before it.
        """
        if self.gate is not None:
            self.gate.forget.remote(owner, _this_process())


def _this_process() -> str:
    return str(ray.get_runtime_context().get_worker_id())
