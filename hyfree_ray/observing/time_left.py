"""How long a whole run still takes, by what was expected of its stages and how that went so far."""

from __future__ import annotations

import time
from collections.abc import Mapping

from hyfree_ray.core.records import StageRecord

_PRIOR = 0.1
"""Share of the expected work that counts as done at the expected pace before anything is done."""

_ENOUGH = 5
"""Stages after which the pace of a run of which nothing was expected says something."""


class TimeLeft:
    """Expects the rest of a run at the pace of what is done of it.

    Args:
        expected: seconds of each stage that is to run, by owner and key; None: not known,
            so that all stages count the same.
        stages: the stage that each of these is a call of.
        parallel: how many are expected to run at once.
    """

    def __init__(
        self,
        expected: Mapping[tuple[str, str], float | None],
        stages: Mapping[tuple[str, str], str],
        parallel: int,
    ) -> None:
        self._begun = time.time()
        self._stages = stages
        self._known = None not in expected.values()
        self._parallel = max(1, parallel)
        self._work = {task: 1.0 if known is None else known for task, known in expected.items()}
        self._all = sum(self._work.values())
        self._done = 0.0

    def finished(self, owner: str, record: StageRecord) -> bool:
        """Take in that a stage is done, and return whether it ran now.

        Where a site withholds, what follows has other keys than were expected: it takes the place
        of a call of the same stage.
        """
        task = (owner, record.key)
        if task not in self._work:
            if record.ended < self._begun:
                return False  # it was looked up
            alike = (one for one in self._work if self._is_call(one, owner, record.stage))
            task = next(alike, task)
        self._done += self._work.pop(task, 0.0)
        return True

    def _is_call(self, task: tuple[str, str], owner: str, stage: str) -> bool:
        return task[0] == owner and self._stages[task] == stage

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
