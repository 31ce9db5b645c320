"""A stage that has stopped moving: found by its silence, ended, and started again from there."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import time
from itertools import pairwise
from pathlib import Path

from hyfree_ray.stage import last_attempt, read_metrics

log = logging.getLogger("hyfree_ray")

HUNG_S = 900.0
"""Silence after which a stage that was talking is taken for hung."""

LONGER = 20
"""Times its longest silence so far."""


def here(folder: Path) -> bool:
    """Whether the newest attempt at a stage was made on this machine."""
    attempt = last_attempt(folder)
    return attempt is not None and attempt.get("host") == platform.node()


def end_if_hung(folder: Path, owner: str, *, hung_s: float = HUNG_S) -> bool:
    """SIGKILL the process of a stage that fell silent, if it is on this machine.

    Whoever started it starts it again; it goes on from its checkpoint. A stage that never reports
    is left alone: nothing tells it from one that computes.

    Returns:
        Whether it was killed.
    """
    attempt = last_attempt(folder)
    if attempt is None or attempt.get("host") != platform.node():
        return False
    times = [entry["time"] for entry in read_metrics(folder) if entry["time"] >= attempt["started"]]
    if len(times) < 2:
        return False
    longest = max(after - before for before, after in pairwise(times))
    silence = time.time() - times[-1]
    if silence < max(hung_s, LONGER * longest):
        return False
    log.warning(f"{owner}: {folder.name} was silent for {silence:.0f} s; it is started again")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(attempt["pid"]), signal.SIGKILL)
    return True
