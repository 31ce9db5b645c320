"""Trials of a study as trials of Ray Tune: as many at a time as the cluster has devices for."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import tune

from hyfree_ray.core.store import remove_tree
from hyfree_ray.studies.trials import Place, Trial, TrialError

_HEAD = {"node:__internal_head__": 0.001}
"""A trial has to hold something: a trace of the head node, no CPU that its stages need."""


class _Ended(tune.Callback):
    """Says which trials have ended well."""

    def __init__(self, told: Callable[[Trial], None]) -> None:
        self._told = told

    def on_trial_complete(self, *_: Any, **told: Any) -> None:
        trial = told["trial"]
        if "run" in trial.last_result:
            self._told(trial.config["trial"])


def run_trials(
    trials: Sequence[Trial],
    place: Place,
    parallel: int | None = None,
    told: Callable[[Trial], None] = lambda _: None,
) -> None:
    """Run trials on the cluster that this process is connected to.

    A trial holds nothing itself: it is a driver, whose stages take CPUs and GPUs from the cluster.
    Tune's own files are thrown away; what is done is remembered by the place and the store.

    Args:
        trials: what to run.
        place: where they are remembered.
        parallel: trials at a time; None: one a GPU, or one a CPU where there is none.
        told: called with each trial that has ended well, as it ends.

    Raises:
        TrialError: a trial failed; the others were run to their end.
    """
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would go on after the first Ctrl-C
    # It says how long its own steps take, which on busy cores is long.
    logging.getLogger("ray.tune.utils.util").setLevel(logging.ERROR)
    has = ray.cluster_resources()
    devices = int(has.get("GPU", 0)) or int(has.get("CPU", 1))
    folder = place.folder / "tune"
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_run, place=place, address=_address()),
            tune.PlacementGroupFactory([_HEAD]),
        ),
        param_space={"trial": tune.grid_search(list(trials))},
        tune_config=tune.TuneConfig(max_concurrent_trials=parallel or max(1, devices)),
        run_config=tune.RunConfig(
            name="trials", storage_path=str(folder), verbose=0, callbacks=[_Ended(told)]
        ),
    )
    place.logs.mkdir(parents=True, exist_ok=True)
    try:
        # What Tune says of itself is neither a result nor how far the study is.
        with (place.logs / "tune.txt").open("a") as log, contextlib.redirect_stdout(log):
            results = tuner.fit()
    finally:
        remove_tree(folder)
    failed = [found for result in results if (found := (result.metrics or {}).get("failed"))]
    if failed:
        raise TrialError(failed[0]["code"], failed[0]["message"])
    if results.errors:
        raise results.errors[0]


def _run(config: dict[str, Any], place: Place, address: str) -> None:
    trial: Trial = config["trial"]
    try:
        tune.report({"run": place.run(trial, address)})
    except TrialError as error:
        tune.report({"failed": {"code": error.code, "message": error.message}})


def _address() -> str:
    """Where other processes reach the cluster."""
    return str(ray.get_runtime_context().gcs_address)
