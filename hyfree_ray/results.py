"""What a run found: from its scores to the summary that is printed and kept.

Aggregation, everywhere: a case is the mean of its labels, a patient the mean of their cases, a
test site the mean of its patients, foreign the unweighted mean of the other test sites.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np

from hyfree_ray.contrasts import Contrast, Strata, contrast
from hyfree_ray.regimes import REGIMES
from hyfree_ray.scores import POOL, ScoreRow
from hyfree_ray.seeds import seed_of

CONTRASTS = (
    ("finetuned", "local2x"),
    ("general", "local2x"),
    ("personalised", "local2x"),
    ("chosen", "local2x"),
    ("real-all", "local2x"),
)
"""The first is the primary one: local2x has seen as many steps as general and fine-tuning. The
later ones are made where they were asked for."""
ONE_RUN = "this run; training noise not included"

Tested = Literal["own", "foreign"]
Counts = Mapping[tuple[str, str, str], Mapping[str, int]]
"""(regime, train site or `POOL`, test site) to outcome (see metrics.py) to how many."""
_Patients = dict[int, float]


@dataclass(frozen=True, kw_only=True)
class SiteOutcome:
    """What became of a site's release."""

    site: str
    outcome: Literal["released", "withheld", "refused"]
    """`withheld` by the site, `refused` by the pool."""
    reason: str = ""
    """Why there is no release, in plain words."""
    images: int
    """Synthetic images released."""
    rejection_rate: float | None
    """Share of the samples that looked memorised; None if none were drawn."""
    chosen: str = ""
    """The regime that the site would keep by its validation cases; empty where it was not asked."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One regime's models, of one site or of all, on own or foreign test cases."""

    regime: str
    tested: Tested
    dice: float | None
    hd95: float | None
    """mm; masks that were missed or false alarms count with the image's diagonal."""
    counts: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class SiteSummary:
    """A row of the table."""

    outcome: SiteOutcome
    scores: tuple[Score, ...]

    def score(self, regime: str, tested: Tested) -> Score | None:
        """The score of a regime, None if it was not scored."""
        return _find(self.scores, regime, tested)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The final table as numbers."""

    run: str
    regimes: tuple[str, ...]
    sites: tuple[SiteSummary, ...]
    overall: tuple[Score, ...]
    """Unweighted means over the sites."""
    contrasts: tuple[Contrast, ...]
    caveat: str
    """What no interval here covers; empty if there is nothing to add."""

    def score(self, regime: str, tested: Tested) -> Score | None:
        """A regime's mean over the sites."""
        return _find(self.overall, regime, tested)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without NaN. Contrasts carry their verdict and words."""
        values = dataclasses.asdict(self)
        for written, one in zip(values["contrasts"], self.contrasts, strict=True):
            written |= {"verdict": one.verdict, "words": one.words}
        plain: dict[str, Any] = _rounded(values)
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Summary:
        """What `to_json` wrote; keys that are not the summary's are left alone."""
        names = [field.name for field in dataclasses.fields(Contrast)]
        return cls(
            run=values["run"],
            regimes=tuple(values["regimes"]),
            sites=tuple(
                SiteSummary(
                    outcome=SiteOutcome(**site["outcome"]),
                    scores=tuple(Score(**score) for score in site["scores"]),
                )
                for site in values["sites"]
            ),
            overall=tuple(Score(**score) for score in values["overall"]),
            contrasts=tuple(
                Contrast(**{name: one[name] for name in names}) for one in values["contrasts"]
            ),
            caveat=values["caveat"],
        )


def summarise(
    run: str,
    rows: Iterable[ScoreRow],
    *,
    counts: Counts,
    outcomes: Sequence[SiteOutcome],
    seed: int,
) -> Summary:
    """Build the summary of a run.

    Args:
        rows: of one run; several seeds of a case are averaged.
        counts: how many masks had which outcome. Cases that are empty in prediction and
            reference alike have no row, so the rows do not tell.
        outcomes: one a site.
        seed: of the bootstrap.
    """
    rows = list(rows)
    outcomes = sorted(outcomes, key=lambda outcome: outcome.site)
    table = _Table(rows, counts, tuple(outcome.site for outcome in outcomes))
    found = {row.regime for row in rows}
    regimes = (*(name for name in REGIMES if name in found), *sorted(found - set(REGIMES)))
    sites = tuple(
        SiteSummary(outcome=outcome, scores=table.scores(regimes, outcome.site))
        for outcome in outcomes
    )
    seeds = {row.seed for row in rows}
    return Summary(
        run=run,
        regimes=regimes,
        sites=sites,
        overall=tuple(_overall(sites, regime, tested) for regime, tested in _pairs(regimes)),
        contrasts=tuple(_contrasts(table, found, seed)),
        caveat=ONE_RUN if len(seeds) < 2 else "",
    )


