"""`hyfree-ray simulate --folds`: one simulation a fold, one after the other, and their summary."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from hyfree_ray.cohorts.checks import FOLDS
from hyfree_ray.commands.options import parse_numbers, refuse_overrides, simulation_options
from hyfree_ray.commands.report import write_run_report
from hyfree_ray.commands.simulate import execution_of
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.failure import failure_line
from hyfree_ray.core.log import set_up_logging
from hyfree_ray.results.finished import read_finished
from hyfree_ray.results.pooled import pool_runs
from hyfree_ray.results.pooled_table import render_pooled
from hyfree_ray.results.table import wide_console
from hyfree_ray.runners.child import ChildError, call_in_child
from hyfree_ray.runners.resolve import reader_of, resolve_device, resolve_simulation
from hyfree_ray.runners.run import joined
from hyfree_ray.studies import trials


def run_folds(folds: str, options: Mapping[str, Any]) -> int:
    """Run the paper's protocol: every fold is the test fold once. Returns the exit code.

    Args:
        folds: `0-4` or `0,2`.
        options: those of `simulate`.
    """
    numbers = parse_numbers(folds, "--folds", least=0, most=FOLDS - 1)
    if options["fold"] is not None or options["dry_run"] or options["calibrate"]:
        raise HyfreeError("option.conflict", "--folds: leave --fold, --dry-run and --calibrate out")
    asked, ray = simulation_options(options), options["ray"]
    refuse_overrides(asked.overrides, ("fold",), "--folds")
    log_format = options["log_format"] or options["output"]
    set_up_logging(log_format)
    with joined(ray):
        device = resolve_device(options["device"], ray)
        runtime = Runtime(store=options["store"].absolute(), ray=ray, device=device)
        read = functools.cache(reader_of(runtime.store))
        simulations = [
            resolve_simulation(replace(asked, fold=fold), runtime, read) for fold in numbers
        ]
    runs = []
    for simulation in simulations:
        fold, execution = simulation.experiment.fold, execution_of(options, simulation)
        click.echo(f"fold {fold}", err=True)
        work = functools.partial(trials.run_trial, simulation, runtime, execution, log_format)
        try:
            run = call_in_child(work, title=f"fold {fold} in {runtime.store}")
        except ChildError as error:
            if error.message:  # else it has said why
                said, code = f"fold {fold}: {error}", error.exit_code
                click.echo(failure_line("study.trial-failed", said, exit_code=code), err=True)
            return error.exit_code
        runs.append(read_finished(runtime.store / "runs" / run))
    pooled = pool_runs(runs)
    if options["output"] == "json":
        click.echo(json.dumps(pooled.to_json()))
        return 0
    wide_console().print(render_pooled(pooled))
    if (report := write_run_report(runs, runtime.store)) is not None:
        click.echo(f"report: {report}")
    click.echo(f"each fold: hyfree-ray results {' '.join(run.name for run in runs)}")
    return 0
