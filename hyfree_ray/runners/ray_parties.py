"""Parties as Ray actors: light ones, which hold no resource while their stages run as tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import ray

from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.party import Party
from hyfree_ray.runners.fault_injection import inject_faults
from hyfree_ray.runners.ray import RayRunner
from hyfree_ray.runners.ray_arguments import pack, unpack
from hyfree_ray.runners.ray_cluster import pin_of
from hyfree_ray.runners.ray_scheduler import SlotClient, start_scheduler
from hyfree_ray.scheduling.resources import Execution, resources_of

if TYPE_CHECKING:
    from hyfree_ray.federation.simulation import (
        Simulation,  # reads images: no party's process needs that
    )

P = ParamSpec("P")
R = TypeVar("R")


class _PartyProcess:
    """A party in a process of its own.

    Its memory may be lost at any time: all that it knows is in its store, where methods find it.

    Args:
        name: the party's.
        program: its class.
        root: its folder.
        runner: where its stages run.
        scheduler: name of the actor that grants slots.
        rules: what the party is made to suffer.
        part: what else it is made of: its own part, and no other's.
    """

    def __init__(
        self,
        name: str,
        program: Callable[..., Party],
        root: str,
        runner: RayRunner,
        scheduler: str,
        rules: Rules,
        *part: bytes,
    ) -> None:
        runner.join(scheduler, name)
        self.party = program(*unpack(part), Path(root), inject_faults(runner, rules, name))

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the party."""
        return await getattr(self.party, method)(*arguments)

    async def make(self, method: str, *arguments: Any) -> tuple[None, Any]:
        """Call a method. Returns that it is done, and apart from it the answer."""
        return None, await self.call(method, *arguments)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class SiteActor(_PartyProcess):
    """A hospital."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class PoolActor(_PartyProcess):
    """The centre."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class OracleActor(_PartyProcess):
    """The oracle, which may see everything. It is not pinned: it reads every hospital's folder."""


_ACTORS = {POOL: PoolActor, ORACLE: OracleActor}


class RayParty:
    """Handle of a party's actor.

    Args:
        actor: kept alive by this.
        needed: what else has to be kept alive: the scheduler, and what actors are made of.
    """

    def __init__(self, actor: Any, needed: tuple[Any, ...] = ()) -> None:
        self.actor = actor
        self.needed = needed

    def call(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[R]:
        """Start a method of the party."""
        promise: Awaitable[R] = self.actor.call.remote(method.__name__, *args, **kwargs)
        return promise

    async def make(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Wait until a method is done. Returns Ray's reference to the answer, which stays there."""
        both = self.actor.make.options(num_returns=2).remote(method.__name__, *args, **kwargs)
        done, answer = both
        await done
        found: R = answer
        return found


def start_parties(
    simulation: Simulation, store: Path, device: str, execution: Execution | None = None
) -> dict[str, RayParty]:
    """Start an actor for each party; each gets its own part only."""
    execution = execution or Execution()
    outlooks = pack(dict(execution.outlooks))
    scheduler_name = f"{simulation.run}:scheduler"
    scheduler = start_scheduler(outlooks, execution.segment_s, scheduler_name)
    parties = {}
    for name in simulation.party_names:
        pin = {} if name == ORACLE else pin_of(name)
        slots = SlotClient(
            resources=resources_of(name, execution.resources),
            gpu_shares=dict(execution.gpu_shares.get(name, {})),
        )
        program, part = simulation.program(name)
        packed = pack(part)
        actor = (
            _ACTORS.get(name, SiteActor)
            .options(name=f"{simulation.run}:{name}", resources=pin)
            .remote(
                name,
                program,
                str(simulation.root_of(name, store)),
                RayRunner(device, pin, slots),
                scheduler_name,
                execution.rules,
                *packed,
            )
        )
        parties[name] = RayParty(actor, needed=(scheduler, outlooks, packed))
    return parties
