"""From the scores of runs to means and to differences between models on the same patients.

A mask that is rightly empty has no Dice, so that a model's own mean leaves it out, as nnU-Net's
evaluator does. A difference between two models does not, else a false alarm would cost nothing: it
is over all masks of which any model here has a Dice. A model without one was right: against a
false alarm, which has 0, that counts as 1, and where both were right they do not differ.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.metrics import metrics_in_order
from hyfree_ray.evaluation.regimes import (
    CONTROL,
    candidates,
    in_order,
    primary,
    protocol,
    record_of,
)
from hyfree_ray.evaluation.scores import PRIMARY, ScoreRow
from hyfree_ray.results.contrasts import (
    Contrast,
    Estimate,
    Factors,
    Strata,
    Tested,
    estimate,
    simultaneous,
)
from hyfree_ray.results.means import patient_means, site_mean
from hyfree_ray.results.summary import (
    TESTED,
    Score,
    SiteOutcome,
    SiteSummary,
    Summary,
)
from hyfree_ray.results.verdicts import Verdict, verdicts

ONE_RUN = "this run; training noise not included"

Counts = Mapping[tuple[str, str, str], Mapping[str, int]]
"""(regime, train site, test site) to outcome (see metrics.py) to how many."""
_Model = tuple[str, str, str]


def summarise(
    run: str,
    rows: Iterable[ScoreRow],
    *,
    counts: Counts,
    outcomes: Sequence[SiteOutcome],
    notes: Sequence[str] = (),
    warning: str = "",
    too_short: str = "",
) -> Summary:
    """Build the summary of a run.

    Args:
        rows: of one run, which has one seed.
        counts: how many masks had which outcome. Cases that are empty in prediction and
            reference alike have no row, so the rows do not tell.
        outcomes: one a site.
        notes: to be printed below the tables.
        warning: why no number means anything; empty where they do.
        too_short: see `learned.describe_unlearned`.
    """
    rows = list(rows)
    outcomes = sorted(outcomes, key=lambda outcome: outcome.site)
    table = _Table(rows, counts, tuple(outcome.site for outcome in outcomes))
    regimes = in_order({row.regime for row in rows})
    sites = tuple(
        SiteSummary(outcome=outcome, scores=table.scores(regimes, outcome.site))
        for outcome in outcomes
    )
    estimates = _estimates(table, contrasted(regimes))
    contrasts = read_together(estimates)
    return Summary(
        verdicts=verdicts_of(estimates, contrasts, outcomes, warning=warning),
        warning=warning,
        too_short=too_short,
        run=run,
        regimes=regimes,
        sites=sites,
        overall=tuple(_overall(sites, regime, tested) for regime, tested in _pairs(regimes)),
        contrasts=contrasts,
        caveat=ONE_RUN,
        notes=tuple(notes),
    )


class _Table:
    """Patients' means of every model on every test site, by metric."""

    def __init__(self, rows: Sequence[ScoreRow], counts: Counts, sites: tuple[str, ...]) -> None:
        self.sites = sites
        self.counts = counts
        self.seeds = sorted({row.seed for row in rows})
        self.means = {
            metric.name: patient_means(row for row in rows if row.metric == metric.name)
            for metric in metrics_in_order(row.metric for row in rows)
        }
        self._masks: dict[_Model, dict[tuple[int, int], dict[tuple[int, str], float]]] = (
            defaultdict(lambda: defaultdict(dict))
        )
        self._known: dict[tuple[str, int, int], set[tuple[int, str]]] = defaultdict(set)
        """The masks of a test site's patient, in a seed, of which any model has a Dice."""
        self._folds: dict[tuple[str, int, int], int] = {}
        self._scored: set[tuple[_Model, int, int]] = set()
        for row in rows:
            if row.metric == PRIMARY:
                model = (row.regime, row.train_site, row.test_site)
                self._masks[model][row.patient, row.seed][row.case, row.label] = row.value
                whose = (row.test_site, row.patient, row.seed)
                self._known[whose].add((row.case, row.label))
                self._folds[whose] = row.fold
                self._scored.add((model, row.seed, row.fold))

    def foreign(self, site: str) -> tuple[str, ...]:
        return tuple(other for other in self.sites if other != site)

    def scores(self, regimes: Sequence[str], site: str) -> tuple[Score, ...]:
        return tuple(self._score(regime, site, tested) for regime, tested in _pairs(regimes))

    def _score(self, regime: str, site: str, tested: Tested) -> Score:
        tests = (site,) if tested == "own" else self.foreign(site)
        if _left_out(regime):
            tests = () if tested == "own" else (site,)
        counts: dict[str, int] = defaultdict(int)
        for test in tests:
            for outcome, number in self._of_model(self.counts, regime, site, test).items():
                counts[outcome] += number
        measured = {
            metric: _mean(
                site_mean(patients, metric)
                for test in tests
                if (patients := self._of_model(means, regime, site, test))
            )
            for metric, means in self.means.items()
        }
        return Score(regime=regime, tested=tested, counts=dict(counts), values=measured)

    def model(self, regime: str, owner: str, test: str) -> _Model | None:
        """Return a site's model of this regime, or the one of all sites; None: not scored."""
        owners = (test if _left_out(regime) else owner, POOL)
        keys = ((regime, name, test) for name in owners)
        return next((key for key in keys if key in self._masks), None)

    def patients(self, test: str) -> list[int]:
        """Return those of a test site of whom any model has a Dice."""
        return sorted({patient for site, patient, _ in self._known if site == test})

    def learned(self, *regimes: str) -> bool:
        """Return whether any model of these regimes found anything at all."""
        return any(
            value > 0
            for model, patients in self._masks.items()
            if model[0] in regimes
            for masks in patients.values()
            for value in masks.values()
        )

    def difference(self, one: _Model, other: _Model, patient: int, seed: int) -> float:
        """Return that of a patient's Dice with two models; NaN where one was not scored."""
        whose = (one[2], patient, seed)
        fold = self._folds.get(whose)
        if fold is None or not {(one, seed, fold), (other, seed, fold)} <= self._scored:
            return math.nan
        mine, others = (self._masks[model].get((patient, seed), {}) for model in (one, other))
        cases: dict[int, list[float]] = defaultdict(list)
        for case, label in sorted(self._known[whose]):
            if (apart := _apart(mine.get((case, label)), others.get((case, label)))) is not None:
                cases[case].append(apart)
        return fmean(map(fmean, cases.values())) if cases else math.nan

    def _of_model(
        self, values: Mapping[_Model, Mapping[Any, Any]], regime: str, site: str, test: str
    ) -> Mapping[Any, Any]:
        """Return what a site's model, or the one that belongs to no site, got on a test."""
        return values.get((regime, site, test)) or values.get((regime, POOL, test), {})


