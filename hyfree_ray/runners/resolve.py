"""The resolution of a user's options into a `Simulation`: nothing runs or is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hyfree_ray.cohorts.cohort import Cohort, read_cohort
from hyfree_ray.cohorts.partitions import NATURAL, partition
from hyfree_ray.cohorts.phantom_record import DEFAULT_PHANTOM, PHANTOMS
from hyfree_ray.cohorts.summary import describe_notes
from hyfree_ray.config.device import find_device
from hyfree_ray.config.experiment import Experiment, Runtime, check_embedder
from hyfree_ray.config.resolution import not_measured, resolve_experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.precision import PrecisionChoice, StorePrecision
from hyfree_ray.core.store_root import digest_cache, open_root
from hyfree_ray.federation.rounds import MIN_RELEASES
from hyfree_ray.federation.simulation import Simulation, sites_of

log = logging.getLogger("hyfree_ray")

ReadCohort = Callable[[Path, bool], Cohort]
"""Reads the data set of a folder; True: with the sites of its `sites.csv`."""

Told = Callable[[int, int], None]
"""Hears (files read, files in all)."""


@dataclass(frozen=True, kw_only=True)
class SimulationOptions:
    """What is to be simulated, as `hyfree-ray simulate` takes it; None: not named."""

    sites: int | None = None
    data: Path | None = None
    """An nnU-Net raw data set with its `sites.csv`; None: phantom sites."""
    phantom: str | None = None
    """Which phantom is drawn where there are no data; None: the first."""
    partition: str = NATURAL
    config: Path | None = None
    budget: str | None = None
    generator: str | None = None
    pairing: str | None = None
    precision: str | None = None
    segmenter: str | None = None
    metrics: tuple[str, ...] | None = None
    settings: tuple[str, ...] | None = None
    fold: int | None = None
    seed: int | None = None
    overrides: tuple[str, ...] = ()
    """Each `key=value`, with dots."""
    contributors: tuple[str, ...] = ()
    """Sites whose releases are pooled; empty: all."""

    def experiment(
        self, device: str, cpu_precision: Callable[[], PrecisionChoice] = not_measured
    ) -> tuple[Experiment, list[str]]:
        """Resolve the experiment on a device, with a line of reason for each derived number.

        Args:
            device: what the trainings will run on.
            cpu_precision: what `auto` is on a CPU.

        Raises:
            HyfreeError: there is no such experiment.
        """
        return resolve_experiment(
            budget=self.budget,
            generator=self.generator,
            pairing=self.pairing,
            device=device,
            file=self.config,
            overrides=self.overrides,
            cpu_precision=cpu_precision,
            precision=self.precision,
            fold=self.fold,
            seed=self.seed,
            segmenter=self.segmenter,
            metrics=self.metrics,
            settings=self.settings,
        )


def resolve_device(device: str, ray: str) -> Literal["cpu", "cuda"]:
    """Resolve `auto` to what this machine has, or the cluster that this process has joined."""
    if device == "auto" and ray not in {"local", "off"}:
        from hyfree_ray.runners.ray_cluster import cluster_device

        device = cluster_device()
    if device == "auto":
        return find_device()
    return "cuda" if device == "cuda" else "cpu"


def store_precision(runtime: Runtime) -> StorePrecision:
    """Return what chooses a store's precision: by this machine, or by all of the joined cluster's.

    On a cluster the machines count that stages may run on, wherever the command is given.
    """
    if runtime.ray in {"local", "off"}:
        return StorePrecision(runtime.store)
    from hyfree_ray.runners.ray_cluster import measure_machines

    return StorePrecision(runtime.store, measure_machines)


def check_options(experiment: Experiment, runtime: Runtime) -> None:
    """Refuse what could not be run here, before any data are read.

    Raises:
        HyfreeError: the embedder is not here, workers want Ray, or the store is another version's.
    """
    check_embedder(experiment)
    if runtime.ray == "off" and experiment.general_workers > 1:
        raise HyfreeError(
            "option.conflict",
            f"general_workers={experiment.general_workers} needs Ray; use --ray local, or 1",
        )
    open_root(runtime.store, create=False)


def reader_of(
    store: Path, showing: Callable[[], AbstractContextManager[Told]] = lambda: nullcontext(_silent)
) -> ReadCohort:
    """Return what reads data sets with the digests that a store remembers, and logs their notes.

    Args:
        store: its root.
        showing: opened for each reading; gives what hears of it.
    """

    def read(data: Path, own_sites: bool) -> Cohort:
        with showing() as report:
            cache = digest_cache(store)
            cohort = read_cohort(data, digest_cache=cache, own_sites=own_sites, report=report)
        for note in describe_notes(cohort.notes):
            log.warning(note)
        return cohort

    return read


def _silent(_done: int, _total: int) -> None:
    """Hear of a reading and show nothing."""


def find_cohort(
    options: SimulationOptions, experiment: Experiment, store: Path, read: ReadCohort
) -> Cohort:
    """Find the sites: those of the data, dealt out as asked for, or the phantom's.

    Raises:
        HyfreeError: the data or their partition are not good.
    """
    if options.data is None:
        if options.partition != NATURAL:
            raise HyfreeError(
                "option.conflict",
                f"--partition {options.partition}: phantom sites cannot be partitioned; add --data",
            )
        phantom = PHANTOMS[options.phantom or DEFAULT_PHANTOM]
        default = experiment.budget.phantom_sites or phantom.sites
        count = default if options.sites is None else options.sites
        return phantom.cohort_of(count, experiment.seed, store)
    if options.phantom is not None:
        raise HyfreeError(
            "option.conflict",
            f"--phantom {options.phantom}: the sites are those of --data; leave one of the two out",
        )
    cohort = read(options.data, options.partition == NATURAL)
    return partition(cohort, options.partition, sites=options.sites, seed=experiment.seed)


def make_simulation(
    options: SimulationOptions,
    cohort: Cohort,
    experiment: Experiment,
    reasons: Sequence[str],
    measured: PrecisionChoice | None = None,
) -> Simulation:
    """Put a simulation together from its resolved parts.

    Raises:
        HyfreeError: contributors that are no sites, or too few.
    """
    phantom = PHANTOMS[options.phantom or DEFAULT_PHANTOM]
    drawn = {
        name: phantom.drawn_from(name, experiment.seed)
        for name in cohort.sites
        if options.data is None
    }
    sites = sites_of(cohort, experiment.fold, phantom=drawn or None)
    return Simulation(
        cohort=cohort.name,
        sites=sites,
        experiment=experiment,
        partition=options.partition,
        contributors=_contributors(options.contributors, sites),
        reasons=tuple(reasons),
        measured=measured,
    )


def _contributors(named: Sequence[str], sites: Collection[str]) -> tuple[str, ...]:
    """The named sites, sorted; empty where that is all of them, so that it is the same run."""
    for name in named:
        if name not in sites:
            raise HyfreeError(
                "option.unknown-site",
                f"--contributors {name}: no such site; there are: {', '.join(sorted(sites))}",
            )
    if named and len(set(named)) < MIN_RELEASES:
        raise HyfreeError(
            "option.out-of-range", f"--contributors: a pool needs at least {MIN_RELEASES} sites"
        )
    return () if set(named) == set(sites) else tuple(sorted(set(named)))


def resolve_simulation(
    options: SimulationOptions, runtime: Runtime, read: ReadCohort | None = None
) -> Simulation:
    """Resolve what a user asks for; nothing is written.

    Args:
        options: what is to be simulated.
        runtime: where it is to run.
        read: reads data sets; None: each anew.

    Raises:
        HyfreeError: what is wrong with the options or the data, in one line.
    """
    precision = store_precision(runtime)
    experiment, reasons = options.experiment(runtime.device, precision)
    check_options(experiment, runtime)
    read = read or reader_of(runtime.store)
    cohort = find_cohort(options, experiment, runtime.store, read)
    return make_simulation(options, cohort, experiment, reasons, precision.measured)
