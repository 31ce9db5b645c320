"""`hyfree-ray simulate`: from options to a finished run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hyfree_ray.cohorts.summary import render_sites
from hyfree_ray.commands.announce import announce, print_plan
from hyfree_ray.commands.check import reading_bar
from hyfree_ray.commands.options import simulation_options
from hyfree_ray.commands.report import write_run_report
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.core.errors import ClusterError, HyfreeError
from hyfree_ray.core.failure import error_line
from hyfree_ray.core.interrupts import exit_now
from hyfree_ray.core.log import is_verbose, set_up_logging
from hyfree_ray.federation.participation import parse_rules
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.observing.background import attach_report
from hyfree_ray.observing.mlflow_database import experiment_id
from hyfree_ray.observing.progress import clock, time_by_task
from hyfree_ray.results.answer import answer_console, render_answer
from hyfree_ray.results.finished import Finished
from hyfree_ray.results.table import render_table, wide_console
from hyfree_ray.runners.child import exit_code_of
from hyfree_ray.runners.resolve import (
    SimulationOptions,
    check_options,
    find_cohort,
    make_simulation,
    reader_of,
    resolve_device,
    store_precision,
)
from hyfree_ray.runners.run import (
    PlannedRun,
    estimate_before_start,
    estimate_cost,
    execute,
    expecting,
    joined,
    open_stores,
    plan_run,
    warn_before,
)
from hyfree_ray.scheduling.calibration import TRAINING_S
from hyfree_ray.scheduling.resources import Execution, read_resources


def run_simulate(**options: Any) -> int:
    """Run the command; see `simulate` for the options. Returns the exit code."""
    try:
        return _simulate(**options)
    except ClusterError as error:
        exit_now(error_line(error), error.exit_code)
    except _FailedError as failed:
        exit_now(error_line(failed.cause), exit_code_of(failed.cause))


class _FailedError(Exception):
    """A run failed after stages were started. Its cause is one line to print."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


def _simulate(
    *,
    store: Path,
    ray: str,
    device: str,
    dry_run: bool,
    calibrate: bool,
    output: str,
    log_format: str | None,
    **given: Any,
) -> int:
    set_up_logging(log_format or output)
    if calibrate and not dry_run:
        raise HyfreeError(
            "option.conflict", "--calibrate: estimates how long a plan takes; add --dry-run"
        )
    options = simulation_options(given)
    with joined(ray):
        runtime = Runtime(store=store.absolute(), ray=ray, device=resolve_device(device, ray))
        simulation = _resolve(options, runtime, output)
        run = plan_run(simulation, runtime, execution_of(given, simulation))
        if dry_run:
            cost = estimate_cost(run, training_s=TRAINING_S if calibrate else 0.0)
        else:
            cost = estimate_before_start(run)
        run = expecting(run, cost)
        announce(run, output, details=dry_run or is_verbose())
        warn_before(run, cost)
        if dry_run:
            print_plan(run, cost, output)
            return 0
        finished = _execute_or_exit(open_stores(run))
    _print_results(finished, runtime, output)
    return 0


def execution_of(given: Mapping[str, Any], simulation: Simulation) -> Execution:
    """Take from the command's options how a simulation is executed.

    Raises:
        HyfreeError: rules or resources that are none, or of no site.
    """
    names = ("min_sites", "deadline", "next_round", "withdraw", "drop", "slow")
    rules = parse_rules(sites=list(simulation.sites), **{name: given[name] for name in names})
    return Execution(rules=rules, resources=read_resources(given["config"]))


def _resolve(options: SimulationOptions, runtime: Runtime, output: str) -> Simulation:
    """Resolve the options, and print what the sites of a data set hold."""
    precision = store_precision(runtime)
    experiment, reasons = options.experiment(runtime.device, precision)
    check_options(experiment, runtime)
    read = reader_of(runtime.store, reading_bar)
    cohort = find_cohort(options, experiment, runtime.store, read)
    if options.data is not None and output == "text":
        Console().print(render_sites(cohort))
    return make_simulation(options, cohort, experiment, reasons, precision.measured)


def _execute_or_exit(run: PlannedRun) -> Finished:
    """Run, and turn what fails on the way into an exit code."""
    try:
        return execute(run)
    except ClusterError:
        raise  # it is not the run that failed
    except Exception as error:
        raise _FailedError(error) from error


def _print_results(finished: Finished, runtime: Runtime, output: str) -> None:
    report = write_run_report([finished], runtime.store)
    if report is not None:
        attach_report(runtime.store, finished.name, finished.summary.cohort, report)
    ui = format_ui_command(runtime.store)
    if output == "json":
        written = finished.summary.to_json()
        known = {"folder": str(finished.folder), "report": str(report or ""), "mlflow_ui": ui}
        click.echo(json.dumps({**written, **known}))
        return
    if is_verbose():
        _print_details(finished)
    cohort = finished.summary.cohort
    answer_console().print(render_answer(finished.summary))
    click.echo(f"all tables: hyfree-ray results {finished.name} --store {_quoted(runtime.store)}")
    if report is not None:
        click.echo(f"report: {report}")
    click.echo(f"files: {finished.folder}")
    click.echo(f"MLflow, with the next command running: {link_to_runs(runtime.store, cohort)}")
    click.echo(ui)


def _print_details(finished: Finished) -> None:
    """Print all tables, and where the time went."""
    wide_console().print(render_table(finished.summary))
    spent = time_by_task(finished.summary.stages)
    total = sum(seconds for _, seconds in spent)
    click.echo(f"\ntime spent (all parties together: {clock(total)})")
    for task, seconds in spent:
        click.echo(f"  {task:<32} {clock(seconds):>8}  {seconds / total:4.0%}")
    click.echo()


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def link_to_runs(store: Path, cohort: str) -> str:
    """Return where MLflow's page shows a cohort's runs: its first page shows no training."""
    number = experiment_id(store / "mlflow.db", cohort)
    page = f"/{number}/runs?workflowType=machine_learning" if number is not None else ""
    return f"http://127.0.0.1:5000/#/experiments{page}"


def format_ui_command(store: Path) -> str:
    """Return the command that serves what MLflow has of a store."""
    uri = shlex.quote(f"sqlite:///{store}/mlflow.db")
    return f"mlflow ui --backend-store-uri {uri} --workers 1"