class _Table:
    """Patients' means of every model on every test site."""

    def __init__(self, rows: Sequence[ScoreRow], counts: Counts, sites: tuple[str, ...]) -> None:
        self.sites = sites
        self.counts = counts
        self.dice = _patient_means(row for row in rows if row.metric == "dice")
        self.hd95 = _patient_means(row for row in rows if row.metric == "hd95")

    def foreign(self, site: str) -> tuple[str, ...]:
        return tuple(other for other in self.sites if other != site)

    def scores(self, regimes: Sequence[str], site: str) -> tuple[Score, ...]:
        return tuple(self._score(regime, site, tested) for regime, tested in _pairs(regimes))

    def _score(self, regime: str, site: str, tested: Tested) -> Score:
        tests = (site,) if tested == "own" else self.foreign(site)
        counts: dict[str, int] = defaultdict(int)
        for test in tests:
            for outcome, number in _of_model(self.counts, regime, site, test).items():
                counts[outcome] += number
        dice, hd95 = (
            _mean(
                fmean(patients.values())
                for test in tests
                if (patients := _of_model(means, regime, site, test))
            )
            for means in (self.dice, self.hd95)
        )
        return Score(regime=regime, tested=tested, dice=dice, hd95=hd95, counts=dict(counts))

    def differences(self, first: str, second: str, site: str, test: str) -> _Patients:
        """Of the patients that both models have a score of."""
        one = _of_model(self.dice, first, site, test)
        other = _of_model(self.dice, second, site, test)
        return {patient: one[patient] - other[patient] for patient in sorted(one.keys() & other)}


def _of_model(
    values: Mapping[tuple[str, str, str], Mapping[Any, Any]], regime: str, site: str, test: str
) -> Mapping[Any, Any]:
    """What a site's model of this regime, or the pool's where sites have none, got on a test."""
    return values.get((regime, site, test)) or values.get((regime, POOL, test)) or {}


def _patient_means(rows: Iterable[ScoreRow]) -> dict[tuple[str, str, str], _Patients]:
    labels: dict[tuple[tuple[str, str, str], int, int, int], list[float]] = defaultdict(list)
    for row in rows:
        model = (row.regime, row.train_site, row.test_site)
        labels[model, row.patient, row.case, row.seed].append(row.value)
    cases: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for (model, patient, _, _), values in labels.items():
        cases[model][patient].append(fmean(values))
    return {
        model: {patient: fmean(values) for patient, values in patients.items()}
        for model, patients in cases.items()
    }


def _contrasts(table: _Table, regimes: set[str], seed: int) -> Iterable[Contrast]:
    for number, (first, second) in enumerate(CONTRASTS):
        if number > 1 and first not in regimes:
            continue
        for site in (*table.sites, None):
            for tested in ("own", "foreign"):
                strata = _strata(table, first, second, site, tested)
                one_seed = seed_of(seed, "bootstrap", first, second, site or "", tested)
                yield contrast(first, second, site, tested, strata, seed=one_seed)


def _strata(table: _Table, first: str, second: str, site: str | None, tested: str) -> Strata:
    """For every test site, one paired difference a patient."""
    tests = table.sites if site is None else (site,) if tested == "own" else table.foreign(site)
    strata = []
    for test in tests:
        if site is not None:
            owners: tuple[str, ...] = (site,)
        else:
            owners = (test,) if tested == "own" else table.foreign(test)
        models = [table.differences(first, second, owner, test) for owner in owners]
        models = [model for model in models if model]
        # A patient that several sites' models were tested on is drawn once for all of them.
        shared = sorted(set.intersection(*(set(model) for model in models))) if models else []
        strata.append(np.array([fmean(model[p] for model in models) for p in shared]))
    return strata


def _pairs(regimes: Sequence[str]) -> list[tuple[str, Tested]]:
    return [(regime, tested) for regime in regimes for tested in _TESTED]


_TESTED: tuple[Tested, ...] = ("own", "foreign")


def _overall(sites: Sequence[SiteSummary], regime: str, tested: Tested) -> Score:
    scores = [score for site in sites if (score := site.score(regime, tested))]
    counts: dict[str, int] = defaultdict(int)
    for score in scores:
        for outcome, number in score.counts.items():
            counts[outcome] += number
    return Score(
        regime=regime,
        tested=tested,
        dice=_mean(score.dice for score in scores),
        hd95=_mean(score.hd95 for score in scores),
        counts=dict(counts),
    )


def _find(scores: Sequence[Score], regime: str, tested: Tested) -> Score | None:
    found = (score for score in scores if (score.regime, score.tested) == (regime, tested))
    return next(found, None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) + 0.0
    if isinstance(value, Mapping):
        return {key: _rounded(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(member) for member in value]
    return value
