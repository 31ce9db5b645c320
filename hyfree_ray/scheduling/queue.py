"""Decide who starts next and who is preempted.

The rule is that of the critical path: whoever has the longest expected chain of stages after it
goes first (Graham 1969; Kelley 1961). So a late site's release is not kept waiting by the controls
of sites that were early. A training that has just saved itself is preempted for a chain that is
longer than what is left of its own, where that chain decides when the run ends.
"""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hyfree_ray.scheduling.capacity import Needs, capacity, fits, why_unsatisfiable
from hyfree_ray.scheduling.history import Outlook

SEGMENT_S = 600.0
"""A training keeps its slot for at least as long: to go on, it has to load everything again."""

PREEMPTION_RATIO = 1.2
"""Times its own critical path that another one has to be for a training to be preempted by it."""

CRITICAL_SHARE = 0.4
"""Share of what is left to do, spread over all slots, above which a chain may decide the end.

Shorter ones can wait. At 1 a chain is seen too late: it is not the only one, and slots are few.
"""

UNPLANNED = Outlook(seconds=0.0, critical_path=math.inf)
"""Of a stage that was not planned (of another round): it goes first and is never preempted."""

_Kind = frozenset[tuple[str, float]]
"""Needs that are the same."""


@dataclass(frozen=True)
class RequestId:
    """Tells requests apart. Messages may come twice, or overtake each other."""

    process: str
    """Who asks: a party's process, by a name that no later one has."""
    number: str
    """Of all its requests."""


@dataclass(frozen=True, kw_only=True)
class SlotRequest:
    """A stage that asks for room on a machine."""

    task: str
    """The stage's name in the run; see `history.task_id`."""
    needs: Needs
    """What it takes."""
    share_of: str = ""
    """The stage's name, where nobody knows what share of a GPU it takes: it takes as much as
    others of that name were seen to, and what `needs` says before there are any."""
    id: RequestId | None = None


@dataclass(frozen=True)
class _Waiting:
    order: tuple[float, int]
    request: SlotRequest
    granted: asyncio.Future[Needs]

    def __lt__(self, other: _Waiting) -> bool:
        return self.order < other.order


@dataclass(frozen=True)
class _Running:
    request: SlotRequest
    machine: str | None
    since: float


