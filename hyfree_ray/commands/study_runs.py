"""Studies run: trials on Ray Tune, and what they leave together."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from hyfree_ray.cohorts.checks import FOLDS
from hyfree_ray.cohorts.cohort import Cohort, read_cohort
from hyfree_ray.cohorts.partitions import COLUMN, NATURAL, partition
from hyfree_ray.cohorts.phantom_sites import MAX_SITES
from hyfree_ray.config.experiment import check_embedder
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.failure import failure_line
from hyfree_ray.core.files import replacing
from hyfree_ray.core.log import set_up_logging
from hyfree_ray.core.store import digest_cache, digest_of, open_root, write_json
from hyfree_ray.results.finished import CURVE_FILE, Finished, read_finished
from hyfree_ray.results.summary import IN_WORDS, TESTED
from hyfree_ray.results.table import STYLE, wide_console
from hyfree_ray.studies.designs import (
    Group,
    curve_points,
    grid_trials,
    grouped,
    phases,
    same_scores,
    scale_trials,
    write_scaling,
)
from hyfree_ray.studies.trials import (
    Place,
    Trial,
    TrialError,
    by_name,
    experiment_of,
    parse_numbers,
)


def run_scale(
    *,
    sites: str,
    repeats: int,
    folds: str,
    seeds: int,
    data: Path | None,
    how: str,
    passed: Sequence[str],
    store: Path,
    ray: str,
    parallel: int | None,
    output: str,
) -> int:
    """General models from random subsets of the sites, fine-tuned at all. Returns the exit code."""
    set_up_logging(output)
    sizes = parse_numbers(sites, "--sites", least=2, most=MAX_SITES if data is None else 10**6)
    names, options = _sites(max(sizes), data, how, store)
    trials = scale_trials(
        names,
        sizes,
        (*options, *passed),
        repeats=repeats,
        folds=parse_numbers(folds, "--folds", least=0, most=FOLDS - 1),
        seeds=seeds,
    )
    name = f"scale-{digest_of([sorted(names), list(options), list(passed)])[:8]}"
    return _run(
        trials,
        Place(folder=store.absolute() / "studies" / name, store=store.absolute()),
        ray=ray,
        parallel=parallel,
        output=output,
    )


def run_study(file: Path, *, store: Path, ray: str, parallel: int | None, output: str) -> int:
    """All combinations of a file's grid. Returns the exit code."""
    set_up_logging(output)
    folder = store.absolute() / "studies" / file.stem
    place = Place(folder=folder, store=store.absolute())
    trials = _of_data(grid_trials(file), store)
    return _run(trials, place, ray=ray, parallel=parallel, output=output)


def _of_data(trials: Sequence[Trial], store: Path) -> list[Trial]:
    """Trials with as many sites as their data have, before there is a store.

    Raises:
        HyfreeError: no simulation could be made of them; what the first such would say.
    """
    cohorts: dict[tuple[str, bool], Cohort] = {}
    found = []
    for trial in trials:
        options = by_name(trial.options)
        data, how = options.get("--data"), options.get("--partition", NATURAL)
        if data is None:
            _check_phantom(how)
            if not 1 <= trial.sites <= MAX_SITES:
                raise HyfreeError(
                    "option.out-of-range",
                    f"sites: {trial.sites}: the phantom has 1 to {MAX_SITES} sites",
                )
            found.append(trial)
            continue
        read = (data, how == NATURAL)
        if read not in cohorts:
            cohorts[read] = read_cohort(
                Path(data), digest_cache=digest_cache(store), own_sites=how == NATURAL
            )
        sites = int(options["--sites"]) if "--sites" in options else None
        parts = partition(cohorts[read], how, sites=sites, seed=0)
        found.append(replace(trial, sites=len(parts.sites)))
    return found


def _check_phantom(how: str) -> None:
    if how != NATURAL:
        raise HyfreeError(
            "option.conflict", f"--partition {how}: phantom sites are drawn apart; give --data"
        )


def _sites(
    count: int, data: Path | None, how: str, store: Path
) -> tuple[list[str], tuple[str, ...]]:
    """The sites' names, and the options that make a simulation of them."""
    if data is None:
        _check_phantom(how)
        return [f"site-{k}" for k in range(1, count + 1)], ("--sites", str(count))
    named = how == NATURAL or how.startswith(COLUMN)
    cohort = read_cohort(data, digest_cache=digest_cache(store), own_sites=how == NATURAL)
    cohort = partition(cohort, how, sites=None if named else count, seed=0)
    number = () if named else ("--sites", str(count))
    return list(cohort.sites), ("--data", str(data), "--partition", how, *number)


