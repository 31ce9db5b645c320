"""Whether one model is better than another on the same patients, and how sure that is.

A patient is the unit everywhere: images of one patient, folds and seeds are never counted as if
they were independent. Legend: P patients, S seeds of the training, R resamples.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import model_serializer
from scipy.stats import bootstrap, norm, rankdata, wilcoxon

from hyfree_ray.results.uncertainty import CONFIDENCE, Noise, noise_of

Verdict = Literal["helped", "worse", "no harm", "cannot tell"]

MIN_PATIENTS = 10
"""Test patients from which on an interval is given."""
MIN_PATIENTS_AT_A_SITE = 3
"""Of each test site: two say next to nothing of how patients differ."""
MIN_SEEDS = 3
"""Seeds from which on a sentence is about the method, and not about the runs that were seen."""
NO_HARM = 0.01
"""Dice: where the interval excludes a greater loss, a model may be said not to hurt."""
MAX_PATIENTS_NEEDED = 10_000
"""Numbers of patients beyond this are not worth telling apart."""
MAX_SEEDS_NEEDED = 100
"""Nor are numbers of seeds."""
RESAMPLES = 10_000
_BATCH = 500  # resamples at a time, so that memory does not grow with the number of patients

_Values = npt.NDArray[np.float64]
Strata = Sequence[_Values]
"""For every test site the paired differences, (P,) or (P, S); NaN where a patient lacks a seed."""
Factors = Sequence[Sequence[int]]
"""For every source of training noise, seeds first, a label a column: (S,) each."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Dice of the first regime minus Dice of the second, on the same test patients."""

    first: str
    second: str
    site: str | None
    """Whose models; None for the mean over all sites."""
    tested: Literal["own", "foreign"]
    difference: float | None
    """None where one of the two was not scored."""
    low: float | None
    high: float | None
    """The 95 % interval, over patients and, of several, over seeds (see `interval`)."""
    patients: int
    reason: str
    """Why there is no interval; empty where there is one."""
    seeds: int = 1
    needed: int | None = None
    """Patients with which a difference of this size would be seen four times in five; None where
    no number of them would do."""
    seeds_needed: int | None = None
    """Seeds with which it would be seen in the patients that there are, where more patients would
    not do; None where neither would."""
    effect: float | None = None
    """Rank-biserial correlation of the pairs (Kerby 2014): from -1, all lost, to 1, all gained."""
    p: float | None = None
    """Wilcoxon's signed-rank test, two-sided, by patient."""
    p_holm: float | None = None
    """`p` after Holm's correction for all contrasts of the same two regimes."""
    p_paper: float | None = None
    """The paper's test: the same one-sided, over all folds, after Bonferroni's correction."""

    @property
    def unchanged(self) -> bool:
        """Both are the same model: the difference is nought, and so is its interval."""
        return self.difference == 0 and {self.low, self.high} <= {None, 0.0}

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to say, and never more."""
        if self.low is None or self.high is None:
            return "cannot tell"
        if self.low > 0:
            return "helped"
        if self.high < 0:
            return "worse"
        return "no harm" if self.low >= -NO_HARM else "cannot tell"

    def describe(self) -> str:
        """Return the verdict: of the method where there are seeds enough, else of these runs."""
        if self.difference is None:
            return self.reason
        if self.unchanged:
            return "no change"
        lasting = self.seeds >= MIN_SEEDS
        if self.verdict == "helped":
            return "helps" if lasting else "helped"
        if self.verdict == "cannot tell":
            return self._cannot_tell()
        assert self.low is not None
        loss = f"{math.ceil(-self.low * 1000) / 1000:.3f}".replace("0.", ".", 1)
        if self.verdict == "worse":
            hurt = "hurts" if lasting else "hurt"
            return f"{hurt}, no more than {loss}" if self.low >= -NO_HARM else hurt
        no_harm = f"{'does' if lasting else 'did'} not hurt"
        return f"{no_harm} more than {loss}" if self.low < 0 else no_harm

    def _cannot_tell(self) -> str:
        if self.needed is not None:
            about = f"about {self.needed:,}"
            if self.needed > MAX_PATIENTS_NEEDED:
                about = f"over {MAX_PATIENTS_NEEDED:,}"
            return f"cannot tell with {self.patients} patients: {about} would be needed"
        if self.reason or self.seeds < 2:
            return f"cannot tell ({self.reason or f'{self.patients} patients'})"
        wanted = "more of both" if self.seeds_needed is None else f"about {self.seeds_needed} seeds"
        there = f"{self.patients} patients and {self.seeds} seeds"
        return f"cannot tell with {there}: {wanted} would be needed"

    def format_interval(self) -> str:
        """Return the difference with its interval."""
        if self.difference is None:
            return "-"
        if self.low is None or self.high is None:
            return format_difference(self.difference)
        numbers = [format_difference(value) for value in (self.difference, self.low, self.high)]
        return "{} [{}, {}]".format(*numbers)

    @property
    def words(self) -> str:
        """The numbers and the words, in one line; where nothing changed there are no numbers."""
        if self.difference is None or self.unchanged:
            return self.describe()
        return f"{self.format_interval()} {self.describe()}"

    @model_serializer
    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, the verdict and the words among them."""
        return {**vars(self), "verdict": self.verdict, "words": self.words}


