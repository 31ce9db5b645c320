"""`hyfree-ray scale` and `hyfree-ray study`: their trials run, and what they found is printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from hyfree_ray.cohorts.checks import FOLDS
from hyfree_ray.cohorts.phantom_record import DEFAULT_PHANTOM, PHANTOMS
from hyfree_ray.commands.options import parse_numbers, refuse_overrides, simulation_options
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.failure import failure_line
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.log import set_up_logging
from hyfree_ray.core.store_root import open_root
from hyfree_ray.results.summary import TESTED, TESTED_LABELS
from hyfree_ray.results.table import STYLE, wide_console
from hyfree_ray.runners.child import ChildError
from hyfree_ray.runners.resolve import SimulationOptions, resolve_device
from hyfree_ray.runners.run import PlannedRun, calibrate_run, joined, plan_run
from hyfree_ray.scheduling.calibration import TRAINING_S
from hyfree_ray.scheduling.estimates import TRAININGS, Cost, add_up, estimate
from hyfree_ray.studies.curves import Group
from hyfree_ray.studies.designs import scale_trials
from hyfree_ray.studies.grids import Changes, Reading, grid_trials, read_study
from hyfree_ray.studies.study import finish_study, run_trials
from hyfree_ray.studies.trials import StudyFolder, Trial


@dataclass(frozen=True, kw_only=True)
class How:
    """How a study is run and shown."""

    parallel: int | None
    """Simulations at a time; None: one a device."""
    dry_run: bool
    calibrate: bool
    """Whether a dry run times the trainings on this machine."""
    output: str
    """"text" or "json"."""


def run_scale(
    *,
    sites: str,
    repeats: int,
    folds: str,
    seeds: int,
    store: Path,
    ray: str,
    device: str,
    how: How,
    **given: Any,
) -> int:
    """General models from random subsets of the sites, fine-tuned at all. Returns the exit code."""
    set_up_logging(how.output)
    options = simulation_options(given)
    refuse_overrides(options.overrides, ("fold", "seed"), "--folds and --seeds")
    phantom = PHANTOMS[options.phantom or DEFAULT_PHANTOM]
    most = phantom.max_sites if options.data is None else 10**6
    sizes = parse_numbers(sites, "--sites", least=2, most=most)
    numbers = parse_numbers(folds, "--folds", least=0, most=FOLDS - 1)
    with joined(ray):
        runtime = Runtime(store=store.absolute(), ray=ray, device=resolve_device(device, ray))
        trials = scale_trials(options, runtime, sizes, repeats=repeats, folds=numbers, seeds=seeds)
        return _run(trials, _scale_name(options, trials), runtime, how)


def _scale_name(options: SimulationOptions, trials: Sequence[Trial]) -> str:
    """Return the same name for the same command with more sizes, draws, folds or seeds."""
    asked = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in vars(options).items()
    }
    return f"scale-{digest_of([sorted(trials[0].simulation.sites), asked])[:8]}"


def run_study(named: str, changes: Changes, *, store: Path, ray: str, how: How) -> int:
    """All combinations of a study's grid. Returns the exit code."""
    set_up_logging(how.output)
    study = read_study(named, changes)
    with joined(ray):
        runtime = Runtime(store=store.absolute(), ray=ray, device=resolve_device("auto", ray))
        return _run(grid_trials(study, runtime), study.name, runtime, how, study.reading)


