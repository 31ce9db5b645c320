"""Studies: many simulations that differ in one thing, and the curve that they give together."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hyfree_ray.config.experiment import read_yaml, resolve_experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import replacing
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.evaluation.regimes import record_of
from hyfree_ray.evaluation.scores import COLUMNS, ScoreRow, csv_text
from hyfree_ray.results.contrasts import Contrast
from hyfree_ray.results.finished import Finished, Point
from hyfree_ray.results.pooled import (
    VARIES,
    check_choices,
    differing_settings,
    other_patients,
    with_own_patients,
)
from hyfree_ray.results.summary import IN_WORDS, contrasts_of
from hyfree_ray.studies.trials import Trial, experiment_of

log = logging.getLogger("hyfree_ray")

SIMULATE_OPTIONS = ("sites", "data", "partition", "config", "budget", "generator", "settings")
"""Options of `simulate` that a study's file may name for all of its trials."""
_QUOTA = "budget.synthesis.per_real"
_MOST = "budget.synthesis.max_images"
_VARIED = ("sites", "budget", "generator")
"""Those that may be in its grid, beside fields of the experiment."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trials that differ in fold, seed and draw alone: one point of a curve."""

    name: str
    sites: int
    draws: int
    runs: int
    contrasts: tuple[Contrast, ...]
    """Over all sites."""


def draw_subsets(sites: Sequence[str], size: int, repeats: int) -> list[tuple[str, ...]]:
    """Random subsets, no two the same: as many as asked for, or all that there are.

    What is drawn depends on the names and the size alone, so that a larger study repeats a smaller
    one's trials.
    """
    if len(sites) < 2:
        raise HyfreeError(
            "option.out-of-range",
            f"--sites {size}: the data have one site, {sites[0]}; see --partition",
        )
    if not 2 <= size <= len(sites):
        raise HyfreeError(
            "option.out-of-range",
            f"--sites {size}: a pool has 2 to {len(sites)} of the {len(sites)} sites; name such",
        )
    random = np.random.default_rng(seed_of(0, "scale", *sorted(sites), str(size)))
    found: dict[tuple[str, ...], None] = {}
    while len(found) < min(repeats, math.comb(len(sites), size)):
        picked = random.choice(sorted(sites), size, replace=False)
        found[tuple(sorted(str(name) for name in picked))] = None
    return list(found)


def scale_trials(
    sites: Sequence[str],
    sizes: Sequence[int],
    options: Sequence[str],
    *,
    repeats: int,
    folds: Sequence[int],
    seeds: int,
) -> list[Trial]:
    """One trial a subset, fold and seed. A pool of all sites is the ordinary simulation."""
    trials = []
    for size in sizes:
        for draw, subset in enumerate(draw_subsets(sites, size, repeats)):
            part = () if size == len(sites) else ("--contributors", ",".join(subset))
            for fold, seed in itertools.product(folds, range(seeds)):
                of_run = ("--fold", str(fold), "--seed", str(seed))
                trials.append(
                    Trial(
                        name=f"sites-{size}-draw-{draw}-fold-{fold}-seed-{seed}",
                        options=(*options, *of_run, *part),
                        sites=size,
                        draw=draw,
                        values={"fold": fold, "seed": seed, "contributors": list(subset)},
                    )
                )
    return trials


def phases(trials: Sequence[Trial]) -> list[list[Trial]]:
    """First, for each fold and seed, the trial with the most sites; then all others.

    The others find generators trained, instead of waiting for each other's.
    """
    first: dict[tuple[Any, Any], Trial] = {}
    for trial in trials:
        key = (trial.values.get("fold"), trial.values.get("seed"))
        if key not in first or trial.sites > first[key].sites:
            first[key] = trial
    head = list(first.values())
    return [head, [trial for trial in trials if trial not in head]]


