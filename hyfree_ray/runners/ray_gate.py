"""Whose turn it is on a cluster. Ray itself starts stages in the order in which they were asked.

One light actor lets stages in by priority; Ray still gives out the resources. If the actor is
lost, so is the order of those that wait, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import ray

from hyfree_ray.resources import Resources
from hyfree_ray.schedule import Slots


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
    """Lets stages in by priority."""

    def __init__(self) -> None:
        self.slots = Slots(machines=machines())

    async def acquire(self, ticket: str, needs: Mapping[str, float], priority: float) -> None:
        """Wait for the stage's turn."""
        self.slots.machines = machines()  # one may have come or gone
        await self.slots.acquire(ticket, needs, priority)

    async def release(self, ticket: str) -> None:
        """The stage has ended."""
        self.slots.release(ticket)

    async def forget(self, owner: str) -> None:
        """The party's process is new."""
        self.slots.forget(owner)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A party's standing in the cluster."""

    gate: Any = None
    """Handle of the `Gate`; None: stages go as they come."""
    resources: Resources = field(default_factory=Resources)
    priorities: Mapping[str, float] = field(default_factory=dict)
    """By key of the stage; what was not foreseen (another round) goes first."""

    @asynccontextmanager
    async def turn(self, ticket: str, needs: Mapping[str, float], key: str) -> AsyncIterator[None]:
        """Hold a place while the stage runs."""
        if self.gate is None:
            yield
            return
        await self.gate.acquire.remote(ticket, dict(needs), self.priorities.get(key, math.inf))
        try:
            yield
        finally:
            self.gate.release.remote(ticket)

    def begin(self, owner: str) -> None:
        """A party's process has just started: places of the one before it are free."""
        if self.gate is not None:
            self.gate.forget.remote(owner)
