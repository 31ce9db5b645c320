"""How near the order of stages comes to the best there is, on a virtual clock.

    python benchmarks/schedule.py

Sites are log-normal in size; stages take what the paper's lengths take on a data-centre GPU. The
makespan is divided by max(total work / devices, critical path), which no schedule beats. Policies:
who has the longest expected chain after it goes first (what `hyfree_ray.schedule` does), first come
first served (what Ray does alone), and barriers (no site begins a kind of stage before all have
finished the kind before). `cut` is the first policy with trainings cut into thirty segments, so
that a long one can give way. Nothing is run: the figures are of the policy alone.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hyfree_ray.schedule import remaining_seconds

DRAWS = 20
SEGMENTS = 30
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


def federation(sites: int, seed: int) -> dict[str, Task]:
    """The protocol's stages for so many sites."""
    draw = random.Random(seed)
    tasks: dict[str, Task] = {}
    for site in range(sites):
        size = draw.lognormvariate(0.0, SPREAD)
        tasks[f"{site}/generator"] = Task(HOURS["generator"] * size, (), 0)
        tasks[f"{site}/local"] = Task(HOURS["local"], (), 0)
        learned = (f"{site}/generator", f"{site}/local")
        tasks[f"{site}/release"] = Task(HOURS["release"] * size, learned, 1)
        tasks[f"{site}/card"] = Task(HOURS["card"], (f"{site}/release",), 2)
        tasks[f"{site}/local2x"] = Task(HOURS["local2x"], (f"{site}/release",), 2)
    releases = tuple(f"{site}/release" for site in range(sites))
    tasks["general"] = Task(GENERAL, releases, 3)
    for site in range(sites):
        tasks[f"{site}/finetuned"] = Task(FINETUNE, ("general",), 4)
        tasks[f"{site}/score"] = Task(SCORE, (f"{site}/finetuned", f"{site}/local2x"), 5)
    return tasks


def cut(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """The same with every training in segments, one after the other."""
    found: dict[str, Task] = {}
    for name, task in tasks.items():
        count = SEGMENTS if task.hours > 2 else 1
        after = task.after
        for number in range(count):
            last = number == count - 1
            segment = name if last else f"{name}#{number}"
            found[segment] = Task(task.hours / count, after, task.barrier)
            after = (segment,)
    return found


def bound(tasks: Mapping[str, Task], devices: int) -> float:
    """What no schedule beats."""
    return max(sum(task.hours for task in tasks.values()) / devices, max(ranks(tasks).values()))


def ranks(tasks: Mapping[str, Task]) -> dict[str, float]:
    """The longest chain from each stage to the end."""
    hours = {name: task.hours for name, task in tasks.items()}
    return remaining_seconds({name: task.after for name, task in tasks.items()}, hours)


def makespan(
    tasks: Mapping[str, Task], devices: int, urgency: Callable[[str, int], float]
) -> float:
    """Run on a virtual clock: a free device takes the ready stage of the least urgency value.

    Args:
        urgency: of a stage by its name and its place in the order in which stages became ready.
    """
    open_inputs = {name: len(task.after) for name, task in tasks.items()}
    readers: dict[str, list[str]] = defaultdict(list)
    for name, task in tasks.items():
        for source in task.after:
            readers[source].append(name)
    ready: list[tuple[float, int, str]] = []
    count, now, free = 0, 0.0, devices
    for name, left in open_inputs.items():
        if left == 0:
            count += 1
            heapq.heappush(ready, (urgency(name, count), count, name))
    running: list[tuple[float, str]] = []
    while ready or running:
        while ready and free:
            _, _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + tasks[name].hours, name))
            free -= 1
        now, name = heapq.heappop(running)
        free += 1
        for reader in readers[name]:
            open_inputs[reader] -= 1
            if open_inputs[reader] == 0:
                count += 1
                heapq.heappush(ready, (urgency(reader, count), count, reader))
    return now


def critical_path(tasks: Mapping[str, Task], devices: int) -> float:
    """The longest chain first."""
    rank = ranks(tasks)
    return makespan(tasks, devices, lambda name, _: -rank[name])


def first_come(tasks: Mapping[str, Task], devices: int) -> float:
    """In the order in which stages become ready."""
    return makespan(tasks, devices, lambda _, place: place)


def barriers(tasks: Mapping[str, Task], devices: int) -> float:
    """One kind of stage after the other, the longest of a kind first."""
    total = 0.0
    for kind in sorted({task.barrier for task in tasks.values()}):
        members = {n: Task(t.hours, (), 0) for n, t in tasks.items() if t.barrier == kind}
        total += critical_path(members, devices)
    return total


def main() -> None:
    """Print a line for each number of sites and devices: mean over draws, the worst in brackets."""
    print("makespan over the bound: mean (worst) of", DRAWS, "draws")
    print(
        f"{'sites':>5} {'devices':>7} {'critical path':>15} {'cut':>15} {'first come':>15}", end=""
    )
    print(f" {'barriers':>15}")
    for sites in (2, 4, 8, 16, 32, 64):
        for devices in (1, 2, 4, 8):
            columns: dict[str, list[float]] = defaultdict(list)
            for seed in range(DRAWS):
                tasks = federation(sites, seed)
                least = bound(tasks, devices)
                columns["critical path"].append(critical_path(tasks, devices) / least)
                columns["cut"].append(critical_path(cut(tasks), devices) / least)
                columns["first come"].append(first_come(tasks, devices) / least)
                columns["barriers"].append(barriers(tasks, devices) / least)
            cells = (f"{statistics.mean(c):.3f} ({max(c):.3f})" for c in columns.values())
            print(f"{sites:>5} {devices:>7} " + " ".join(f"{cell:>15}" for cell in cells))


if __name__ == "__main__":
    main()
