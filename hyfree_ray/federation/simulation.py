"""A run: sites from a cohort, parties from sites, and the protocol over them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.border.manifest import key_of
from hyfree_ray.cohorts.cohort import Case, Cohort, split_fold
from hyfree_ray.cohorts.partitions import NATURAL
from hyfree_ray.cohorts.site_case import Part, SiteCase, Slices
from hyfree_ray.cohorts.slices import generator_slices, slice_axis
from hyfree_ray.cohorts.tables import READER_KEY
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.core.precision import PrecisionChoice
from hyfree_ray.evaluation.regimes import trained_by
from hyfree_ray.evaluation.scores import ScoreRow, measured
from hyfree_ray.federation import protocol
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.oracle import OracleParty
from hyfree_ray.federation.party import Party, Runner
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.release_versions import RELEASE_VERSIONS
from hyfree_ray.federation.site import SiteParty

log = logging.getLogger("hyfree_ray")

REGIONS_KEY = "regions_class_order"


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A run as a value: everything is resolved, nothing has happened yet."""

    cohort: str
    sites: Mapping[str, Site]
    experiment: Experiment
    partition: str = NATURAL
    """The partition of patients into the sites; their keys distinguish it from others."""
    contributors: tuple[str, ...] = ()
    """Sites whose releases are pooled; empty: all."""
    reasons: tuple[str, ...] = ()
    """One line for each number that was derived."""
    measured: PrecisionChoice | None = None
    """Measurements that chose its precision, for the store; None: nothing was measured anew."""
    round: int = 1
    """The pool's round; the first unless sites came late or withdrew."""

    @property
    def dataset(self) -> Mapping[str, Any]:
        """The task: channels and labels, the same at all sites."""
        return next(iter(self.sites.values())).dataset

    @property
    def federation(self) -> str:
        """Key of what releases are made for."""
        task = self.experiment.task(self.cohort, self.dataset)
        recipe = self.experiment.recipe(RELEASE_VERSIONS)
        return key_of(task, recipe, self.experiment.addressee)

    @property
    def key(self) -> str:
        """Identity of the experiment."""
        keys = {name: site.key for name, site in self.sites.items()}
        key = self.experiment.key(self.cohort, keys)
        return digest_of([key, sorted(self.contributors)]) if self.contributors else key

    @property
    def run(self) -> str:
        """The run's name."""
        later = f"-round{self.round}" if self.round > 1 else ""
        return f"{self.cohort}-{self.key[:8]}{later}"

    @property
    def with_oracle(self) -> bool:
        """Whether a setting needs all real data in one place."""
        return bool(trained_by("oracle", self.experiment.settings))

    @property
    def party_names(self) -> tuple[str, ...]:
        """All parties: sites, pool and, if needed, the oracle."""
        return (*self.sites, POOL, *((ORACLE,) if self.with_oracle else ()))

    def party(self, name: str, store: Path, runner: Runner) -> Party:
        """Return the named party, with its own folder under `store`, in this process."""
        program, part = self.program(name)
        return program(*part, self.root_of(name, store), runner)

    def program(self, name: str) -> tuple[Callable[..., Party], tuple[Any, ...]]:
        """Return the class of the named party and its arguments: its own part alone."""
        shared = (self.experiment, self.federation)
        if name == POOL:
            return PoolParty, (self.key, self.federation, dict(self.dataset), self.experiment)
        if name == ORACLE:
            return OracleParty, (dict(self.sites), *shared)
        return SiteParty, (self.sites[name], *shared)

    def site_party(self, name: str, store: Path, runner: Runner) -> SiteParty:
        """Return one hospital."""
        party = self.party(name, store, runner)
        assert isinstance(party, SiteParty), name
        return party

    def pool_party(self, store: Path, runner: Runner) -> PoolParty:
        """Return the centre."""
        party = self.party(POOL, store, runner)
        assert isinstance(party, PoolParty)
        return party

    def root_of(self, party: str, store: Path) -> Path:
        """Return a party's own folder in the store."""
        return store / party if party in {POOL, ORACLE} else store / "sites" / party