@dataclass(kw_only=True)
class Slots:
    """Grants slots by the length of critical paths, as far as machines have room.

    It is advice: whoever starts the stage still takes the resources from the cluster, which has
    the last word. So what is forgotten here (after a crash) costs order, never correctness.
    """

    machines: Mapping[str, Needs]
    """What each has in all."""
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)
    """By task."""
    segment_s: float = SEGMENT_S
    _seconds_left: dict[str, float] = field(init=False)
    """That each planned stage still needs, by task."""
    _running: dict[str, _Running] = field(default_factory=dict)
    """By task."""
    _waiting: dict[_Kind, list[_Waiting]] = field(default_factory=lambda: defaultdict(list))
    """In order, by what they need: of those that need the same, only the first is ever looked at,
    for a run of many sites asks for thousands of stages at once."""
    _count: int = 0
    _answers: dict[RequestId, asyncio.Future[Needs]] = field(default_factory=dict)
    """Of those that wait or run."""
    _shares: dict[str, float] = field(default_factory=dict)
    """By stage, the largest share of a GPU that one of those took whose share was not known."""

    def __post_init__(self) -> None:
        self._seconds_left = {task: outlook.seconds for task, outlook in self.outlooks.items()}

    def update_machines(self, machines: Mapping[str, Needs]) -> None:
        """Take note of machines that have come or gone."""
        self.machines = machines
        self._grant()

    async def acquire(self, request: SlotRequest) -> Needs:
        """Wait until the stage may start: before all whose critical paths are shorter.

        A request that is heard twice (its answer was lost) is the same.

        Returns:
            What it may take.
        """
        if request.id in self._answers:
            return await asyncio.shield(self._answers[request.id])
        self._count += 1
        granted: asyncio.Future[Needs] = asyncio.get_running_loop().create_future()
        if request.id is not None:
            self._answers[request.id] = granted
        order = (-self._critical_path(request.task), self._count)
        self._enqueue(_Waiting(order, request, granted))
        self._grant()
        return await granted

    def _enqueue(self, one: _Waiting) -> None:
        request = one.request
        if request.share_of in self._shares:
            needs = {**request.needs, "GPU": self._shares[request.share_of]}
            one = replace(one, request=replace(request, needs=needs))
        insort(self._waiting[frozenset(one.request.needs.items())], one)

    def _record_share(self, stage: str, share: float) -> None:
        """A stage that nobody knew took a share of a GPU: those like it will take as much."""
        if share <= self._shares.get(stage, 0.0):
            return
        self._shares[stage] = share
        every = [one for queue in self._waiting.values() for one in queue]
        alike = [one for one in every if one.request.share_of == stage]
        for kind, queue in self._waiting.items():
            self._waiting[kind] = [one for one in queue if one.request.share_of != stage]
        for one in alike:
            self._enqueue(one)

    def release(self, request: SlotRequest, *, done: bool = True, gpu_share: float = 0.0) -> None:
        """Free a stage's slot: it has ended, well or not; or it was preempted, and is not done.

        Heard twice, or after the next request was granted, it is no news.

        Args:
            request: that was granted.
            done: it has ended.
            gpu_share: share of a GPU that it was seen to take; 0: not measured.
        """
        if request.id is not None:
            self._answers.pop(request.id, None)
        running = self._running.get(request.task)
        if running is not None and running.request.id == request.id:
            del self._running[request.task]
            if running.request.share_of and gpu_share:
                self._record_share(running.request.share_of, gpu_share)
        if done:
            self._seconds_left.pop(request.task, None)
        self._grant()

    def should_preempt(self, task: str, done: float, gpu_share: float = 0.0) -> bool:
        """Decide whether a training that has just saved itself is to end and ask for a slot again.

        To make room for a stage that waits; or because it does not take the share of a GPU that
        was set aside for it: more, or less where others would find room beside it.

        Args:
            task: the training.
            done: share of it that is done, 0 to 1.
            gpu_share: share of a GPU that it was seen to take; 0: not measured.
        """
        running = self._running.get(task)
        if running is None:
            return False
        if gpu_share and self._should_resize(running, gpu_share):
            return True
        if task not in self._seconds_left:
            return False
        self._seconds_left[task] = (1 - done) * self.outlooks[task].seconds
        if asyncio.get_running_loop().time() - running.since < self.segment_s:
            return False
        for one in self._first_of_each_kind():
            critical_path, needs = self._critical_path(one.request.task), one.request.needs
            if critical_path <= PREEMPTION_RATIO * self._critical_path(task):
                return False
            if self._machine_for(needs, without=task) is not None:
                slots = max(1, capacity(needs, list(self.machines.values())))
                return critical_path > CRITICAL_SHARE * sum(self._seconds_left.values()) / slots
        return False

    def _should_resize(self, running: _Running, gpu_share: float) -> bool:
        """Whether a stage takes more of a GPU than it has, or is new and leaves room for others."""
        request = running.request
        has = request.needs.get("GPU", 0.0)
        if gpu_share >= has or not request.share_of:
            return gpu_share > has
        self._record_share(request.share_of, gpu_share)
        self._grant()
        smaller = replace(request, needs={**request.needs, "GPU": gpu_share})
        self._running[request.task] = replace(running, request=smaller)
        try:
            first = self._first_of_each_kind()
            return any(self._machine_for(one.request.needs) is not None for one in first)
        finally:
            self._running[request.task] = running

    def forget(self, owner: str, process: str) -> None:
        """Drop what earlier processes of a party held or asked for: it ended with them."""

        def is_gone(request: SlotRequest) -> bool:
            earlier = request.id is None or request.id.process != process
            return request.task.startswith(f"{owner}/") and earlier

        for kind, queue in self._waiting.items():
            self._waiting[kind] = [one for one in queue if not is_gone(one.request)]
        for running in list(self._running.values()):
            if is_gone(running.request):
                self.release(running.request, done=False)

    def _critical_path(self, task: str) -> float:
        """Expected seconds from here to the end of the longest chain that begins with the stage."""
        outlook = self.outlooks.get(task, UNPLANNED)
        return outlook.critical_path - outlook.seconds + self._seconds_left.get(task, 0.0)

    def _first_of_each_kind(self) -> list[_Waiting]:
        return sorted(queue[0] for queue in self._waiting.values() if queue)

    def _grant(self) -> None:
        first = self._first_of_each_kind()
        while first:
            one = first.pop(0)
            needs = one.request.needs
            machine = self._machine_for(needs)
            # What no machine could ever hold is for the cluster to decide.
            if machine is None and why_unsatisfiable(needs, list(self.machines.values())) is None:
                continue  # somebody smaller, or of another machine, may fit
            queue = self._waiting[frozenset(needs.items())]
            queue.pop(0)
            if queue:
                insort(first, queue[0])
            now = asyncio.get_running_loop().time()
            self._running[one.request.task] = _Running(one.request, machine, now)
            if not one.granted.done():
                one.granted.set_result(needs)

    def _machine_for(self, needs: Needs, without: str = "") -> str | None:
        """The first machine that has room for this, or would have it without one task."""
        for machine, has in self.machines.items():
            taken = [
                one.request.needs
                for task, one in self._running.items()
                if one.machine == machine and task != without
            ]
            if fits(needs, has, taken):
                return machine
        return None
