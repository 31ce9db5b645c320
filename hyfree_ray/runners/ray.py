"""Run parties' stages as Ray tasks.

An actor is light and holds no resource: it keeps a party's store and runs its program. A stage is
a task that takes its GPU, or a CPU, for its own length, so that sites may outnumber GPUs. On a
GPU each stage gets a fresh process, which gives the device's memory back when it ends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfDiskError, OutOfMemoryError, RayError, RayTaskError

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.device_memory import share_taken
from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.execution import OUT_OF_MEMORY, execute
from hyfree_ray.core.stage import Preempted, Stage
from hyfree_ray.federation.workspace import Exports, Workspace
from hyfree_ray.runners.ray_cluster import worker_needs
from hyfree_ray.runners.ray_scheduler import (
    PreemptionCheck,
    SlotClient,
    machines,
    new_request_id,
)
from hyfree_ray.runners.ray_train import RayTrainLaunch
from hyfree_ray.runners.watch import HUNG_S, Watch, here
from hyfree_ray.scheduling.capacity import format_needs
from hyfree_ray.scheduling.history import task_id
from hyfree_ray.scheduling.queue import SlotRequest

VMSTAT = Path("/proc/vmstat")

INLINE_BYTES = 64 << 10
"""Ray keeps with an actor what it is made of, up to a little more than this."""

RESTARTS = 3
"""Times that a stage whose process died is started again; it goes on from its checkpoint."""


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """How a stage's process ended."""

    done: bool
    """False: it was preempted, and has to go on later."""
    gpu_share: float
    """Share that it was measured to take; 0: not measured."""


def _run_stage(
    module: str,
    call: Call,
    folder: str,
    owner: str,
    device: str,
    each: dict[str, float],
    should_preempt: PreemptionCheck | None,
    measured_on: str,
) -> _Segment:
    """Run one call in this worker process, to its end or until it is preempted."""
    # Ray Train's workers hold what `each` takes of a distributed stage, its task holds nothing.
    launch = RayTrainLaunch(device, each)
    try:
        execute(
            module,
            call,
            Path(folder),
            owner=owner,
            device=device,
            launch=launch,
            should_preempt=should_preempt,
        )
    except Preempted:
        return _Segment(done=False, gpu_share=share_taken(measured_on))
    return _Segment(done=True, gpu_share=share_taken(measured_on))


# A process that imported torch and nnU-Net is worth keeping; one that used a GPU is not, for only
# its end gives all of the device's memory back.
_kept = ray.remote(_run_stage)
_fresh = ray.remote(max_calls=1)(_run_stage)