def _run(
    trials: Sequence[Trial],
    name: str,
    runtime: Runtime,
    how: How,
    reading: Reading | None = None,
) -> int:
    if how.calibrate and not how.dry_run:
        raise HyfreeError(
            "option.conflict", "--calibrate: estimates how long a plan takes; add --dry-run"
        )
    folder = StudyFolder(folder=runtime.store / "studies" / name, runtime=runtime)
    missing = [trial for trial in trials if folder.finished(trial) is None]
    if how.dry_run:
        _print_plan(name, trials, missing, runtime, how)
        return 0
    open_root(runtime.store)
    click.echo(f"study {name}: {len(trials)} simulations, {len(missing)} to run", err=True)
    if missing:
        click.echo(f"  their logs: {folder.logs}", err=True)
    ended = []

    def report(trial: str) -> None:
        ended.append(trial)
        click.echo(f"  {trial}: done ({len(ended)} of {len(missing)})", err=True)

    try:
        if missing:
            run_trials(missing, folder, parallel=how.parallel, report=report)
    except ChildError as error:
        said = f"{error}; run the same command again to resume"
        line = failure_line("study.trial-failed", said, exit_code=error.exit_code)
        click.echo(line, err=True)
        return error.exit_code
    found = finish_study(trials, folder, reading)
    if how.output == "json":
        click.echo(json.dumps(found.to_json(), default=list))
        return 0
    if found.findings is None:
        wide_console().print(_table(found.groups))
    else:
        click.echo(found.findings.page)
    for names in found.same_scores:
        click.echo(f"identical scores: {'; '.join(names)}: what they differ in has no effect")
    click.echo(f"files: {folder.folder}")
    return 0


def _estimate(runs: Sequence[PlannedRun], runtime: Runtime, *, calibrate: bool) -> Cost | None:
    """Estimate what is left of a study's runs, each stage once; None where there is no run.

    Networks of a kind take the same time: a calibration is one for each generator and segmenter.
    """
    rates: dict[tuple[str, str], dict[str, float]] = {}
    counted: set[tuple[str, str]] = set()
    costs = []
    for run in runs:
        experiment = run.simulation.experiment
        kind = experiment.generator.name, experiment.segmenter
        if calibrate and kind not in rates:
            rates[kind] = calibrate_run(run, TRAINING_S)
        steps = [step for step in run.planned.steps if (step.owner, step.key) not in counted]
        counted |= {(step.owner, step.key) for step in steps}
        store, device = runtime.store, runtime.device
        costs.append(estimate(run.simulation, steps, store, device, rates.get(kind)))
    return add_up(costs) if costs else None


def _print_plan(
    name: str, trials: Sequence[Trial], missing: Sequence[Trial], runtime: Runtime, how: How
) -> None:
    """Print the simulations of a study, and what is left of them; what several need counts once."""
    planned = {one.name: plan_run(one.simulation, runtime, one.execution) for one in missing}
    steps = {(s.owner, s.key): s for run in planned.values() for s in run.planned.steps}
    left = [step for step in steps.values() if not step.done]
    trainings = sum(step.stage in TRAININGS for step in left)
    cost = _estimate([*planned.values()], runtime, calibrate=how.calibrate)
    rows = [
        (one, [] if one.name not in planned else planned[one.name].planned.missing)
        for one in trials
    ]
    if how.output == "json":
        found = [{"trial": t.name, "sites": t.sites, "stages_left": len(m)} for t, m in rows]
        known = cost.device_hours if cost is not None and cost.is_known else None
        expected = {"stages_left": len(left), "trainings_left": trainings, "device_hours": known}
        click.echo(json.dumps({"study": name, "trials": found, "expected": expected}, indent=1))
        return
    click.echo(f"study {name}: {len(trials)} simulations, {len(missing)} to run")
    for trial, stages in rows:
        state = f"{len(stages)} stages to run" if trial.name in planned else "done"
        click.echo(f"  {trial.name:<32} {trial.sites} sites   {state}")
    if cost is not None:
        click.echo(
            f"{len(left)} stages are left, {trainings} of them trainings: what several simulations "
            "need runs once"
        )
        click.echo(cost.describe_time())
        click.echo(f"expected size: {cost.describe_disk()}")


def _table(groups: Sequence[Group]) -> Table:
    table = Table(
        title=Text("Differences of Dice over all sites"),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("study", "runs", "compared", "tested on", "difference", "in words"):
        table.add_column(name, no_wrap=name == "difference")
    for group in groups:
        table.add_section()
        first = True
        for one in (c for tested in TESTED for c in group.contrasts if c.tested == tested):
            table.add_row(
                Text(group.name if first else ""),
                str(group.runs) if first else "",
                Text(f"{one.first} minus {one.second}"),
                TESTED_LABELS[one.tested],
                one.format_interval(),
                Text(
                    "; ".join(filter(None, (one.describe(), one.describe_worst()))),
                    style=STYLE[one.verdict],
                ),
            )
            first = False
    return table
