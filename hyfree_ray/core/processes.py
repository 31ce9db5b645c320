"""See and set what a process has started and holds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import psutil

KEPT_BYTES = 512 << 20
"""More than a training step of the `small` budget frees."""


def descendants(root: int, *, spared: Collection[int] = ()) -> set[int]:
    """Return a process and all that it has started, directly or not.

    Args:
        spared: left out, with what they have started.
    """
    children: dict[int | None, list[int]] = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process.pid)
    found, left = set(), [root]
    while left:
        found.add(left[-1])
        left += [child for child in children[left.pop()] if child not in spared]
    return found


def kill_descendants(spared: Collection[int]) -> None:
    """Kill all that this process has started, without `spared` and what those have.

    Ray's own processes end after their driver by themselves, its dashboard's agent on a busy
    machine only after half a minute.
    """
    for pid in sorted(descendants(os.getpid(), spared=spared) - {os.getpid()}):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def started_at(pid: int) -> float | None:
    """Return when a process began, in seconds since the machine did; None: it is no more.

    With its number a process is known by this, whatever the clock is set to meanwhile.
    """
    machine = psutil.boot_time()  # by the same clock, so first
    with contextlib.suppress(psutil.NoSuchProcess):
        return round(psutil.Process(pid).create_time() - machine, 2)
    return None


def keep_freed_memory() -> None:
    """Let glibc keep memory that is freed for what is allocated next, up to `KEPT_BYTES`.

    A training frees and allocates the same megabytes at each step; where each is given back, the
    kernel maps and clears them anew, which takes 10 to 20 % of a step on a CPU.
    """
    trim_threshold, mmap_threshold, largest = -1, -3, 32 << 20  # of malloc.h; the most there is
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(mmap_threshold, largest)
        allocator.mallopt(trim_threshold, KEPT_BYTES)


def reset_peak_memory() -> None:
    """Let the process's peaks start anew: processes are used for one stage after the other."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib() -> float:
    """Return the most memory that this process has held since `reset_peak_memory`, MiB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