def sites_of(
    cohort: Cohort, fold: int, *, phantom: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Site]:
    """Return sites as values, with their cases split for a fold.

    Args:
        cohort: the data set, by site.
        fold: the test fold.
        phantom: for drawn sites, the parameters of each; their data need no folder.

    Raises:
        HyfreeError: sites whose volumes are cut along different axes.
    """
    dataset = {
        # In the order of the files, which nnU-Net takes from the order of the names.
        "channel_names": {str(k): name for k, name in enumerate(cohort.channel_names)},
        "labels": dict(cohort.labels),
        "file_ending": cohort.file_ending,
    }
    for key in (READER_KEY, REGIONS_KEY):
        if key in cohort.dataset_json:
            dataset[key] = cohort.dataset_json[key]
    axes = {name: _slice_axis(cases, fold) for name, cases in cohort.sites.items()}
    first = next(iter(axes))
    for name, axis in axes.items():
        if axis != axes[first]:
            raise HyfreeError(
                "data.slice-axes-differ",
                f"{name}: its volumes are sliced along axis {axis}, those of {first} along axis"
                f" {axes[first]}; permute the axes of one of them",
            )
    sites = {}
    for name, cases in cohort.sites.items():
        described = _describe(cases, fold, axes[name])
        content = [(c.name, c.digest, c.patient) for c in sorted(cases, key=lambda c: c.name)]
        sites[name] = Site(
            name=name,
            key=digest_of([content, fold, dataset]),
            cases=described,
            dataset=dataset,
            folder=None if phantom else cohort.root.resolve(),
            phantom=None if phantom is None else phantom[name],
        )
    return sites


def _slice_axis(cases: tuple[Case, ...], fold: int) -> int:
    """Return the axis that nnU-Net's plan will cut a site's volumes along, from headers alone."""
    split = split_fold(cases, fold)
    return slice_axis([case.spacing for case in (*split.train, *split.val) if len(case.shape) == 3])


def _describe(cases: tuple[Case, ...], fold: int, axis: int) -> tuple[SiteCase, ...]:
    """Describe cases. Indices count the site's sorted patients and cases, and reveal nothing
    else."""
    split = split_fold(cases, fold)
    parts: tuple[tuple[Part, tuple[Case, ...]], ...] = (
        ("train", split.train),
        ("val", split.val),
        ("test", split.test),
    )
    part = {case.name: name for name, members in parts for case in members}
    patients = {name: number for number, name in patient_names(cases).items()}
    return tuple(
        {
            "name": case.name,
            "index": index,
            "patient": patients[case.patient],
            "part": part[case.name],
            "images": list(case.images),
            "label": case.label,
            "digest": case.digest,
            **_slices_of(case, axis),
        }
        for index, case in enumerate(sorted(cases, key=lambda case: case.name))
    )


def patient_names(cases: Iterable[Case]) -> dict[int, str]:
    """Return a site's own names of its patients, by the numbers that everybody else knows."""
    return dict(enumerate(sorted({case.patient for case in cases})))


def _slices_of(case: Case, axis: int) -> Slices:
    if len(case.shape) != 3:
        return {}
    slices = generator_slices(case.shape[axis], case.spacing[axis])
    return {"slices": len(slices), "slice_axis": axis}


def score_rows(simulation: Simulation, outcome: protocol.Outcome) -> list[ScoreRow]:
    """Return the outcome's scores as rows of `results.csv`; NaN scores are left out, and named."""
    rows = []
    for scored in outcome.scores:
        for row in scored.rows:
            for metric, value in measured(row).items():
                if value is None:
                    continue
                if not math.isfinite(value):
                    log.warning(
                        f"{scored.test_site}: {metric} of {row['label']} under "
                        f"{scored.regime} is not a number; it is left out"
                    )
                    continue
                rows.append(
                    ScoreRow(
                        run=simulation.run,
                        round=outcome.round,
                        seed=simulation.experiment.seed,
                        fold=simulation.experiment.fold,
                        regime=scored.regime,
                        train_site=scored.train_site,
                        test_site=scored.test_site,
                        patient=row["patient"],
                        case=row["case"],
                        label=row["label"],
                        metric=metric,
                        value=value,
                    )
                )
    return rows