def _apart(one: float | None, other: float | None) -> float | None:
    """Return the difference of two Dice of a mask; None where one of them is not known.

    Where one has none and the other is 0, which all who find something in an empty mask get, the
    one without was rightly empty; where neither has one, both were.
    """
    if one is None and other is None:
        return 0.0
    if one is None or other is None:
        empty = {one, other} == {None, 0.0}
        return None if not empty else 1.0 if one is None else -1.0
    return one - other


def contrasted(regimes: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs that are compared: the protocol's, and those that were asked for."""
    names = in_order({*regimes, *protocol()})
    compared = [one for one in map(record_of, names) if one.control in names]
    compared.sort(key=lambda one: not one.primary)
    return tuple((one.name, str(one.control)) for one in compared)


def contrasts_of(
    rows: Sequence[ScoreRow],
    sites: tuple[str, ...],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> tuple[Contrast, ...]:
    """Return the contrasts of rows of one run or more, which are read together.

    Args:
        rows: equal indices are equal patients, whatever the run.
        sites: whose models and test cases.
        pairs: of regimes; None for those of `contrasted`.
    """
    return read_together(estimates_of(rows, sites, pairs=pairs))


def estimates_of(
    rows: Sequence[ScoreRow],
    sites: tuple[str, ...],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    trainings: Mapping[int, tuple[int, ...]] | None = None,
) -> tuple[Estimate, ...]:
    """Return what contrasts are made of, once it is known which of them are read together.

    Args:
        rows: as for `contrasts_of`, as are sites and pairs.
        trainings: what the rows' seeds stand for, a label for each source of training noise;
            None: for themselves.
    """
    pairs = contrasted(in_order({row.regime for row in rows})) if pairs is None else pairs
    table = _Table(rows, {}, sites)
    if trainings is None:
        return _estimates(table, pairs)
    factors = zip(*(trainings[column] for column in table.seeds), strict=True)
    return _estimates(table, pairs, list(factors))


def shared_model(estimates: Iterable[Estimate]) -> str:
    """Return the regime of the question that is stated before: does it beat the control?

    Of the models that a site may keep and that know of other sites, the one that should travel
    best, whatever the scores are.
    """
    compared = {
        one.plain.first
        for one in estimates
        if one.plain.second == CONTROL and one.plain.difference is not None
    }
    known = [name for name in candidates(compared) if record_of(name).releases != "none"]
    return next((name for name in known if name in compared), primary())


def verdicts_of(
    estimates: Sequence[Estimate],
    contrasts: Sequence[Contrast],
    outcomes: Iterable[SiteOutcome],
    *,
    warning: str = "",
) -> tuple[Verdict, ...]:
    """Return what each hospital is told, in the order of the outcomes.

    Args:
        estimates: of all contrasts.
        contrasts: the same, read together.
        outcomes: one a hospital and run.
        warning: why no number means anything; empty where they do.
    """
    return verdicts(
        [outcome.part() for outcome in outcomes],
        estimates,
        contrasts,
        shared_model(estimates),
        warning=warning,
    )


def read_together(estimates: Sequence[Estimate]) -> tuple[Contrast, ...]:
    """Give each contrast its part of the 5 %: the question stated before has half of them."""
    question = (shared_model(estimates), CONTROL)
    stated = [k for k, e in enumerate(estimates) if (e.plain.first, e.plain.second) == question]
    return simultaneous(estimates, stated)


def _estimates(
    table: _Table, pairs: Iterable[tuple[str, str]], factors: Factors | None = None
) -> tuple[Estimate, ...]:
    return tuple(one for pair in pairs for one in _of_pair(table, *pair, factors))


def _of_pair(table: _Table, first: str, second: str, factors: Factors | None) -> Iterable[Estimate]:
    least: dict[str, tuple[float, str]] = {}
    for site in (*table.sites, None):
        for tested in ("foreign",) if _left_out(first) else TESTED:
            strata = _strata(table, first, second, site, tested)
            found = estimate(first, second, site, tested, strata, factors=factors)
            if found.noise is not None and not table.learned(first, second):
                reason = f"every Dice of {first} and {second} is 0"
                found = Estimate(plain=replace(found.plain, reason=reason))
            difference = found.plain.difference
            if site is not None and difference is not None:
                least[tested] = min(least.get(tested, (math.inf, "")), (difference, site))
            elif site is None and difference is not None and tested in least:
                worst, name = least[tested]
                found = replace(found, plain=replace(found.plain, worst=worst, worst_site=name))
            yield found


def _strata(table: _Table, first: str, second: str, site: str | None, tested: str) -> Strata:
    """Return for every test site one paired difference a patient and seed, (P, S)."""
    at_home = tested == "own" or _left_out(first)
    tests = table.sites if site is None else (site,) if at_home else table.foreign(site)
    strata = []
    for test in tests:
        if site is None or _left_out(first):
            owners: tuple[str, ...] = (test,) if tested == "own" else table.foreign(test)
        else:
            owners = (site,)
        models = [
            (table.model(first, owner, test), table.model(second, owner, test)) for owner in owners
        ]
        pairs = [(one, other) for one, other in models if one and other]
        # A patient that several sites' models were tested on is drawn once for all of them.
        rows = [
            [
                fmean(table.difference(*pair, patient, seed) for pair in pairs)
                for seed in table.seeds
            ]
            for patient in (table.patients(test) if pairs else ())
        ]
        known = [row for row in rows if np.isfinite(row).any()]
        strata.append(np.array(known).reshape(len(known), len(table.seeds)))
    return strata


def _left_out(regime: str) -> bool:
    """Return whether models are named after the one site that they know nothing of."""
    return record_of(regime.rpartition(":")[2]).foreign_only


def _pairs(regimes: Sequence[str]) -> list[tuple[str, Tested]]:
    return [(regime, tested) for regime in regimes for tested in TESTED]


def _overall(sites: Sequence[SiteSummary], regime: str, tested: Tested) -> Score:
    scores = [score for site in sites if (score := site.score(regime, tested))]
    counts: dict[str, int] = defaultdict(int)
    for score in scores:
        for outcome, number in score.counts.items():
            counts[outcome] += number
    return Score(
        regime=regime,
        tested=tested,
        counts=dict(counts),
        values={
            name: _mean(score.values[name] for score in scores)
            for name in (scores[0].values if scores else ())
        },
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
