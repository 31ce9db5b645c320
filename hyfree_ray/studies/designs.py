"""Studies: many simulations that differ in one thing."""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hyfree_ray.cohorts.partitions import COLUMN, NATURAL
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.config.loading import as_override, read_yaml
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.runners.resolve import SimulationOptions, reader_of, resolve_simulation
from hyfree_ray.scheduling.resources import Execution, read_resources
from hyfree_ray.studies.trials import Trial

log = logging.getLogger("hyfree_ray")

SIMULATE_OPTIONS = (
    "sites",
    "data",
    "partition",
    "config",
    "budget",
    "generator",
    "precision",
    "settings",
)
"""Options of `simulate` that a study's file may name for all of its trials."""
_QUOTA = "budget.synthesis.per_real"
_MOST = "budget.synthesis.max_images"
_VARIED = ("sites", "budget", "generator")
"""Those that may be in its grid, beside fields of the experiment."""


def draw_subsets(sites: Sequence[str], size: int, repeats: int) -> list[tuple[str, ...]]:
    """Random subsets, no two the same: as many as asked for, or all that there are.

    What is drawn depends on the names and the size alone, so that a larger study repeats a smaller
    one's trials.
    """
    if len(sites) < 2:
        raise HyfreeError(
            "option.out-of-range",
            f"--sites {size}: the data have only one site, {sites[0]}; see --partition",
        )
    if not 2 <= size <= len(sites):
        raise HyfreeError(
            "option.out-of-range",
            f"--sites {size}: out of range; pool 2 to {len(sites)} of the {len(sites)} sites",
        )
    random = np.random.default_rng(seed_of(0, "scale", *sorted(sites), str(size)))
    found: dict[tuple[str, ...], None] = {}
    while len(found) < min(repeats, math.comb(len(sites), size)):
        picked = random.choice(sorted(sites), size, replace=False)
        found[tuple(sorted(str(name) for name in picked))] = None
    return list(found)


def scale_trials(
    options: SimulationOptions,
    runtime: Runtime,
    sizes: Sequence[int],
    *,
    repeats: int,
    folds: Sequence[int],
    seeds: int,
) -> list[Trial]:
    """Make one trial a subset, fold and seed. A pool of all sites is the ordinary simulation.

    Args:
        options: what all trials share, without number of sites, fold and seed.
        runtime: where they run.
        sizes: numbers of sites in the pool.
        repeats: subsets of each size.
        folds: test folds.
        seeds: 0 to this number, exclusive.

    Raises:
        HyfreeError: no such simulation; before anything runs.
    """
    named = options.partition == NATURAL or options.partition.startswith(COLUMN)
    count = None if named and options.data is not None else max(sizes)
    resolve = _Resolver(runtime)
    whole = {
        (fold, seed): resolve(replace(options, sites=count, fold=fold, seed=seed))
        for fold, seed in itertools.product(folds, range(seeds))
    }
    execution = Execution(resources=read_resources(options.config))
    names = list(next(iter(whole.values())).sites)
    return [
        Trial(
            name=f"sites-{size}-draw-{draw}-fold-{fold}-seed-{seed}",
            simulation=replace(one, contributors=() if size == len(names) else subset),
            execution=execution,
            draw=draw,
            values={"fold": fold, "seed": seed, "contributors": list(subset)},
        )
        for size in sizes
        for draw, subset in enumerate(draw_subsets(names, size, repeats))
        for (fold, seed), one in whole.items()
    ]