def format_difference(value: float) -> str:
    """Write a difference of Dice: +.012."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def contrast(
    first: str,
    second: str,
    site: str | None,
    tested: Literal["own", "foreign"],
    strata: Strata,
    *,
    seed: int,
    factors: Factors | None = None,
) -> Contrast:
    """Return the mean paired difference with its interval and its test.

    Args:
        strata: the estimate is the unweighted mean of the test sites' means.
        seed: of the resampling, where there is one.
        factors: what the columns of the strata share; None: each is a seed.
    """
    strata = [_by_seed(stratum) for stratum in strata if len(stratum)]
    patients = sum(len(stratum) for stratum in strata)
    found = Contrast(
        first=first,
        second=second,
        site=site,
        tested=tested,
        difference=None,
        low=None,
        high=None,
        patients=patients,
        reason="",
    )
    if not strata:
        return replace(found, reason=f"{first} and {second} were not both scored here")
    means = [np.nanmean(stratum_PS, axis=1) for stratum_PS in strata]
    seen_S = np.any([np.isfinite(stratum_PS).any(axis=0) for stratum_PS in strata], axis=0)
    columns = [int(column) for column in np.flatnonzero(seen_S)]
    found = replace(
        found,
        difference=float(np.mean([mean_P.mean() for mean_P in means])),
        seeds=len({factors[0][column] for column in columns} if factors else columns),
    )
    if (smallest := min(len(mean_P) for mean_P in means)) < MIN_PATIENTS_AT_A_SITE:
        few = patients < MIN_PATIENTS or len(means) == 1
        those = f"{smallest} patient{'' if smallest == 1 else 's'}"
        return replace(found, reason=f"{patients} patients" if few else f"a site with {those}")
    found = _with_needed(found, strata, factors)
    if patients < MIN_PATIENTS:
        return replace(found, reason=f"{patients} patients")
    low, high = interval(strata, seed, factors)
    pairs = np.concatenate(means)
    return replace(
        found,
        low=low,
        high=high,
        effect=rank_biserial(pairs),
        p=_wilcoxon(pairs, "two-sided"),
        p_paper=_wilcoxon(pairs, "greater"),
    )


def corrected(contrasts: Iterable[Contrast]) -> tuple[Contrast, ...]:
    """Return the contrasts of one family, p-values corrected for how many they are."""
    found = list(contrasts)
    tested = sorted(
        (one.p, k, one.p_paper) for k, one in enumerate(found) if one.p is not None
    )  # fmt: skip
    holm = 0.0
    for rank, (p, k, one_sided) in enumerate(tested):
        holm = max(holm, min(1.0, p * (len(tested) - rank)))  # Holm 1979
        assert one_sided is not None
        paper = min(1.0, one_sided * len(tested))
        found[k] = replace(found[k], p_holm=holm, p_paper=paper)
    return tuple(found)


def interval(strata: Strata, seed: int, factors: Factors | None = None) -> tuple[float, float]:
    """Return the 95 % interval of the unweighted mean of the strata's means.

    With one seed the stratified percentile bootstrap over patients (Efron 1979), expanded for
    small samples (Hesterberg, The American Statistician 69, 2015, section 5.3): the plain one is
    narrower than Student's t and holds the truth in 88 % where sites have 4 to 18 test patients.
    Tried on drawn numbers, sites as uneven as the phantom's, Polyp's and Lung's: this one holds it
    in 93 to 95 % if patients differ normally and 89 to 93 % if they do so exponentially, where
    Student's t holds it in 88 to 93 %.

    With more seeds the mean plus and minus what `uncertainty.Noise` reaches: percentiles over so
    few seeds are too narrow, however these are drawn again. Tried on drawn numbers, patients with
    all seeds, with one seed each and in between, training noise from none to a multiple of the
    patients': it holds the truth in 95 to 99 % with three seeds and five, in 94 to 99 % with two,
    which tell so little of training noise that it is several times as wide.

    Args:
        strata: `MIN_PATIENTS_AT_A_SITE` patients or more each.
        seed: of the resampling, where there is one.
        factors: what the columns of the strata share; None: each is a seed.
    """
    strata = [_by_seed(stratum) for stratum in strata]
    noise = _noise(strata, factors)
    if noise.trainings:
        reach = noise.reach((1 + CONFIDENCE) / 2)
        middle = float(np.mean([np.nanmean(stratum_PS, axis=1).mean() for stratum_PS in strata]))
        return middle - reach, middle + reach

    def statistic(*samples: _Values, axis: int) -> _Values:
        means: _Values = np.mean([sample.mean(axis) for sample in samples], axis=0)
        return means

    # The quantiles at which a normal distribution is as wide as Student's t.
    of_t = noise.patients.quantile((1 + CONFIDENCE) / 2)
    found = bootstrap(
        tuple(_expanded(np.nanmean(stratum_PS, axis=1)) for stratum_PS in strata),
        statistic,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        confidence_level=1 - 2 * norm.sf(of_t),
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _expanded(values_P: _Values) -> _Values:
    """Move values apart as far as their patients: resamples spread like P, not P - 1."""
    middle = values_P.mean()
    expanded_P: _Values = middle + (values_P - middle) * math.sqrt(
        len(values_P) / (len(values_P) - 1)
    )
    return expanded_P


def _with_needed(found: Contrast, strata: Strata, factors: Factors | None) -> Contrast:
    """Add how many patients would show the difference, or, where none would, how many seeds.

    Test patients, spread over the sites as now: four times in five the 95 % interval then excludes
    zero, if the difference and all that moves it are what they are here.
    """
    noise = _noise(strata, factors)
    if not noise.trainings and noise.patients.variance == 0.0:
        return found  # how patients differ is not known
    assert found.difference is not None
    difference, patients = found.difference, found.patients

    def shown(number: int) -> bool:
        return noise.with_patients(number / patients).shows(difference)

    if not noise.trainings:
        numbers = range(MIN_PATIENTS, MAX_PATIENTS_NEEDED + 1)
        needed = MIN_PATIENTS + bisect_left(numbers, True, key=shown)
        if needed not in numbers:
            return replace(found, needed=MAX_PATIENTS_NEEDED + 1)
        return replace(found, needed=_two_digits(needed))
    # Of trainings, patients alone may show it where more of them do not: the fewer seeds there
    # are, the wider is the quantile of what is left when patients are many.
    if few := next((number for number in _TOLD_APART if shown(number)), None):
        return replace(found, needed=few)
    if factors is not None and len(set(factors[0])) < 2:
        return found  # what is known of training noise is not of seeds
    seeds = range(2, MAX_SEEDS_NEEDED + 1)
    more = (number for number in seeds if noise.with_levels(number).shows(difference))
    return replace(found, seeds_needed=next(more, None))


def _noise(strata: Strata, factors: Factors | None) -> Noise:
    return noise_of(strata, [range(strata[0].shape[1])] if factors is None else factors)


def _two_digits(number: int) -> int:
    step = int(10 ** max(0, math.floor(math.log10(number)) - 1))  # it is an estimate
    return max(MIN_PATIENTS, math.ceil(number / step) * step)


_TOLD_APART = sorted({_two_digits(n) for n in range(MIN_PATIENTS, MAX_PATIENTS_NEEDED + 1)})


def rank_biserial(differences_P: _Values) -> float:
    """Return the share of ranks that were gained minus the share lost; zeros have no rank."""
    moved = differences_P[differences_P != 0]
    if not len(moved):
        return 0.0
    ranks = rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def _wilcoxon(differences_P: _Values, alternative: str) -> float:
    if not differences_P.any():
        return 1.0
    return float(wilcoxon(differences_P, alternative=alternative).pvalue)


def _by_seed(stratum: _Values) -> _Values:
    values_PS: _Values = np.asarray(stratum, dtype=np.float64).reshape(len(stratum), -1)
    return values_PS
