"""A stage that does nothing for a while, with checkpoints: for `schedule.py --live`."""

from __future__ import annotations

import time
from typing import Any

from hyfree_ray.core.journal import attempts, read_metrics
from hyfree_ray.core.stage import Context, stage


@stage(version=1)
def nap(
    context: Context, *, name: str, seconds: float, steps: int, resume_s: float
) -> dict[str, Any]:
    """Sleep in so many steps, from the newest on; who goes on sleeps `resume_s` first."""
    done = len(read_metrics(context.out))
    if len(attempts(context.out)) > 1:
        time.sleep(resume_s)
    for step in range(done + 1, steps + 1):
        time.sleep(seconds / steps)
        context.progress(step, steps, {})
        context.saved(step, steps)
    return {"name": name, "attempts": len(attempts(context.out))}
