"""How near the order of stages comes to the best there is, on a virtual clock.

    python benchmarks/schedule.py

Sites are log-normal in size and stages take what the paper's lengths take on a data-centre GPU. The
makespan is divided by max(total work / devices, critical path), which no schedule beats. `policy`
is the code that a run uses, `hyfree_ray.scheduling.queue`: the longest chain first, and trainings
that are preempted at their checkpoints; to load everything again costs a training that goes on
`RESUME_H`. Beside it, the same without preemption, first come first served (what Ray does alone),
and barriers (no site begins a kind of stage before all have finished the kind before).
`schedule_ray.py` measures.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import selectors
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hyfree_ray.scheduling.history import Outlook, critical_paths
from hyfree_ray.scheduling.queue import SEGMENT_S, SlotRequest, Slots

DRAWS = 10
CHECKPOINTS = 30
"""Of a training."""
RESUME_H = 0.05
SPREAD = 0.6
"""Of the logarithm of a site's size."""

HOURS = {"generator": 10.0, "local": 11.0, "release": 1.0, "local2x": 22.0, "card": 0.3}
"""Of a site of the median size on one GPU; the segmenters' lengths do not depend on the site."""
GENERAL, FINETUNE, SCORE = 11.0, 11.0, 0.1


@dataclass(frozen=True)
class Task:
    """A stage: how long it takes, what it reads, and its kind's place in the protocol."""

    hours: float
    after: tuple[str, ...]
    barrier: int
    preemptible: bool = False


def federation(sites: int, seed: int) -> dict[str, Task]:
    """The protocol's stages for so many sites."""
    draw = random.Random(seed)
    tasks: dict[str, Task] = {}
    for site in range(sites):
        size = draw.lognormvariate(0.0, SPREAD)
        tasks[f"{site}/generator"] = Task(HOURS["generator"] * size, (), 0, True)
        tasks[f"{site}/local"] = Task(HOURS["local"], (), 0, True)
        learned = (f"{site}/generator", f"{site}/local")
        tasks[f"{site}/release"] = Task(HOURS["release"] * size, learned, 1)
        tasks[f"{site}/card"] = Task(HOURS["card"], (f"{site}/release",), 2)
        tasks[f"{site}/local2x"] = Task(HOURS["local2x"], (f"{site}/release",), 2, True)
    releases = tuple(f"{site}/release" for site in range(sites))
    tasks["pool/general"] = Task(GENERAL, releases, 3)
    for site in range(sites):
        tasks[f"{site}/finetuned"] = Task(FINETUNE, ("pool/general",), 4, True)
        tasks[f"{site}/score"] = Task(SCORE, (f"{site}/finetuned", f"{site}/local2x"), 5)
    return tasks


def chains(tasks: Mapping[str, Task]) -> dict[str, float]:
    """The longest chain from each stage to the end, hours."""
    hours = {name: task.hours for name, task in tasks.items()}
    return critical_paths({name: task.after for name, task in tasks.items()}, hours)


def bound(tasks: Mapping[str, Task], devices: int) -> float:
    """What no schedule beats, hours."""
    return max(sum(task.hours for task in tasks.values()) / devices, max(chains(tasks).values()))


def sharper_bound(tasks: Mapping[str, Task], devices: int) -> float:
    """A bound that knows of the general model, hours: all fine-tuning comes after it.

    Until it is there, a control that began late is not done. When it is best begun, nobody knows
    beforehand: the bound is that of the best moment.
    """
    sites = sorted({name.split("/")[0] for name in tasks} - {"pool"})
    earliest = {
        site: max(tasks[f"{site}/{kind}"].hours for kind in ("generator", "local"))
        + tasks[f"{site}/release"].hours
        for site in sites
    }
    before = sum(task.hours for task in tasks.values() if task.barrier < 2) / devices
    first = max(before, *earliest.values())
    control = HOURS["local2x"]
    moments = {first} | {release + control - GENERAL for release in earliest.values()}

    def end(begun: float) -> float:
        left = [max(0.0, control - (begun + GENERAL - release)) for release in earliest.values()]
        work = len(sites) * (FINETUNE + SCORE) + sum(left)
        return begun + GENERAL + max(FINETUNE + SCORE, work / devices)

    sharper = min(end(moment) for moment in moments if moment >= first)
    return max(bound(tasks, devices), sharper)


