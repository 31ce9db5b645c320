"""The scheduling of stages on a cluster. Ray itself starts stages in the order of requests.

One light actor grants slots and preempts trainings; Ray still allocates the resources. If the actor
is lost, so is the order of waiting stages, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from hyfree_ray.core.device_memory import share_taken
from hyfree_ray.core.stage import Stage
from hyfree_ray.runners.ray_arguments import unpack
from hyfree_ray.scheduling.capacity import Needs
from hyfree_ray.scheduling.queue import RequestId, SlotRequest, Slots
from hyfree_ray.scheduling.resources import Resources

REFRESH_S = 2.0
"""Interval at which the scheduler looks for machines."""

MAX_WAITING = 1_000_000
"""Stages that wait at once, each in a call of its own: sites score the models of all sites. At
Ray's default of 1000 nobody would get through any more who wants to say that a stage has ended."""

ANSWER_S = 10.0
"""A training that asks whether it is preempted waits for so long, and then goes on."""


def machines(pin: Mapping[str, float] | None = None) -> dict[str, dict[str, float]]:
    """Return what each living machine has in all, by Ray's id; only those that have the pin."""
    found = {
        node["NodeID"]: {name: float(amount) for name, amount in node["Resources"].items()}
        for node in ray.nodes()
        if node["Alive"]
    }
    return {key: has for key, has in found.items() if all(name in has for name in pin or ())}


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Scheduler(Slots):
    """`Slots` of the cluster, for all its parties: an actor that is called from their processes."""

    def __init__(self, segment_s: float, *outlooks: bytes) -> None:
        super().__init__(machines=machines(), outlooks=unpack(outlooks), segment_s=segment_s)
        self._refreshing: asyncio.Task[None] | None = None

    async def acquire(self, request: SlotRequest) -> Needs:
        """Wait for the stage's turn, on machines as they are by then."""
        if self._refreshing is None:
            self._refreshing = asyncio.ensure_future(self._refresh())
        return await super().acquire(request)

    async def _refresh(self) -> None:
        """Look again for machines: one that stages wait for may be back."""
        while True:
            self.update_machines(machines())
            await asyncio.sleep(REFRESH_S)


def start_scheduler(outlooks: Iterable[Any], segment_s: float, name: str | None = None) -> Any:
    """Start a scheduler; return its handle, by which it is kept alive.

    Args:
        outlooks: what is expected of each stage, by task; packed.
        segment_s: a training keeps its slot for at least as long.
        name: by which other processes find it.
    """
    options = {"max_concurrency": MAX_WAITING, "name": name}
    return Scheduler.options(**options).remote(segment_s, *outlooks)


@dataclass(frozen=True, kw_only=True)
class PreemptionCheck:
    """The query of a training's worker to the scheduler whenever it has saved a checkpoint."""

    scheduler: Any
    """Handle of the `Scheduler`."""
    task: str
    measured_on: str
    """The device whose memory is measured; "cpu": what it takes does not count."""

    def __call__(self, done: float) -> bool:
        """Ask whether to end here, given the share that is done.

        A scheduler that does not answer holds up nobody.
        """
        share = share_taken(self.measured_on)
        try:
            asked = self.scheduler.should_preempt.remote(self.task, done, share)
            return bool(ray.get(asked, timeout=ANSWER_S))
        except RayError:
            return False


@dataclass(frozen=True, kw_only=True)
class SlotClient:
    """A party's client of the cluster's scheduler."""

    scheduler: Any = None
    """Handle of the `Scheduler`; None: stages go as they come."""
    resources: Resources = field(default_factory=Resources)
    gpu_shares: dict[str, float] = field(default_factory=dict)
    """By stage, the largest share of a GPU that it took, in earlier runs or in this one."""

    def needs(self, stage: Stage, device: str) -> dict[str, float]:
        """Return what a stage of the party takes."""
        measured = self.gpu_shares.get(stage.name, 1.0)
        return self.resources.needs(on_gpu=device == "cuda" and stage.device, measured=measured)

    def measured_on(self, stage: Stage, device: str) -> str:
        """Return the device whose memory says what the stage takes; "cpu": the settings do."""
        own = stage.device and not stage.distributed and self.resources.gpus == "measured"
        return device if own else "cpu"

    def preemption_check(self, task: str, measured_on: str) -> PreemptionCheck | None:
        """Return what a stage asks while it runs; see `PreemptionCheck`."""
        if self.scheduler is None:
            return None
        return PreemptionCheck(scheduler=self.scheduler, task=task, measured_on=measured_on)

    async def acquire(self, request: SlotRequest) -> Needs:
        """Wait for the stage's turn; return what it may take."""
        if self.scheduler is None:
            return request.needs
        granted: Needs = await self.scheduler.acquire.remote(request)
        return granted

    def release(self, request: SlotRequest, *, done: bool, gpu_share: float) -> None:
        """Say that a stage has ended or was preempted, and what of a GPU it was seen to take."""
        if self.scheduler is not None:
            self.scheduler.release.remote(request, done=done, gpu_share=gpu_share)

    def record_share(self, stage: Stage, gpu_share: float) -> None:
        """Note what of a GPU the party's stage was seen to take; 0: it was not measured."""
        if gpu_share > self.gpu_shares.get(stage.name, 0.0):
            self.gpu_shares[stage.name] = gpu_share

    def begin(self, owner: str) -> None:
        """Say that a party's process has just started: slots of the one before it are free.

        It is not waited for, so that what the process asks for next may be heard before it.
        """
        if self.scheduler is not None:
            self.scheduler.forget.remote(owner, _this_process())


def new_request_id() -> RequestId:
    """Return an id for one more request of this process."""
    return RequestId(process=_this_process(), number=uuid4().hex)


def _this_process() -> str:
    return str(ray.get_runtime_context().get_worker_id())
