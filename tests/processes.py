"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import contextlib
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
