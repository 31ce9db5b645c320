"""Simulations as trials of Ray Tune: as many at a time as the cluster has devices for."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from hyfree_ray.core.files import remove_tree
from hyfree_ray.runners.child import ChildError

_HEAD = {"node:__internal_head__": 0.001}
"""A trial has to hold something: a trace of the head node, no CPU that its stages need."""

RunNamed = Callable[[str, str], object]
"""Runs the trial of a name on the cluster at an address, or raises `ChildError`."""


class _Ended(tune.Callback):
    """Reports trials that have succeeded."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report

    def on_trial_complete(self, *_: Any, **info: Any) -> None:
        trial = info["trial"]
        if trial.last_result.get("done_well"):
            self._report(trial.config["name"])


def run_on_tune(
    names: Sequence[str],
    run: RunNamed,
    *,
    scratch: Path,
    log_file: Path,
    parallel: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Run trials on the cluster that this process is connected to.

    A trial holds nothing itself: it starts a driver, whose stages take CPUs and GPUs from the
    cluster. Tune's own files are thrown away.

    Args:
        names: of the trials.
        run: is handed to the cluster by value.
        scratch: a folder for Tune, removed again.
        log_file: for what Tune prints.
        parallel: trials at a time; None: one a GPU, or one a CPU where there is none.
        report: called with the name of each trial that has ended well, as it ends.

    Raises:
        ChildError: a trial failed; the others were run to their end.
    """
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would go on after the first Ctrl-C
    # It says how long its own steps take, which on busy cores is long.
    logging.getLogger("ray.tune.utils.util").setLevel(logging.ERROR)
    has = ray.cluster_resources()
    devices = int(has.get("GPU", 0)) or int(has.get("CPU", 1))
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_run, run=run, address=_address()),
            tune.PlacementGroupFactory([_HEAD]),
        ),
        param_space={"name": tune.grid_search(list(names))},
        tune_config=tune.TuneConfig(max_concurrent_trials=parallel or max(1, devices)),
        run_config=tune.RunConfig(
            name="trials", storage_path=str(scratch), verbose=0, callbacks=[_Ended(report)]
        ),
    )
    log_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        # What Tune says of itself is neither a result nor how far the study is.
        with log_file.open("a") as log, contextlib.redirect_stdout(log):
            results = tuner.fit()
    finally:
        remove_tree(scratch)
    failed = [found for result in results if (found := (result.metrics or {}).get("failed"))]
    if failed:
        raise ChildError(failed[0]["exit_code"], failed[0]["message"])
    if results.errors:
        raise results.errors[0]


def _run(config: dict[str, Any], run: RunNamed, address: str) -> None:
    try:
        run(config["name"], address)
    except ChildError as error:
        tune.report({"failed": {"exit_code": error.exit_code, "message": error.message}})
    else:
        tune.report({"done_well": True})


def _address() -> str:
    """Return the address at which other processes reach the cluster."""
    return str(ray.get_runtime_context().gcs_address)
