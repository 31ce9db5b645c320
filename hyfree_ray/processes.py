"""What a process has started, as /proc shows it (Linux): nothing where there is none."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def descendants(root: int) -> set[int]:
    """A process and all that it has started, directly or not."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = file.read_text().split(" (", 1)
            children.setdefault(int(rest.rsplit(") ", 1)[1].split()[1]), []).append(int(pid))
    found, left = set(), [root]
    while left:
        found.add(left[-1])
        left += children.get(left.pop(), [])
    return found


def kill_descendants() -> None:
    """Kill all that this process has started.

    Ray's own processes end after their driver by themselves, its dashboard's agent on a busy
    machine only after half a minute.
    """
    for pid in sorted(descendants(os.getpid()) - {os.getpid()}):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
