"""What the order of stages and the driver come to on Ray, measured.

    python benchmarks/schedule_ray.py order 4 4   # 4 sites on 4 devices, a second for an hour
    python benchmarks/schedule_ray.py driver 64   # 64 sites: the driver's time, everybody's memory

`order` runs the stages of `schedule.py` through a run's own code, asleep. `driver` runs the command
line with toys for stages (`tests/toys.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import naps
from schedule import CHECKPOINTS, RESUME_H, Task, bound, chains, federation, policy

from hyfree_ray.runners.ray import RayRunner
from hyfree_ray.runners.ray_arguments import pack
from hyfree_ray.runners.ray_cluster import connect, disconnect
from hyfree_ray.runners.ray_scheduler import SlotClient, start_scheduler
from hyfree_ray.scheduling.history import Outlook, task_id
from hyfree_ray.scheduling.queue import SEGMENT_S

ROOT = Path(__file__).parents[1]

HOUR_S = 1.0

LOOK_S = 5.0
"""How often the processes of a measured run are looked at."""

TORCH = "processes of parties that imported torch"


def live(sites: int, devices: int) -> None:
    """The same stages on Ray, asleep for a second instead of an hour, through a run's own code."""
    folders = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    tasks = federation(sites, 0)
    connect("local", cpus=devices)
    try:
        for preempts in (True, False):
            hours, again = asyncio.run(_nap_through(tasks, preempts=preempts))
            ratio = hours / bound(tasks, devices)
            name = "policy" if preempts else "never preempts"
            print(
                f"{sites} sites on {devices} devices, {name}: {ratio:.3f} times the bound; "
                f"trainings were preempted {again} times"
            )
        print(f"on the virtual clock: {policy(tasks, devices)[0] / bound(tasks, devices):.3f}")
    finally:
        disconnect()


async def _nap_through(tasks: Mapping[str, Task], *, preempts: bool) -> tuple[float, int]:
    """Hours (seconds, really) that the tasks took, and how often one was preempted."""
    calls = {
        name: naps.nap.call(
            name=name,
            seconds=task.hours * HOUR_S,
            steps=CHECKPOINTS if task.preemptible else 1,
            resume_s=RESUME_H * HOUR_S,
        )
        for name, task in tasks.items()
    }
    chain = chains(tasks)
    outlooks = {
        task_id(name.split("/")[0], calls[name].key): Outlook(
            seconds=task.hours * HOUR_S, critical_path=chain[name] * HOUR_S
        )
        for name, task in tasks.items()
    }
    segment_s = SEGMENT_S / 3600 * HOUR_S if preempts else math.inf
    runner = RayRunner("cpu", {}, SlotClient(scheduler=start_scheduler(pack(outlooks), segment_s)))
    warm = naps.nap.call(name="warm", seconds=0.0, steps=1, resume_s=0.0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        await runner.run(naps.nap, warm, root / "warm", "warm")  # a worker has imported all
        begun = time.monotonic()
        done = {name: asyncio.get_running_loop().create_future() for name in tasks}

        async def stage(name: str) -> None:
            await asyncio.gather(*(done[source] for source in tasks[name].after))
            place = root / name.replace("/", "-")
            await runner.run(naps.nap, calls[name], place, name.split("/")[0])
            done[name].set_result(None)

        await asyncio.gather(*(stage(name) for name in tasks))
        hours = (time.monotonic() - begun) / HOUR_S
        files = root.glob("*/attempts.jsonl")
        return hours, sum(len(file.read_text().splitlines()) - 1 for file in files)


def measure(sites: int, seconds: float) -> None:
    """Run the command line with toys for stages on Ray, and look at its processes meanwhile.

    It is ended after so many seconds if it is not over before: every site scores the models of all
    others, which is the square of their number.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        command = [sys.executable, "-m", "tests.toys", "simulate", "--budget", "smoke"]
        options = ["--sites", str(sites), "--settings", "", "--device", "cpu", "--seed", "0"]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        begun = time.monotonic()
        process = subprocess.Popen(
            [*command, *options, "--store", str(store)],
            env={**os.environ, "PYTHONPATH": path, "TOY_STEP_S": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        most, with_torch, seen = Counter[str](), 0, []
        while process.poll() is None and time.monotonic() - begun < seconds:
            time.sleep(LOOK_S)
            stages = len(list(store.glob("**/stages/*/record.json")))
            with contextlib.suppress(OSError):
                seen.append((time.monotonic() - begun, _cpu_seconds(process.pid), stages))
            found = _memory(process.pid)
            with_torch = max(with_torch, found.pop(TORCH, 0))
            most = max(most, found, key=lambda kinds: sum(kinds.values()))
        _tell(sites, seen, most, with_torch)
        process.terminate()
        process.wait()


def _tell(
    sites: int, seen: Sequence[tuple[float, float, int]], most: Counter[str], with_torch: int
) -> None:
    """Print what was seen: seconds, CPU seconds of the driver and finished stages, time by time."""
    started = [one for one in seen if one[2]]  # before, processes start
    if not started or started[0][2] == started[-1][2]:
        raise SystemExit("too few stages have ended: give it more --seconds")
    first = started[0]
    running_s, driver_s, stages = (
        last - before for last, before in zip(started[-1], first, strict=True)
    )
    print(f"{sites} sites on {os.cpu_count()} cores; after {first[0]:.0f} s stages began to end")
    print(f"then {stages:.0f} stages in {running_s:.0f} s: {1000 * running_s / stages:.0f} ms each")
    print(
        f"driver: {first[1]:.1f} s to start, then {1000 * driver_s / stages:.1f} ms a stage (CPU)"
    )
    print(f"memory at its most: {sum(most.values()) / 2**30:.2f} GiB, of these in GiB:")
    for kind, amount in most.most_common():
        print(f"  {kind:<40} {amount / 2**30:6.2f}")
    print(f"parties' processes with torch in them: {with_torch}", flush=True)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, its children's not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(driver: int) -> Counter[str]:
    """Bytes (each page shared out among those that map it) by kind of process below the driver."""
    parents, names = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = file.read_text().split(" (", 1)
            names[int(pid)], fields = rest.rsplit(") ", 1)
            parents[int(pid)] = int(fields.split()[1])
    found: Counter[str] = Counter()
    for pid in parents:
        above = pid
        while above not in (driver, 0):
            above = parents.get(above, 0)
        if above != driver:
            continue
        with contextlib.suppress(OSError):
            kind = "driver" if pid == driver else _kind(pid, names[pid])
            pss = re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            found[kind] += int(pss[1]) * 1024 if pss else 0
            if kind == "parties" and "libtorch" in Path(f"/proc/{pid}/maps").read_text():
                found[TORCH] += 1
    return found


def _kind(pid: int, name: str) -> str:
    title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    if title.startswith("ray::") and "Actor" in title:
        return "parties"
    return "workers" if title.startswith("ray::") else f"ray: {name}"


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    order = kinds.add_parser("order")
    order.add_argument("sites", type=int)
    order.add_argument("devices", type=int)
    driver = kinds.add_parser("driver")
    driver.add_argument("sites", type=int)
    driver.add_argument("--seconds", type=float, default=3600.0, help="measure for so long")
    given = parser.parse_args()
    if given.kind == "order":
        live(given.sites, given.devices)
    else:
        measure(given.sites, given.seconds)


if __name__ == "__main__":
    main()
