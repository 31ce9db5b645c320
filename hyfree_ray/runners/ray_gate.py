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

from hyfree_ray.core.device_memory import share_taken
from hyfree_ray.core.stage import Stage
from hyfree_ray.scheduling.history import Outlook
from hyfree_ray.scheduling.queue import Slots, Turn
from hyfree_ray.scheduling.resources import Resources

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
        self, ticket: str, needs: Mapping[str, float], turn: Turn | None = None, like: str = ""
    ) -> Mapping[str, float]:
        """Wait for the stage's turn; what it may take."""
        if self.looking is None:
            self.looking = asyncio.ensure_future(self._look_around())
        return await self.slots.acquire(ticket, needs, turn, like=like)

    async def _look_around(self) -> None:
        """A machine that everybody waits for may be back."""
        while True:
            self.slots.see(machines())
            await asyncio.sleep(LOOK_S)

    async def release(
        self, ticket: str, done: bool, takes: float = 0.0, turn: Turn | None = None
    ) -> None:
        """The stage has ended, or given way; the share of a GPU that it was seen to take."""
        self.slots.release(ticket, turn, done=done, takes=takes)

    async def gives_way(self, ticket: str, share: float, takes: float = 0.0) -> bool:
        """Whether a training, of which a share is done and saved, is to ask for a place again."""
        return self.slots.gives_way(ticket, share, takes)

    async def forget(self, owner: str, process: str) -> None:
        """The party's process is new."""
        self.slots.forget(owner, process)


def start_gate(outlooks: Any, segment_s: float, name: str | None = None) -> Any:
    """Start a gate; its handle, by which it is kept alive.

    Args:
        outlooks: what is expected of each stage, by ticket: a mapping, or Ray's reference to one.
        segment_s: a training keeps its place for at least as long.
        name: by which other processes find it.
    """
    options = {"max_concurrency": MOST_WAITING, "name": name}
    return Gate.options(**options).remote(outlooks, segment_s)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a training asks the gate, from its worker, whenever it has saved itself."""

    gate: Any
    """Handle of the `Gate`."""
    ticket: str
    device: str
    """Whose memory is measured; "cpu": what it takes does not count."""

    def __call__(self, share: float) -> bool:
        """Whether to give way. A gate that does not answer holds up nobody."""
        asked = self.gate.gives_way.remote(self.ticket, share, share_taken(self.device))
        try:
            return bool(ray.get(asked, timeout=ANSWER_S))
        except RayError:
            return False


@dataclass(frozen=True, kw_only=True)
class Place:
    """A party's standing in the cluster."""

    gate: Any = None
    """Handle of the `Gate`; None: stages go as they come."""
    resources: Resources = field(default_factory=Resources)
    device_shares: dict[str, float] = field(default_factory=dict)
    """By stage, the largest share of a GPU that it took, in earlier runs or in this one."""

    def needs(self, stage: Stage, device: str) -> dict[str, float]:
        """What a stage of the party takes."""
        measured = self.device_shares.get(stage.name, 1.0)
        return self.resources.needs(on_gpu=device == "cuda" and stage.device, measured=measured)

    def measures(self, stage: Stage, device: str) -> str:
        """The device whose memory says what the stage takes; "cpu": what was configured does."""
        own = stage.device and not stage.distributed and self.resources.gpus == "measured"
        return device if own else "cpu"

    def question(self, ticket: str, measures: str) -> Question | None:
        """What the stage may ask while it runs.

        Args:
            ticket: of the stage.
            measures: the device whose memory is measured.
        """
        if self.gate is None:
            return None
        return Question(gate=self.gate, ticket=ticket, device=measures)

    async def enter(
        self, ticket: str, needs: Mapping[str, float], like: str, turn: Turn
    ) -> dict[str, float]:
        """Wait for the stage's turn.

        Args:
            ticket: of the stage.
            needs: what it takes.
            like: the stage's name, where its share of a GPU is to be that of others like it.
            turn: which asking this is.

        Returns:
            What it may take.
        """
        if self.gate is None:
            return dict(needs)
        return dict(await self.gate.acquire.remote(ticket, dict(needs), turn, like))

    def leave(self, ticket: str, turn: Turn, *, done: bool, takes: float) -> None:
        """The stage has ended, or given way; the share of a GPU that it was seen to take."""
        if self.gate is not None:
            self.gate.release.remote(ticket, done, takes, turn)

    def learn(self, stage: Stage, takes: float) -> None:
        """The party's stage was seen to take this share of a GPU; 0: it was not measured."""
        if takes > self.device_shares.get(stage.name, 0.0):
            self.device_shares[stage.name] = takes

    def begin(self, owner: str) -> None:
        """A party's process has just started: places of the one before it are free.

        It is not waited for, so that what the process asks for next may be heard before it.
        """
        if self.gate is not None:
            self.gate.forget.remote(owner, _this_process())


def next_turn() -> Turn:
    """To ask for a place with."""
    return Turn(process=_this_process(), number=uuid4().hex)


def _this_process() -> str:
    return str(ray.get_runtime_context().get_worker_id())
