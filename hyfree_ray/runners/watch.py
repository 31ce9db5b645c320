"""Find a stage that has stopped moving by its silence, and end it, to be started again."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import time
from itertools import pairwise
from pathlib import Path

from hyfree_ray.core.journal import METRICS, last_attempt, read_metrics
from hyfree_ray.core.processes import started_at

log = logging.getLogger("hyfree_ray")

HUNG_S = 900.0
"""Silence after which a stage that was talking is taken for hung."""

LONGER = 20
"""Times its longest silence so far."""


def here(folder: Path) -> bool:
    """Return whether the newest attempt at a stage was made on this machine."""
    attempt = last_attempt(folder)
    return attempt is not None and attempt.get("host") == platform.node()


class Watch:
    """Looks at a stage now and then, and ends its process where it has fallen silent.

    Silence is measured from look to look by a clock that does not jump: what a stage writes down
    is of a clock that may.

    Args:
        folder: the stage's.
        owner: its party.
        hung_s: the shortest silence that counts, seconds.
    """

    def __init__(self, folder: Path, owner: str, hung_s: float = HUNG_S) -> None:
        self.folder = folder
        self.owner = owner
        self.hung_s = hung_s
        self._seen: tuple[float, int] | None = None
        self._since = time.monotonic()

    def end_if_hung(self) -> bool:
        """SIGKILL the process of the stage if it fell silent and is on this machine.

        Whoever started it starts it again; it goes on from its checkpoint. A stage that never
        reports is left alone: nothing tells it from one that computes.

        Returns:
            Whether it was killed.
        """
        attempt = last_attempt(self.folder)
        if attempt is None or not here(self.folder):
            return False
        written = self.folder / METRICS
        sign = (attempt["started"], written.stat().st_size if written.exists() else 0)
        if sign != self._seen:
            self._seen, self._since = sign, time.monotonic()
            return False
        curve = read_metrics(self.folder)
        times = [entry["time"] for entry in curve if entry["time"] >= attempt["started"]]
        silence = time.monotonic() - self._since
        longest = max((after - before for before, after in pairwise(times)), default=None)
        if longest is None or silence < max(self.hung_s, LONGER * longest):
            return False
        pid = int(attempt["pid"])
        if attempt.get("born") != started_at(pid):
            return False  # it has ended, and its number is another process's
        log.warning(
            f"{self.owner}: {self.folder.name} was silent for {silence:.0f} s; it is started again"
        )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True
