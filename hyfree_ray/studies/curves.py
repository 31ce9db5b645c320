"""The points of a study's curve: trials that differ in fold, seed and draw alone."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import replacing
from hyfree_ray.evaluation.regimes import record_of
from hyfree_ray.evaluation.scores import COLUMNS, ScoreRow, csv_text
from hyfree_ray.results.comparisons import estimates_of
from hyfree_ray.results.contrasts import Contrast, Estimate, simultaneous
from hyfree_ray.results.finished import Finished, Point
from hyfree_ray.results.pooled import (
    VARIES,
    check_choices,
    differing_settings,
    other_patients,
    with_own_patients,
)
from hyfree_ray.results.summary import TESTED_LABELS
from hyfree_ray.studies.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trials that differ in fold, seed and draw alone: one point of a curve."""

    name: str
    sites: int
    draws: int
    runs: int
    contrasts: tuple[Contrast, ...]
    """Over all sites."""


def grouped(trials: Sequence[Trial], runs: Mapping[str, Finished]) -> list[Group]:
    """Points of the curve, in the order of the trials.

    Patients are the unit. Seeds and draws are sources of noise of their own: pools of one seed
    share their sites' networks, and one draw is the same sites in every seed. Where every subset
    was drawn, that is none. A sentence about the method still needs as many seeds as ever. The
    intervals of all points hold together.

    Args:
        runs: by the trials' names.
    """
    points = _points(trials)
    estimates = [_estimates(name, members, runs) for name, members in points.items()]
    together = iter(simultaneous([one for point in estimates for one in point]))
    return [
        Group(
            name=name,
            sites=members[0].sites,
            draws=len({trial.draw for trial in members}),
            runs=len(members),
            contrasts=tuple(itertools.islice(together, len(point))),
        )
        for (name, members), point in zip(points.items(), estimates, strict=True)
    ]


def _points(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Trials that differ in fold, seed and draw alone, by what distinguishes them from others."""
    values = [trial.values for trial in trials]
    varied = [
        name
        for name in (values[0] if values else ())
        if name not in {"fold", "seed", "contributors"}
        and any(of_trial[name] != values[0][name] for of_trial in values)
    ]
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        named = ", ".join(f"{name} {trial.values[name]}" for name in varied)
        found.setdefault(named or f"{trial.sites} sites", []).append(trial)
    return found


def _estimates(name: str, trials: Sequence[Trial], runs: Mapping[str, Finished]) -> list[Estimate]:
    """Return a point's differences over all sites, before they are read beside other points'."""
    found = [runs[trial.name] for trial in trials]
    _check_alike(name, found)
    of_run = with_own_patients(found)
    trainings = sorted({(run.seed, trial.draw) for trial, run in zip(trials, found, strict=True)})
    draws = len({trial.draw for trial in trials})
    every = draws == math.comb(len(found[0].sites), trials[0].sites)
    if "contributors" not in trials[0].values:  # a grid's draws are its combinations
        trainings = sorted({(run.seed, 0) for run in found})
    rows = [
        replace(row, seed=_index(trainings, run.seed, trial.draw))
        for trial, run in zip(trials, found, strict=True)
        for row in of_run[run.name]
    ]
    noise = {column: (seed, 0 if every else draw) for column, (seed, draw) in enumerate(trainings)}
    estimates = estimates_of(rows, found[0].sites, trainings=noise)
    return [one for one in estimates if one.plain.site is None]


def _check_alike(name: str, runs: Sequence[Finished]) -> None:
    """Refuse a point of runs of different kinds, as where some ran on a GPU and some without.

    Raises:
        HyfreeError: it names two of them and what they differ in.
    """
    check_choices(runs)
    for other in runs[1:]:
        differing = differing_settings(runs[0], other).keys() - {*VARIES, "contributors"}
        if differing:
            raise HyfreeError(
                "results.settings-differ",
                f"{name}: {runs[0].name} and {other.name} differ in {', '.join(sorted(differing))}:"
                " only folds, seeds and draws can be pooled; name what differs in the study's"
                " command or file, and run it again",
            )
    for one, other in itertools.combinations(runs, 2):
        if one.seed == other.seed and (apart := other_patients(one, other)):
            raise HyfreeError(
                "results.patients-differ",
                f"{name}: {one.name} and {other.name} have seed {one.seed} but different patients "
                f"at {', '.join(apart)}: the data have changed; run the study's command again",
            )


def same_scores(trials: Sequence[Trial], runs: Mapping[str, Finished]) -> list[list[str]]:
    """Points whose runs scored the same to the last digit: what they differ in had no effect.

    So it is, for instance, where a release is at the most images that a site may give, whatever
    is asked for each real one.

    Returns:
        Their names, two or more at a time.
    """
    alike: dict[tuple[ScoreRow, ...], list[str]] = {}
    for name, members in _points(trials).items():
        rows = [replace(row, run="") for trial in members for row in runs[trial.name].rows]
        alike.setdefault(tuple(sorted(rows)), []).append(name)
    return [names for names in alike.values() if len(names) > 1]


def _index(trainings: Sequence[tuple[int, int]], seed: int, draw: int) -> int:
    return trainings.index((seed, draw) if (seed, draw) in trainings else (seed, 0))


def write_scaling(path: Path, trials: Sequence[Trial], runs: Mapping[str, Finished]) -> None:
    """The rows of all trials, with `sites,draw` in front."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["sites", "draw", *COLUMNS])
    for trial in trials:
        rows = csv.reader(io.StringIO(csv_text(runs[trial.name].rows), newline=""))
        writer.writerows([trial.sites, trial.draw, *row] for row in itertools.islice(rows, 1, None))
    with replacing(path) as file:
        file.write(stream.getvalue().encode())


def curve_points(groups: Iterable[Group]) -> dict[str, list[Point]]:
    """What `figures.curve` draws: by contrast, number of sites, difference and interval.

    Nothing of groups that differ in something else than their number of sites.
    """
    series: dict[str, list[Point]] = {}
    groups = sorted(groups, key=lambda group: group.sites)
    sizes = {group.sites for group in groups}
    if len(sizes) < max(2, len(groups)):
        return {}
    for group in groups:
        for one in group.contrasts:
            if one.difference is not None and record_of(one.first).of_the_pool:
                name = f"{one.first} minus {one.second}, {TESTED_LABELS[one.tested]}"
                points = series.setdefault(name, [])
                points.append((group.sites, one.difference, one.low, one.high))
    return series
