"""Several runs as one: folds and seeds pooled in the paper's layout, and two runs compared.

A patient stays one, in however many folds and seeds: no run counts as an independent one.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from pydantic import TypeAdapter

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.metrics import metrics_in_order
from hyfree_ray.evaluation.regimes import THE_OTHERS, in_order, record_of
from hyfree_ray.evaluation.scores import PRIMARY, ScoreRow
from hyfree_ray.results.comparisons import (
    contrasts_of,
    estimates_of,
    read_together,
    verdicts_of,
)
from hyfree_ray.results.contrasts import MIN_SEEDS, Contrast
from hyfree_ray.results.finished import Finished
from hyfree_ray.results.means import patient_means, site_mean
from hyfree_ray.results.verdicts import Verdict

ONE_SEED = "one seed; training noise not included"
FEW_SEEDS = "two seeds: training noise is poorly known"
TWO_RUNS = "two runs; training noise not included"

VARIES = {"seed", "fold"}
"""What runs may differ in that are pooled."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A model on a test site, over the folds."""

    regime: str
    train_site: str
    test_site: str
    mean: float
    """Over the folds, each the mean over its seeds of the patients' mean."""
    sd: float | None
    """Between the folds; None for one fold."""
    folds: int


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """Runs that differ in fold and seed alone."""

    verdicts: tuple[Verdict, ...] = ()
    """What each hospital is told."""
    warning: str = ""
    """Why no number means anything; empty where they do."""
    runs: tuple[str, ...]
    rows: tuple[ScoreRow, ...]
    """Of all of them; one index is one patient in all."""
    cohort: str
    partition: str
    """How patients were dealt out to sites; empty where the runs do not tell."""
    sites: tuple[str, ...]
    regimes: tuple[str, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    cells: Mapping[str, tuple[Cell, ...]]
    """By metric."""
    contrasts: tuple[Contrast, ...]
    caveat: str
    notes: tuple[str, ...]
    """What the runs lack of the settings that were asked for, each with the run's name."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without the rows."""
        known = TypeAdapter(Pooled)
        found: dict[str, Any] = known.dump_python(self, mode="json", exclude={"rows"})
        return found


def pool_runs(runs: Sequence[Finished]) -> Pooled:
    """Pool runs over folds and seeds.

    Raises:
        HyfreeError: runs that differ in more than fold and seed, or two of the same.
    """
    runs = sorted(runs, key=lambda run: (run.seed, run.fold, run.name))
    first = runs[0]
    for other in runs[1:]:
        differing = [key for key in differing_settings(first, other) if key not in VARIES]
        if differing:
            raise HyfreeError(
                "results.settings-differ",
                f"{first.name} and {other.name} differ in {', '.join(differing)}: only folds "
                "and seeds can be pooled; see --compare",
            )
    check_choices(runs)
    for one, other in itertools.pairwise(runs):
        if (one.seed, one.fold) == (other.seed, other.fold):
            raise HyfreeError(
                "results.same-fold",
                f"{one.name} and {other.name} are both of fold {one.fold} and seed {one.seed}; "
                "leave one out",
            )
        if one.seed == other.seed and (apart := other_patients(one, other)):
            raise HyfreeError(
                "results.patients-differ",
                f"{one.name} and {other.name} have seed {one.seed} but different patients at "
                f"{', '.join(apart)}; only folds of one data set and partition can be pooled",
            )
    rows = tuple(row for of_run in with_own_patients(runs).values() for row in of_run)
    regimes = in_order({row.regime for row in rows})
    seeds = tuple(sorted({run.seed for run in runs}))
    folds = tuple(sorted({run.fold for run in runs}))
    cells = {
        metric.name: _cells(rows, regimes, metric.name)
        for metric in metrics_in_order(row.metric for row in rows)
        if metric.layout
    }
    estimates = estimates_of(rows, first.sites)
    outcomes = [site.outcome for run in runs for site in run.summary.sites]
    contrasts = read_together(estimates)
    return Pooled(
        verdicts=verdicts_of(estimates, contrasts, outcomes, warning=first.summary.warning),
        warning=first.summary.warning,
        runs=tuple(run.name for run in runs),
        rows=rows,
        cohort=first.summary.cohort,
        partition=first.summary.partition.how,
        sites=first.sites,
        regimes=regimes,
        folds=folds,
        seeds=seeds,
        cells=cells,
        contrasts=contrasts,
        caveat=ONE_SEED if len(seeds) < 2 else FEW_SEEDS if len(seeds) < MIN_SEEDS else "",
        notes=(
            *(f"{run.name}: {note}" for run in runs for note in run.summary.notes),
            *fewer_folds(cells[PRIMARY], len(folds)),
        ),
    )


def fewer_folds(cells: Sequence[Cell], folds: int) -> list[str]:
    """Note where means stand beside each other that are not of the same patients."""
    min_folds: dict[str, int] = {}
    for cell in cells:
        min_folds[cell.regime] = min(cell.folds, min_folds.get(cell.regime, folds))
    fewer = [f"{name} ({n} of {folds})" for name, n in min_folds.items() if n < folds]
    why = "not scored in every fold, so some means are over fewer patients than others"
    return [f"{why}: {', '.join(fewer)}"] if fewer else []


def check_choices(runs: Sequence[Finished]) -> None:
    """Refuse runs whose `chosen` models were chosen by different rules.

    Raises:
        HyfreeError: it names the run to be written again.
    """
    by_rule = {run.choice: run for run in runs if run.choice is not None}
    if len(by_rule) > 1:
        older, newer = by_rule[min(by_rule)], by_rule[max(by_rule)]
        raise HyfreeError(
            "run.other-version",
            f"{older.name}: its 'chosen' models follow an older rule than those of {newer.name}; "
            "run its 'simulate' command again with this version",
        )


def other_patients(one: Finished, other: Finished) -> list[str]:
    """Return sites of both with other patients; runs of earlier versions do not say."""
    if one.summary.data is None or other.summary.data is None:
        return []
    shared = [site for site in one.sites if site in other.sites]
    return [site for site in shared if one.data_of(site) != other.data_of(site)]


def compare_runs(one: Finished, other: Finished) -> tuple[Contrast, ...]:
    """Subtract the second run from the first, regime by regime, on the same test patients.

    Raises:
        HyfreeError: not the same test patients, or no regime in common.
    """
    sites = [site for site in one.sites if site in other.sites]
    apart = [site for site in sites if one.data_of(site) != other.data_of(site)]
    if not sites or apart or one.fold != other.fold:
        why = (
            f"other patients at {', '.join(apart)}"
            if apart
            else f"folds {one.fold} and {other.fold}"
            if sites
            else "no site in common"
        )
        raise HyfreeError(
            "results.patients-differ",
            f"{one.name} and {other.name} were not tested on the same patients ({why})",
        )
    shared = {row.regime for row in one.rows} & {row.regime for row in other.rows}
    if not shared:
        raise HyfreeError(
            "results.no-common-regime", f"{one.name} and {other.name} have no regime in common"
        )
    labelled = [
        replace(row, regime=f"{mark}:{row.regime}", seed=0)
        for mark, run in (("first", one), ("second", other))
        for row in run.rows
        if row.test_site in sites and row.train_site in {*sites, POOL}
    ]
    pairs = [(f"first:{regime}", f"second:{regime}") for regime in in_order(shared)]
    found = contrasts_of(labelled, tuple(sites), pairs=pairs)
    return tuple(
        replace(contrast, reason="not scored here in both runs")
        if contrast.difference is None
        else contrast
        for contrast in found
    )


def differing_settings(one: Finished, other: Finished) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two runs differ, with both values; sites and cohort too."""
    first, second = _settings(one), _settings(other)
    how = one.summary.partition.how, other.summary.partition.how
    if all(how):  # runs of earlier versions do not tell
        first["partition"], second["partition"] = how
    return {
        name: (first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    }


def _settings(run: Finished) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cohort": run.summary.cohort,
        "sites": list(run.sites),
        "contributors": list(run.contributors),
        "withdrawn": list(run.withdrawn),
    }

    def walk(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{name}.")
            else:
                found[f"{prefix}{name}"] = value

    walk(run.summary.experiment, "")
    return found


def with_own_patients(runs: Sequence[Finished]) -> dict[str, list[ScoreRow]]:
    """Return by run its rows, where one index is one patient in all runs.

    Drawn sites and random partitions have other patients under another seed: these get indices
    of their own, so that they are not taken for the same.
    """
    if len({run.seed for run in runs}) == 1:
        return {run.name: list(run.rows) for run in runs}
    drawings: dict[str, list[str]] = defaultdict(list)
    rows = {}
    for run in runs:
        for site in run.sites:
            if (data := run.data_of(site)) not in drawings[site]:
                drawings[site].append(data)
        drawn = {site: drawings[site].index(run.data_of(site)) for site in run.sites}
        rows[run.name] = [
            replace(row, patient=row.patient + drawn[row.test_site] * _APART) for row in run.rows
        ]
    return rows


_APART = 10**9  # more patients than a site has


def _cells(rows: Sequence[ScoreRow], regimes: Sequence[str], metric: str) -> tuple[Cell, ...]:
    """Average over folds, and in each over seeds first."""
    by_fold: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for fold in sorted({row.fold for row in rows}):
        of_fold = [row for row in rows if row.fold == fold and row.metric == metric]
        for (regime, train, test), patients in patient_means(of_fold).items():
            owner = THE_OTHERS if record_of(regime).foreign_only else train
            by_fold[regime, owner, test].append(site_mean(patients, metric))
    return tuple(
        Cell(
            regime=model[0],
            train_site=model[1],
            test_site=model[2],
            mean=fmean(values),
            sd=stdev(values) if len(values) > 1 else None,
            folds=len(values),
        )
        for model, values in sorted(
            by_fold.items(), key=lambda item: (regimes.index(item[0][0]), item[0])
        )
    )