def grid_trials(path: Path) -> list[Trial]:
    """The trials of a study's file: every combination of its grid.

    The file is YAML: `simulate`, options that all trials share, and `grid`, fields of the
    experiment (with dots), `sites`, `budget` (by name) or `generator`, each with a list of values.
    A `config` and `data` are looked for beside the file.

    Raises:
        HyfreeError: a key that is not known, a value that does not fit; before anything runs.
    """
    if not path.is_file():
        raise HyfreeError("study.not-found", f"{path}: no such file; see hyfree-ray study --help")
    written = read_yaml(path)
    for name in written:
        if name not in {"simulate", "grid"}:
            raise HyfreeError(
                "study.unknown-key",
                f"{path}: unknown key {name!r}; a study has 'simulate' and 'grid'",
            )
    shared, grid = written.get("simulate") or {}, written.get("grid")
    if not isinstance(shared, dict) or not isinstance(grid, dict) or not grid:
        raise HyfreeError(
            "study.bad-value",
            f"{path}: 'grid' maps fields to lists of values, 'simulate' is a mapping",
        )
    for name in shared:
        if name not in SIMULATE_OPTIONS:
            known = ", ".join(SIMULATE_OPTIONS)
            raise HyfreeError(
                "study.unknown-key",
                f"{path}: simulate: unknown option {name!r}; there are: {known}",
            )
    for name, value in shared.items():
        if value is None:
            raise HyfreeError(
                "study.bad-value",
                f"{path}: simulate: {name}: it has no value; give one or leave it out",
            )
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise HyfreeError("study.bad-value", f"{path}: grid: {name}: write a list of values")
        if name == "embedder_weights" and len(values) > 1:
            raise HyfreeError(
                "study.bad-value",
                f"{path}: grid: {name}: runs that differ in it alone are one run in a store; give "
                "each weights a study and a store of their own",
            )
        for place, value in enumerate(values):
            if value in values[:place]:
                raise HyfreeError(
                    "study.bad-value", f"{path}: grid: {name}: {value!r} stands there twice"
                )
    trials = []
    for draw, combination in enumerate(itertools.product(*grid.values())):
        values = dict(zip(grid, combination, strict=True))
        trials.append(_grid_trial(path, draw, shared, values))
    if len(grid.get(_QUOTA, ())) > 1:
        devices = ("cpu", "cuda")  # which it will be, and so its default budget, is not known
        found = [experiment_of(trial.options, device) for trial in trials for device in devices]
        most = [experiment.budget.synthesis.max_images for experiment in found]
        if all(most):
            log.warning(
                f"{path}: {_QUOTA}: a site releases at most {max(filter(None, most))} images, "
                f"whatever is asked for each real one; to lift that, set '{_MOST}: [null]' in the "
                "grid"
            )
    return trials


def _grid_trial(
    path: Path, draw: int, shared: Mapping[str, Any], values: Mapping[str, Any]
) -> Trial:
    fields = {name: value for name, value in values.items() if name not in _VARIED}
    if isinstance(weights := fields.get("embedder_weights"), str):
        fields["embedder_weights"] = str(path.absolute().parent / weights)
    overrides = [f"{name}={_as_yaml(value)}" for name, value in fields.items()]
    named = {**shared, **{name: values[name] for name in _VARIED if name in values}}
    if isinstance(settings := named.get("settings"), list):
        for name in settings:
            if not isinstance(name, str):
                raise HyfreeError(
                    "option.unknown-setting", f"{path}: settings: {name!r} is not a setting's name"
                )
        named["settings"] = ",".join(settings)
    for name in ("config", "data"):
        if name in named:  # trials run in a folder of their own
            named[name] = (path.parent / str(named[name])).absolute()
    if not isinstance(named.get("budget"), str | None):
        raise HyfreeError(
            "study.bad-value", f"{path}: budget: {named['budget']!r} is not a budget's name"
        )
    experiment, _ = resolve_experiment(
        budget=named.get("budget"),
        generator=named.get("generator"),
        device="cpu",
        file=named.get("config"),
        overrides=overrides,
    )
    sites = named.get("sites", experiment.budget.phantom_sites)
    if not isinstance(sites, int) or isinstance(sites, bool):
        raise HyfreeError("study.bad-value", f"{path}: sites: {sites!r} is not a number")
    options = [part for name, value in named.items() for part in (f"--{name}", str(value))]
    for override in overrides:
        options += ["--set", override]
    return Trial(
        name=f"trial-{draw:03d}", options=tuple(options), sites=sites, draw=draw, values=values
    )


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def grouped(trials: Sequence[Trial], runs: Mapping[str, Finished]) -> list[Group]:
    """Points of the curve, in the order of the trials.

    Patients are the unit. Seeds and draws are sources of noise of their own: pools of one seed
    share their sites' networks, and one draw is the same sites in every seed. Where every subset
    was drawn, that is none. A sentence about the method still needs as many seeds as ever.

    Args:
        runs: by the trials' names.
    """
    return [_group(name, members, runs) for name, members in _points(trials).items()]


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


def _group(name: str, trials: Sequence[Trial], runs: Mapping[str, Finished]) -> Group:
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
    contrasts = contrasts_of(rows, found[0].sites, seed=0, trainings=noise)
    return Group(
        name=name,
        sites=trials[0].sites,
        draws=draws,
        runs=len(trials),
        contrasts=tuple(one for one in contrasts if one.site is None),
    )


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
                " only folds, seeds and draws are pooled; name what differs in the study's command"
                " or file, and give it again",
            )
    for one, other in itertools.combinations(runs, 2):
        if one.seed == other.seed and (apart := other_patients(one, other)):
            raise HyfreeError(
                "results.patients-differ",
                f"{name}: {one.name} and {other.name} are of seed {one.seed} and other patients at "
                f"{', '.join(apart)}: the data have changed; give the study's command again",
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
                name = f"{one.first} minus {one.second}, {IN_WORDS[one.tested]}"
                points = series.setdefault(name, [])
                points.append((group.sites, one.difference, one.low, one.high))
    return series
