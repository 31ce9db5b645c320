"""What the papers read from their experiments: Dice by label, mixtures, ranks, KID beside Dice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from hyfree_ray.border.quality_card import QualityGate, read_quality_card, violations
from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.regimes import record_of
from hyfree_ray.evaluation.scores import PRIMARY, ScoreRow
from hyfree_ray.results.finished import Finished
from hyfree_ray.results.means import patient_means, site_mean
from hyfree_ray.studies.trials import Trial

ALL_LABELS = "mean"
"""Of a patient's labels: the Dice that everything else here is about."""

_POOLED = ("seed", "fold", "contributors")
"""What runs of one line of a table may differ in."""

_OF_DATA = ("data", "phantom", "sites", "partition")

_OF_SYNTHETIC = ("generator", "pairing", "gate", "budget.generator", "budget.synthesis")
"""Fields that change nothing of a training without synthetic images."""

Dice = tuple[float, float | None, int]
"""Mean over runs, their standard deviation where there are two or more, and how many."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Dice of one training on its own hospital's test patients."""

    regime: str
    values: tuple[tuple[str, Any], ...]
    """What distinguishes its line in a table: the grid's values of fields that vary."""
    data_set: str
    seed: int
    fold: int
    dice: Mapping[str, float]
    """By label, and of `ALL_LABELS`."""

    @property
    def method(self) -> str:
        """Return how it was trained, in a few words."""
        return ", ".join([*(str(value) for _, value in self.values), self.regime])


def measure(
    trials: Sequence[Trial], runs: Mapping[str, Finished], regimes: Sequence[str]
) -> list[Measured]:
    """Read the Dice of regimes at their own hospitals; each training once.

    A training without synthetic images is the same whatever the generator: it is read once.

    Args:
        trials: of a study.
        runs: by the trials' names.
        regimes: by name, in the order that lines are to be in.
    """
    found: dict[tuple[Any, ...], Measured] = {}
    cohorts = {run.summary.cohort for run in runs.values()}
    for regime in regimes:
        for trial in trials:
            run = runs[trial.name]
            values = _values_of(trials, trial, regime)
            for site in run.sites:
                dice = _dice_at(run.rows, regime, site)
                if dice:
                    name = site if len(cohorts) == 1 else f"{run.summary.cohort} {site}"
                    one = Measured(
                        regime=regime,
                        values=values,
                        data_set=name,
                        seed=run.seed,
                        fold=run.fold,
                        dice=dice,
                    )
                    found.setdefault((regime, values, name, run.seed, run.fold), one)
    return [*found.values()]


def _values_of(trials: Sequence[Trial], trial: Trial, regime: str) -> tuple[tuple[str, Any], ...]:
    synthetic = record_of(regime).has_synthetic
    return tuple(
        (name, trial.values[name])
        for name in _varied(trials)
        if name not in _OF_DATA and (synthetic or not name.startswith(_OF_SYNTHETIC))
    )


def _varied(trials: Sequence[Trial]) -> list[str]:
    first = trials[0].values
    return [
        name
        for name in first
        if name not in _POOLED and any(one.values[name] != first[name] for one in trials)
    ]


def _dice_at(rows: Sequence[ScoreRow], regime: str, site: str) -> dict[str, float]:
    """Return the Dice of a site's own model, or the one of all sites, on the site's patients."""
    tested = [
        replace(row, train_site=site)
        for row in rows
        if (row.regime, row.metric, row.test_site) == (regime, PRIMARY, site)
        and row.train_site in {site, POOL}
    ]
    labels = sorted({row.label for row in tested})
    chosen = {name: [row for row in tested if row.label == name] for name in labels}
    return {
        name: site_mean(patient_means(of_label)[regime, site, site], PRIMARY)
        for name, of_label in {**chosen, ALL_LABELS: tested}.items()
        if of_label
    }


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a table: trainings that differ in data set, seed and fold alone."""

    regime: str
    values: tuple[tuple[str, Any], ...]
    dice: Mapping[str, Dice]

    @property
    def augmented(self) -> bool:
        """Whether its training's images were augmented."""
        return record_of(self.regime).augmentation != "none"


