"""Studies: many simulations that differ in one thing."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hyfree_ray.cohorts.partitions import COLUMN, NATURAL
from hyfree_ray.config.experiment import Runtime
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.seeds import seed_of
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.runners.resolve import SimulationOptions, reader_of, resolve_simulation
from hyfree_ray.scheduling.resources import Execution, read_resources
from hyfree_ray.studies.trials import Trial


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
    resolve = Resolver(runtime)
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


class Resolver:
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