def _run(
    trials: Sequence[Trial], place: Place, *, ray: str, parallel: int | None, output: str
) -> int:
    missing = [trial for trial in trials if place.finished(trial) is None]
    for trial in missing:
        check_embedder(experiment_of(trial.options, "cpu"))
    open_root(place.store)
    click.echo(
        f"study {place.folder.name}: {len(trials)} simulations, {len(missing)} to run", err=True
    )
    if missing:
        click.echo(f"  each says in {place.logs} how far it is", err=True)
    ended = []

    def told(trial: Trial) -> None:
        ended.append(trial)
        click.echo(f"  {trial.name}: done ({len(ended)} of {len(missing)})", err=True)

    try:
        for phase in phases(missing) if missing else ():
            _run_phase(phase, place, ray, parallel, told)
    except TrialError as error:
        said = f"{error}; to go on, give the same command again"
        click.echo(failure_line("study.trial-failed", said, exit_code=error.code), err=True)
        return error.code
    runs = {
        trial.name: read_finished(place.store / "runs" / place.run_of(trial)) for trial in trials
    }
    _finish(trials, runs, place, output)
    return 0


def _run_phase(
    trials: Sequence[Trial],
    place: Place,
    ray: str,
    parallel: int | None,
    told: Callable[[Trial], None],
) -> None:
    if not trials:
        return
    if ray == "off":
        for trial in trials:
            place.run(trial, "off")
            told(trial)
        return
    from hyfree_ray.runners.ray_cluster import connect, disconnect
    from hyfree_ray.runners.ray_tune import run_trials

    connect(ray)
    with contextlib.ExitStack() as stack:
        stack.callback(disconnect)
        run_trials(trials, place, parallel, told)


def _finish(
    trials: Sequence[Trial], runs: Mapping[str, Finished], place: Place, output: str
) -> None:
    """Write what a study leaves, and print its curve."""
    groups = grouped(trials, runs)
    write_scaling(place.folder / "scaling.csv", trials, runs)
    _track(runs, groups, place)
    points = curve_points(groups)
    write_json(place.folder / CURVE_FILE, points)
    for ending in ("svg", "png"):  # of a grid that the file held before
        (place.folder / f"scaling.{ending}").unlink(missing_ok=True)
    if points:
        _draw(place.folder, points)
    alike = same_scores(trials, runs)
    if output == "json":
        described = {**_described(trials, runs, groups, place), "same_scores": alike}
        click.echo(json.dumps(described, default=list))
        return
    wide_console().print(_table(groups))
    for names in alike:
        click.echo(f"the very same scores: {'; '.join(names)}: what they differ in changed nothing")
    click.echo(f"files: {place.folder}")


def _track(runs: Mapping[str, Finished], groups: Sequence[Group], place: Place) -> None:
    """Show the study in MLflow as the parent of its simulations."""
    from hyfree_ray.observing.mlflow import Tracker

    cohort = str(next(iter(runs.values())).described["cohort"])
    numbers: dict[str, object] = {
        f"{group.name}/{one.first} minus {one.second}/{one.tested}": one.difference
        for group in groups
        for one in group.contrasts
    }
    numbers["trials"] = len(runs)
    tracker = Tracker(place.store, place.folder.name, cohort, {})
    tracker.adopt(sorted({run.name for run in runs.values()}), numbers)


def _draw(folder: Path, points: Mapping[str, Any]) -> None:
    from hyfree_ray.reports.figures import curve, drawn

    figure = drawn("scaling", lambda theme: curve(theme, points, "difference of Dice"))
    for ending, content in (("svg", figure.light_svg), ("png", figure.png)):
        with replacing(folder / f"scaling.{ending}") as file:
            file.write(content)


def _described(
    trials: Sequence[Trial], runs: Mapping[str, Finished], groups: Sequence[Group], place: Place
) -> dict[str, Any]:
    return {
        "folder": str(place.folder),
        "trials": [
            {"draw": t.draw, "sites": t.sites, **t.values, "run": runs[t.name].name} for t in trials
        ],
        "curve": [
            {
                "name": group.name,
                "sites": group.sites,
                "draws": group.draws,
                "runs": group.runs,
                "contrasts": [
                    {**vars(one), "verdict": one.verdict, "words": one.words}
                    for one in group.contrasts
                ],
            }
            for group in groups
        ],
    }


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
                IN_WORDS[one.tested],
                one.interval,
                Text(one.said, style=STYLE[one.verdict]),
            )
            first = False
    return table