def lines(measured: Sequence[Measured], regimes: Sequence[str]) -> list[Line]:
    """Average runs: the data sets of a run with equal weight, then mean and spread over runs."""
    grouped: dict[tuple[str, tuple[Any, ...]], dict[tuple[int, int], list[Measured]]] = {}
    for one in measured:
        if one.regime in regimes:
            of_line = grouped.setdefault((one.regime, one.values), {})
            of_line.setdefault((one.seed, one.fold), []).append(one)
    found = [
        Line(regime=regime, values=values, dice=_over_runs([*of_runs.values()]))
        for (regime, values), of_runs in grouped.items()
    ]
    return sorted(found, key=lambda line: regimes.index(line.regime))


def _over_runs(runs: Sequence[Sequence[Measured]]) -> dict[str, Dice]:
    labels = dict.fromkeys(label for run in runs for one in run for label in one.dice)
    return {
        label: _spread(
            [
                fmean(values)
                for run in runs
                if (values := [one.dice[label] for one in run if label in one.dice])
            ]
        )
        for label in labels
    }


def _spread(values: Sequence[float]) -> Dice:
    return fmean(values), stdev(values) if len(values) > 1 else None, len(values)


def mixing_curve(lines_: Sequence[Line]) -> dict[str, list[tuple[float, Dice]]]:
    """Return Dice by the share of synthetic images, a series for each generator.

    Lines without any synthetic image are the point at 0 of every series.
    """
    at_zero = [line for line in lines_ if not record_of(line.regime).has_synthetic]
    found: dict[str, list[tuple[float, Dice]]] = {}
    for line in lines_:
        share = record_of(line.regime).synthetic_share
        if share:
            name = ", ".join(str(value) for _, value in line.values) or "synthetic"
            series = found.setdefault(name, [])
            if not series:
                series += [
                    (0.0, zero.dice[ALL_LABELS])
                    for zero in at_zero
                    if set(zero.values) <= set(line.values)
                ]
            series.append((share, line.dice[ALL_LABELS]))
    return {name: sorted(series) for name, series in found.items()}


def by_data_set(
    measured: Sequence[Measured], regimes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return Dice by method, then by data set, over seeds and folds."""
    found: dict[str, dict[str, list[float]]] = {}
    order = list(dict.fromkeys(one.values for one in measured))
    chosen = [one for one in measured if one.regime in regimes]
    for one in sorted(chosen, key=lambda one: (order.index(one.values), regimes.index(one.regime))):
        of_method = found.setdefault(one.method, {})
        of_method.setdefault(one.data_set, []).append(one.dice[ALL_LABELS])
    return {
        method: {data_set: fmean(values) for data_set, values in of_method.items()}
        for method, of_method in found.items()
    }


@dataclass(frozen=True, kw_only=True)
class Beside:
    """KID of what a generator draws, beside the Dice of a training on it."""

    name: str
    kid: float
    floor: float
    """Between the real training images and held-out ones."""
    dice: float
    runs: int


def kid_beside_dice(
    trials: Sequence[Trial], runs: Mapping[str, Finished], regime: str
) -> list[Beside]:
    """Return both for each line of a regime, over the data sets, seeds and folds that have both."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for trial in trials:
        run = runs[trial.name]
        name = ", ".join(str(value) for _, value in _values_of(trials, trial, regime))
        for site in run.sites:
            card = run.summary.derived.get(site, {}).get("quality_card", {})
            dice = _dice_at(run.rows, regime, site)
            if dice and card.get("kid") is not None:
                both = card["kid"], card["kid_floor"], dice[ALL_LABELS]
                found.setdefault(name or regime, []).append(both)
    return [
        Beside(
            name=name,
            kid=fmean(one[0] for one in pairs),
            floor=fmean(one[1] for one in pairs),
            dice=fmean(one[2] for one in pairs),
            runs=len(pairs),
        )
        for name, pairs in found.items()
    ]


def what_is_missing(trials: Sequence[Trial], runs: Mapping[str, Finished]) -> Iterator[str]:
    """Yield, for each release that was not sent or would not have been, what stopped it."""
    for trial in trials:
        run = runs[trial.name]
        varied = [f"{name} {trial.values[name]}" for name in _varied(trials)]
        named = ", ".join([*varied, f"seed {run.seed}"])
        for site in run.summary.sites:
            outcome = site.outcome
            if outcome.outcome != "released":
                yield f"{named}: {outcome.site} {outcome.outcome}: {outcome.reason or '-'}"
                continue
            derived = run.summary.derived.get(outcome.site, {}).get("quality_card", {})
            if derived.get("card") is None:
                continue
            closed = violations(read_quality_card(derived["card"]), QualityGate())
            if closed:
                yield f"{named}: {outcome.site}: the quality gate was off: {'; '.join(closed)}"