class _Resolver:
    """Makes a study's simulations: a data set is read once, and equal sites are kept once."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._read = functools.cache(reader_of(runtime.store))
        self._sites: dict[tuple[str, ...], Mapping[str, Site]] = {}

    def __call__(self, options: SimulationOptions) -> Simulation:
        found = resolve_simulation(options, self._runtime, self._read)
        keys = tuple(site.key for site in found.sites.values())
        return replace(found, sites=self._sites.setdefault(keys, found.sites))


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


def grid_trials(path: Path, runtime: Runtime) -> list[Trial]:
    """Make the trials of a study's file: every combination of its grid.

    The file is YAML: `simulate`, options that all trials share, and `grid`, fields of the
    experiment (with dots), `sites`, `budget` (by name) or `generator`, each with a list of values.
    Paths are from its folder.

    Raises:
        HyfreeError: a key that is not known, a value that does not fit; before anything runs.
    """
    shared, grid = _read_study(path)
    combinations = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    asked = [_options_of(path, shared, values) for values in combinations]
    experiments = [options.experiment(runtime.device)[0] for options in asked]  # before data
    most = [experiment.budget.synthesis.max_images for experiment in experiments]
    if len(grid.get(_QUOTA, ())) > 1 and all(most):
        log.warning(
            f"{path}: {_QUOTA}: a site releases at most {max(filter(None, most))} images, however "
            f"many are requested per real one; to lift the cap, set '{_MOST}: [null]' in the grid"
        )
    resolve = _Resolver(runtime)
    return [
        Trial(
            name=f"trial-{draw:03d}",
            simulation=resolve(options),
            execution=Execution(resources=read_resources(options.config)),
            draw=draw,
            values=values,
        )
        for draw, (options, values) in enumerate(zip(asked, combinations, strict=True))
    ]


def _read_study(path: Path) -> tuple[Mapping[str, Any], Mapping[str, list[Any]]]:
    """Read what all trials share, and the grid."""
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
            f"{path}: 'grid' must map fields to lists of values, and 'simulate' be a mapping",
        )
    for name, value in shared.items():
        if name not in SIMULATE_OPTIONS:
            known = ", ".join(SIMULATE_OPTIONS)
            raise HyfreeError(
                "study.unknown-key",
                f"{path}: simulate: unknown option {name!r}; there are: {known}",
            )
        if value is None:
            raise HyfreeError(
                "study.bad-value",
                f"{path}: simulate: {name}: has no value; give one or leave it out",
            )
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise HyfreeError("study.bad-value", f"{path}: grid: {name}: not a list of values")
        if name == "embedder_weights" and len(values) > 1:
            raise HyfreeError(
                "study.bad-value",
                f"{path}: grid: {name}: runs that differ only in it are the same run in a store; "
                "give each weights file its own study and store",
            )
        for place, value in enumerate(values):
            if value in values[:place]:
                raise HyfreeError(
                    "study.bad-value", f"{path}: grid: {name}: {value!r} is listed twice"
                )
    return shared, grid


def _options_of(
    path: Path, shared: Mapping[str, Any], values: Mapping[str, Any]
) -> SimulationOptions:
    """Take the options of one trial from what all share and its values."""
    fields = {name: value for name, value in values.items() if name not in _VARIED}
    named = {**shared, **{name: values[name] for name in _VARIED if name in values}}
    folder = path.absolute().parent
    if isinstance(weights := fields.get("embedder_weights"), str):
        fields["embedder_weights"] = str(folder / weights)
    if isinstance(settings := named.get("settings"), str):
        named["settings"] = [name.strip() for name in settings.split(",") if name.strip()]
    for name in named.get("settings", ()):
        if not isinstance(name, str):
            raise HyfreeError(
                "option.unknown-setting", f"{path}: settings: {name!r} is not a setting's name"
            )
    if "settings" in named:
        named["settings"] = tuple(named["settings"])
    for name in ("config", "data"):
        if name in named:
            named[name] = folder / str(named[name])
    if not isinstance(named.get("budget"), str | None):
        raise HyfreeError(
            "study.bad-value", f"{path}: budget: {named['budget']!r} is not a budget's name"
        )
    sites = named.get("sites")
    if not isinstance(sites, int | None) or isinstance(sites, bool):
        raise HyfreeError("study.bad-value", f"{path}: sites: {sites!r} is not a number")
    overrides = tuple(as_override(name, value) for name, value in fields.items())
    return SimulationOptions(**named, overrides=overrides)
