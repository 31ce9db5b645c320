"""Processes that are forked from one which has imported what a run imports.

They are processes of their own in all else: with environment, folder, signals, output and exit
code. What is shown by a process that imports for itself starts one of `sys.executable`.
"""

from __future__ import annotations

import functools
import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = (
    "tests.toys",
    "torch",
    "scipy.stats",
    "mlflow.store.tracking.sqlalchemy_store",
    "hyfree_ray.cli",
    "hyfree_ray.commands.simulate",
    "hyfree_ray.core.checkpoints",
    "hyfree_ray.observing.mlflow",
    "hyfree_ray.runners.local",
)
"""With what these import in turn."""


@functools.cache
def forking() -> ForkServerContext:
    """Return the context whose processes have imported all that."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context