class _Leap(selectors.DefaultSelector):
    """Waits for nobody: the time that a loop would sleep is over at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Nothing is ever ready but timers."""
        self.now += timeout or 0.0
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock leaps from timer to timer."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        """Virtual seconds."""
        return self._leap.now


def policy(tasks: Mapping[str, Task], devices: int, *, preempts: bool = True) -> tuple[float, int]:
    """The order of a run: hours until all is done, and how often a training was preempted."""
    chain = chains(tasks)
    outlooks = {
        name: Outlook(seconds=task.hours * 3600, critical_path=chain[name] * 3600)
        for name, task in tasks.items()
    }
    loop, preempted, needs = VirtualLoop(), 0, {"GPU": 1.0}

    async def run() -> float:
        nonlocal preempted
        segment_s = SEGMENT_S if preempts else math.inf
        machines = {"machine": {"GPU": float(devices)}}
        slots = Slots(machines=machines, outlooks=outlooks, segment_s=segment_s)
        done = {name: loop.create_future() for name in tasks}

        async def stage(name: str) -> None:
            nonlocal preempted
            task = tasks[name]
            await asyncio.gather(*(done[source] for source in task.after))
            steps, step = CHECKPOINTS if task.preemptible else 1, 0
            request = SlotRequest(task=name, needs=needs)
            await slots.acquire(request)
            while step < steps:
                await asyncio.sleep(task.hours * 3600 / steps)
                step += 1
                if step < steps and slots.should_preempt(name, step / steps):
                    preempted += 1
                    slots.release(request, done=False)
                    await slots.acquire(request)
                    await asyncio.sleep(RESUME_H * 3600)
            slots.release(request)
            done[name].set_result(None)

        await asyncio.gather(*(stage(name) for name in tasks))
        return loop.time() / 3600

    try:
        return loop.run_until_complete(run()), preempted
    finally:
        loop.close()


def first_come(tasks: Mapping[str, Task], devices: int) -> float:
    """In the order in which stages become ready, hours."""
    return _list_schedule(tasks, devices, lambda place, name: place)


def barriers(tasks: Mapping[str, Task], devices: int) -> float:
    """One kind of stage after the other, the longest of a kind first, hours."""
    total = 0.0
    for kind in sorted({task.barrier for task in tasks.values()}):
        members = {n: Task(t.hours, (), 0) for n, t in tasks.items() if t.barrier == kind}
        total += _list_schedule(members, devices, lambda _, name: -tasks[name].hours)
    return total


def _list_schedule(
    tasks: Mapping[str, Task], devices: int, urgency: Callable[[int, str], float]
) -> float:
    """A free device takes the ready stage of the least urgency value, whole."""
    missing = {name: len(task.after) for name, task in tasks.items()}
    readers: dict[str, list[str]] = defaultdict(list)
    for name, task in tasks.items():
        for source in task.after:
            readers[source].append(name)
    ready = [(urgency(place, name), name) for place, name in enumerate(tasks) if not missing[name]]
    heapq.heapify(ready)
    place, now, running = len(tasks), 0.0, []
    while ready or running:
        while ready and len(running) < devices:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + tasks[name].hours, name))
        now, name = heapq.heappop(running)
        for reader in readers[name]:
            missing[reader] -= 1
            if missing[reader] == 0:
                place += 1
                heapq.heappush(ready, (urgency(place, reader), reader))
    return now


def compare() -> None:
    """A line for each number of sites and devices: mean over draws, the worst in brackets."""
    print(f"makespan over the bound: mean (worst) of {DRAWS} draws; preemptions a training")
    names = ("policy", "no preemption", "first come", "barriers", "preempted")
    print(f"{'sites':>5} {'devices':>7} " + " ".join(f"{name:>15}" for name in names))
    every: list[float] = []
    sharper: list[float] = []
    for sites in (2, 4, 8, 16, 32, 64):
        for devices in (1, 2, 4, 8):
            rows = [_ratios(federation(sites, seed), devices) for seed in range(DRAWS)]
            *columns, preempted, over_sharper = zip(*rows, strict=True)
            cells = [f"{statistics.mean(c):.3f} ({max(c):.3f})" for c in columns]
            times = statistics.mean(preempted)
            print(
                f"{sites:>5} {devices:>7} " + " ".join(f"{c:>15}" for c in cells), f"{times:8.2f}"
            )
            every += columns[0]
            sharper += over_sharper
    print(f"policy: mean {statistics.mean(every):.3f}, worst {max(every):.3f}; over the bound that")
    print(f"knows of the general model: {statistics.mean(sharper):.3f}, worst {max(sharper):.3f}")


def _ratios(tasks: Mapping[str, Task], devices: int) -> tuple[float, ...]:
    """Makespans over the bound, preemptions a training, policy over the sharper bound."""
    hours, preempted = policy(tasks, devices)
    found = (
        hours,
        policy(tasks, devices, preempts=False)[0],
        first_come(tasks, devices),
        barriers(tasks, devices),
    )
    least, trainings = bound(tasks, devices), sum(task.preemptible for task in tasks.values())
    over_sharper = hours / sharper_bound(tasks, devices)
    return *(value / least for value in found), preempted / trainings, over_sharper


if __name__ == "__main__":
    compare()
