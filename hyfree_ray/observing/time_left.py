"""How long a whole run still takes, by what was expected of its stages and how that went so far."""

from __future__ import annotations

from collections.abc import Mapping

_PRIOR = 0.1
"""Share of the expected work that counts as done at the expected pace before anything is done."""

_ENOUGH = 5
"""Stages after which the pace of a run of which nothing was expected says something."""


class TimeLeft:
    """Expects the rest of a run at the pace of what is done of it.

    Args:
        expected: seconds of each stage that is to run, by owner and key; None: not known,
            so that all stages count the same.
        parallel: how many are expected to run at once.
    """

    def __init__(self, expected: Mapping[tuple[str, str], float | None], parallel: int) -> None:
        self._known = None not in expected.values()
        self._parallel = max(1, parallel)
        self._work = {task: 1.0 if known is None else known for task, known in expected.items()}
        self._all = sum(self._work.values())
        self._done = 0.0

    def finished(self, task: tuple[str, str]) -> bool:
        """Take in that a stage is done, and return whether it was to run."""
        known = task in self._work
        self._done += self._work.pop(task, 0.0)
        return known

    def seconds(self, elapsed: float) -> float | None:
        """Return the seconds that are left; None while nobody can know.

        Args:
            elapsed: seconds since the run began.
        """
        left = self._all - self._done
        if not self._known:
            return elapsed * left / self._done if self._done >= _ENOUGH else None
        prior = _PRIOR * self._all
        pace = (prior / self._parallel + elapsed) / max(1e-9, prior + self._done)
        return left * pace