class RayRunner:
    """Runs a party's stages as tasks of the cluster that this process is connected to.

    Args:
        device: "cpu" or "cuda".
        pin: the custom resource of the party's machine.
        slots: asks the scheduler, and knows what the party's stages take.
        hung_s: silence after which a stage that was talking is started again.
    """

    def __init__(
        self,
        device: str,
        pin: dict[str, float],
        slots: SlotClient | None = None,
        hung_s: float = HUNG_S,
    ) -> None:
        self.device = device
        self.hung_s = hung_s
        self.pin = pin
        self.slots = slots or SlotClient()

    def join(self, scheduler: str, owner: str) -> None:
        """Ask the scheduler of that name from now on, as a party's process that has just started.

        By name, for a party's actor is made again from what it is given, and Ray warns where that
        holds a handle.
        """
        self.slots = replace(self.slots, scheduler=ray.get_actor(scheduler))
        self.slots.begin(owner)

    async def run(self, stage: Stage[Any], call: Call, folder: Path, owner: str) -> None:
        """Run the call when it is its turn, wherever the cluster has room.

        Raises:
            HyfreeError: what the stage refused.
            StageError: it broke, or its process died more often than it is started again; out of
                memory it is tried once more, alone on its machine.
        """
        try:
            await self._run(stage, call, folder, owner, alone=False)
        except StageError as error:
            if not _is_out_of_memory(error):
                raise
            try:
                await self._run(stage, call, folder, owner, alone=True)
            except StageError as again:
                if not _is_out_of_memory(again):
                    raise
                reason = f"{OUT_OF_MEMORY}, even alone on its machine ({again.reason})"
                raise StageError(owner, stage.name, reason, again.log) from again

    def takes(self, stage: Stage[Any], /) -> str:
        """Return the amounts by resource, and where."""
        where = "".join(f" on the machine that declares {pin}" for pin in self.pin)
        if stage.distributed:  # its own process takes nothing
            each = worker_needs(self.slots.resources, self.device, self.pin)
            return f"{format_needs(each)} for each of its workers{where}"
        return format_needs(self.slots.needs(stage, self.device)) + where

    def workspace(self, root: Path, owner: str, exports: Exports) -> Workspace:
        """Open a party's own folder."""
        return Workspace(root, owner, exports)

    async def _watched(self, work: Awaitable[Any], folder: Path, owner: str) -> Any:
        """Wait for a stage; end its process where it hangs, so that Ray starts it again."""
        waiting, watch = asyncio.ensure_future(work), Watch(folder, owner, self.hung_s)
        while not (await asyncio.wait({waiting}, timeout=self.hung_s / 4))[0]:
            watch.end_if_hung()
        return await waiting

    async def _run(
        self, stage: Stage[Any], call: Call, folder: Path, owner: str, *, alone: bool
    ) -> None:
        done, task = False, task_id(owner, call.key)
        while not done:
            needs, share_of = self._asks_for(stage, alone=alone)
            needs |= self.pin
            request = SlotRequest(task=task, needs=needs, share_of=share_of, id=new_request_id())
            granted = await self.slots.acquire(request)
            takes = {name: amount for name, amount in granted.items() if name not in self.pin}
            gpu_share = 0.0
            try:
                ended = await self._segment(stage, call, folder, owner, takes)
                done, gpu_share = ended.done, ended.gpu_share
                self.slots.record_share(stage, gpu_share)
            finally:
                self.slots.release(request, done=done, gpu_share=gpu_share)

    def _asks_for(self, stage: Stage[Any], *, alone: bool) -> tuple[dict[str, float], str]:
        """What a stage needs, and whose share of a GPU it may take where its own is not known."""
        needs = self.slots.needs(stage, self.device)
        if alone:
            needs |= {"GPU": max(1.0, needs["GPU"])} if "GPU" in needs else {}
            needs["CPU"] = all_cpus({**needs, **self.pin}, list(machines().values()))
            return needs, ""
        known = stage.name in self.slots.gpu_shares
        guess = self.slots.measured_on(stage, self.device) == "cuda" and not known
        return needs, stage.name if guess else ""

    async def _segment(
        self, stage: Stage[Any], call: Call, folder: Path, owner: str, needs: Mapping[str, float]
    ) -> _Segment:
        """Run the call, from its checkpoint, to its end or until it is preempted."""
        # Ray Train's workers take what a distributed stage needs, its task takes nothing.
        takes = {} if stage.distributed else needs
        task = (_fresh if takes.get("GPU") else _kept).options(
            name=f"{owner}:{stage.name}",
            num_cpus=takes.get("CPU", 0),
            num_gpus=takes.get("GPU", 0),
            memory=takes.get("memory"),
            resources=self.pin,
            max_retries=RESTARTS,
        )
        measured_on = self.slots.measured_on(stage, self.device)
        check = self.slots.preemption_check(task_id(owner, call.key), measured_on)
        killed = kernel_kills()
        try:
            each = worker_needs(self.slots.resources, self.device, self.pin)
            work = task.remote(
                stage.module, call, str(folder), owner, self.device, each, check, measured_on
            )
            ended: _Segment = await self._watched(work, folder, owner)
            return ended
        except RayTaskError as error:
            raise cause_of(error) from None
        except OutOfDiskError as error:
            raise cause_of(error) from error
        except RayError as error:
            # The process died, again and again: out of memory, or a node that is gone.
            by_kernel = here(folder) and kernel_kills() > killed
            reason = reason_of_death(error, by_kernel=by_kernel)
            raise StageError(owner, stage.name, reason, str(folder / "log.txt")) from error


def all_cpus(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> float:
    """Return the most CPUs of a machine with all other needs; those needed if there is none."""
    fit = [has for has in nodes if all(has.get(name, 0.0) >= a for name, a in needs.items())]
    return max((has["CPU"] for has in fit), default=needs["CPU"])


def kernel_kills() -> int:
    """Return how many processes this machine's kernel has killed for memory since it started."""
    try:
        lines = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def reason_of_death(error: RayError, *, by_kernel: bool) -> str:
    """Describe why a stage's process is gone.

    Args:
        error: what Ray says.
        by_kernel: the kernel has killed somebody for memory on the stage's machine meanwhile.
    """
    if isinstance(error, OutOfMemoryError):
        figures = re.search(r"was ([\d.]+ ?GB used / [\d.]+ ?GB)", str(error))
        return f"{OUT_OF_MEMORY}, ended by Ray" + (f" at {figures[1]}" if figures else "")
    return f"{OUT_OF_MEMORY}, killed by the kernel" if by_kernel else type(error).__name__


def _is_out_of_memory(error: StageError) -> bool:
    """Return whether Ray's monitor, the kernel, the stage or torch (by name) ran out of memory."""
    return error.reason.startswith((OUT_OF_MEMORY, "OutOfMemoryError"))


def cause_of(error: BaseException) -> BaseException:
    """Return the exception inside Ray's wrapping, if it is ours or the user can fix it."""
    inner: BaseException | None = error
    while isinstance(inner, RayTaskError):
        inner = inner.cause
    if isinstance(inner, OutOfDiskError):
        return HyfreeError(
            "cluster.disk-full",
            "the disk that Ray spills objects to is nearly full; free space, or set RAY_TMPDIR to "
            "a folder on another disk; nothing is lost; run the same command again to resume",
        )
    return inner if isinstance(inner, (HyfreeError, StageError)) else error
