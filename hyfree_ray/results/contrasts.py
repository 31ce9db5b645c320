"""Whether one model is better than another on the same patients, and how sure that is.

A patient is the unit everywhere: images of one patient, folds and seeds are never counted as if
they were independent. Words, interval and p of a contrast are one inference: it says "helped" where
the interval lies above nought, and there alone p is under 5 %. Contrasts that are read together
share these 5 % (see `simultaneous`). Legend: P patients, S seeds of the training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import model_serializer
from scipy.special import betaincinv
from scipy.stats import rankdata, wilcoxon

from hyfree_ray.evaluation.uncertainty import CONFIDENCE, Noise, noise_of
from hyfree_ray.results.coverage import Coverage, coverage_at

Verdict = Literal["helped", "worse", "no harm", "cannot tell"]

MIN_PATIENTS = 7
"""Test patients from which on an interval is given: with fewer none was seen to hold."""
MIN_PATIENTS_AT_A_SITE = 3
"""Of each test site: two say next to nothing of how patients differ."""
MIN_SEEDS = 3
"""Seeds from which on a sentence is about the method, and not about the runs that were seen."""
NO_HARM = 0.01
"""Dice: where the interval excludes a greater loss, a model may be said not to hurt."""
GREAT_LOSS = 0.1
"""Dice: patients who lose more are counted, for no interval knows of those who were not seen."""

STATED, FURTHER = "stated before", "further"
"""Families of contrasts that are read together: those of the question that is stated before any
score is seen, and all others."""

_Values = npt.NDArray[np.float64]
Strata = Sequence[_Values]
"""For every test site the paired differences, (P,) or (P, S); NaN where a patient lacks a seed."""
Factors = Sequence[Sequence[int]]
"""For every source of training noise, seeds first, a label a column: (S,) each."""
Tested = Literal["own", "foreign"]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Dice of the first regime minus Dice of the second, on the same test patients."""

    first: str
    second: str
    site: str | None
    """Whose models; None for the mean over all sites."""
    tested: Tested
    difference: float | None
    """None where one of the two was not scored."""
    low: float | None = None
    high: float | None = None
    """The interval: together those of all contrasts in the family hold the truth in 95 %."""
    patients: int
    reason: str = ""
    """Why there is no interval; empty where there is one."""
    seeds: int = 1
    p: float | None = None
    """Two-sided, from the same inference as the interval and for the same family: under .05 where
    the interval leaves out nought, and nowhere else."""
    false: float | None = None
    """Probability that what is said of it is false, by itself; None where nothing is said."""
    family: str = ""
    """With what it shares the 5 %: `STATED` or `FURTHER`; empty: it stands alone."""
    share: float = 1.0
    """Of the 5 %, that is this contrast's."""
    lost: int | None = None
    """Patients who lost more than `GREAT_LOSS`."""
    could_lose: float | None = None
    """Share of patients who could, though they were not seen: Clopper and Pearson 1934, 95 %."""
    worst_site: str = ""
    """Of all sites the one with the least difference; empty where it is one site's contrast."""
    worst: float | None = None
    """Its difference."""
    effect: float | None = None
    """Rank-biserial correlation of the pairs (Kerby 2014): from -1, all lost, to 1, all gained."""
    p_paper: float | None = None
    """The paper's test: Wilcoxon's signed ranks by patient, one-sided, Bonferroni's correction."""

    @property
    def unchanged(self) -> bool:
        """Both are the same model: the difference is nought, and so is its interval."""
        return not self.reason and self.difference == 0 and {self.low, self.high} <= {None, 0.0}

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

    @property
    def coverage(self) -> Coverage | None:
        """How often such intervals were seen to hold the truth, with as many patients."""
        return None if self.low is None else coverage_at(self.patients)

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
            seeds = "" if self.seeds < 2 else f" and {self.seeds} seeds"
            return f"cannot tell ({self.reason or f'{self.patients} patients{seeds}'})"
        assert self.low is not None
        loss = f"{_loss(self.low):.3f}".replace("0.", ".", 1)
        if self.verdict == "worse":
            hurt = "hurts" if lasting else "hurt"
            return f"{hurt}, no more than {loss}" if self.low >= -NO_HARM else hurt
        no_harm = f"{'does' if lasting else 'did'} not hurt"
        return f"{no_harm} more than {loss}" if self.low < 0 else no_harm

    def describe_losses(self) -> str:
        """Return how many patients lost much, and how many could though none was seen."""
        if self.lost is None or self.could_lose is None:
            return ""
        limit = f"{GREAT_LOSS:g}".removeprefix("0")
        number = f"no patient of {self.patients}" if not self.lost else f"{self.lost} of "
        number += f"{self.patients} patients" if self.lost else ""
        return f"{number} lost more than {limit}; up to {math.ceil(100 * self.could_lose)} % could"

    def describe_worst(self) -> str:
        """Return the site that gained least."""
        if self.worst is None:
            return ""
        return f"worst: {self.worst_site} {format_difference(self.worst)}"

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
        worst = f"; {self.describe_worst()}" if self.worst is not None else ""
        return f"{self.format_interval()} {self.describe()}{worst}"

    @model_serializer
    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, the verdict and the words among them."""
        coverage = self.coverage
        return {
            **vars(self),
            "verdict": self.verdict,
            "words": self.words,
            "losses": self.describe_losses(),
            "coverage": None if coverage is None else coverage.to_json(),
        }


def format_difference(value: float) -> str:
    """Write a difference of Dice: +.012."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def _loss(low: float) -> float:
    """Round the greatest loss up, as it is said."""
    return math.ceil(round(-low * 1000, 6)) / 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A difference and all that makes it unsure, before it is known what it is read beside."""

    plain: Contrast
    """Without an interval."""
    noise: Noise | None = None
    """None: it can have none."""
    pairs_P: _Values = field(default_factory=lambda: np.zeros(0))
    """By patient, over the seeds."""

    def contrast(self, *, share: float = 1.0, number: int = 1, family: str = "") -> Contrast:
        """Return the contrast with its interval, its p and the probability that it is false.

        Args:
            share: of the 5 %, that is this contrast's.
            number: of contrasts of all of which the paper's test is asked at once.
            family: what the others are.
        """
        plain, noise = self.plain, self.noise
        if noise is None:
            return plain
        assert plain.difference is not None
        mean = plain.difference
        tail = (1.0 - CONFIDENCE) / 2 * share
        found = replace(
            plain,
            low=max(-1.0, mean - noise.reach(tail, "below")),
            high=min(1.0, mean + noise.reach(tail, "above")),
            p=min(1.0, 2 * noise.probability(abs(mean), "below" if mean > 0 else "above") / share),
            family=family,
            share=share,
            effect=rank_biserial(self.pairs_P),
            p_paper=min(1.0, number * _wilcoxon(self.pairs_P)),
        )
        return replace(found, false=self._probability_false(found))

    def probability_below(self, bound: float) -> float | None:
        """Return how probable it is that the true difference lies below a bound.

        None where that cannot be told.
        """
        if self.noise is None or self.plain.difference is None:
            return None
        return self.noise.probability_below(self.plain.difference, bound)

    def _probability_false(self, found: Contrast) -> float | None:
        assert found.low is not None
        if found.unchanged or found.verdict == "cannot tell":
            return None
        if found.verdict == "worse":
            below = self.probability_below(0.0)
            return None if below is None else 1.0 - below
        return self.probability_below(0.0 if found.verdict == "helped" else -_loss(found.low))


def simultaneous(estimates: Sequence[Estimate], stated: Iterable[int] = ()) -> tuple[Contrast, ...]:
    """Return contrasts that are read together: 5 % of runs may have any false "helped" or "worse".

    `benchmarks/coverage.py` counts them: of normal, exponential and lognormal differences 5 % at
    most, of those that runs recorded up to 10 %.

    Half of the 5 % is for those that were stated before and half for all further ones, in equal
    parts (Bonferroni): so intervals hold together, and agree with words and p. Estimates that can
    have no interval, or are of one model with itself, take no part.

    Args:
        estimates: all that a table shows.
        stated: which of them answer the question that was stated before.
    """
    before = set(stated)
    moved = [k for k, one in enumerate(estimates) if one.noise and one.pairs_P.any()]
    families = {
        STATED: [k for k in moved if k in before],
        FURTHER: [k for k in moved if k not in before],
    }
    halves = sum(bool(members) for members in families.values())
    found = [one.contrast() for one in estimates]
    for family, members in families.items():
        for k in members:
            share = 1.0 / halves / len(members)
            found[k] = estimates[k].contrast(share=share, number=len(moved), family=family)
    return tuple(found)


def contrast(
    first: str,
    second: str,
    site: str | None,
    tested: Tested,
    strata: Strata,
    *,
    factors: Factors | None = None,
) -> Contrast:
    """Return the mean paired difference with its interval and p, read by itself."""
    return estimate(first, second, site, tested, strata, factors=factors).contrast()


def estimate(
    first: str,
    second: str,
    site: str | None,
    tested: Tested,
    strata: Strata,
    *,
    factors: Factors | None = None,
) -> Estimate:
    """Estimate the mean paired difference.

    Args:
        strata: the estimate is the unweighted mean of the test sites' means.
        factors: what the columns of the strata share; None: each is a seed.
    """
    strata = [_by_seed(stratum) for stratum in strata if len(stratum)]
    patients = sum(len(stratum) for stratum in strata)
    plain = Contrast(
        first=first, second=second, site=site, tested=tested, difference=None, patients=patients
    )
    if not strata:
        reason = f"{first} and {second} were not both scored here"
        return Estimate(plain=replace(plain, reason=reason))
    means = [np.nanmean(stratum_PS, axis=1) for stratum_PS in strata]
    seen_S = np.any([np.isfinite(stratum_PS).any(axis=0) for stratum_PS in strata], axis=0)
    columns = [int(column) for column in np.flatnonzero(seen_S)]
    pairs_P = np.concatenate(means)
    lost = int((pairs_P < -GREAT_LOSS).sum())
    plain = replace(
        plain,
        difference=float(np.mean([mean_P.mean() for mean_P in means])),
        seeds=len({factors[0][column] for column in columns} if factors else columns),
        lost=lost,
        could_lose=could_lose(lost, patients),
        reason=_too_few([len(mean_P) for mean_P in means]),
    )
    if plain.reason:
        return Estimate(plain=plain, pairs_P=pairs_P)
    shared = [range(strata[0].shape[1])] if factors is None else factors
    return Estimate(plain=plain, noise=noise_of(strata, shared), pairs_P=pairs_P)


def _too_few(sizes: Sequence[int]) -> str:
    """Return why there is no interval over sites with so many patients; empty where there is."""
    patients, smallest = sum(sizes), min(sizes)
    if patients < MIN_PATIENTS or (len(sizes) == 1 and smallest < MIN_PATIENTS_AT_A_SITE):
        return f"{patients} patient{'' if patients == 1 else 's'}"
    if smallest < MIN_PATIENTS_AT_A_SITE:
        return f"a site with {smallest} patient{'' if smallest == 1 else 's'}"
    return ""


def could_lose(lost: int, patients: int) -> float:
    """Return the share of all patients who could be such as were seen so rarely, to 95 %.

    The upper bound of Clopper and Pearson (Biometrika 26, 1934), one-sided.
    """
    return 1.0 if lost == patients else float(betaincinv(lost + 1, patients - lost, CONFIDENCE))


def interval(strata: Strata, factors: Factors | None = None) -> tuple[float, float]:
    """Return the 95 % interval of the unweighted mean of the strata's means, read by itself.

    See `uncertainty.Noise.reach`; `benchmarks/coverage.py` measures how often it holds the truth.

    Args:
        strata: `MIN_PATIENTS_AT_A_SITE` patients or more each.
        factors: what the columns of the strata share; None: each is a seed.
    """
    strata = [_by_seed(stratum) for stratum in strata]
    noise = noise_of(strata, [range(strata[0].shape[1])] if factors is None else factors)
    middle = float(np.mean([np.nanmean(stratum_PS, axis=1).mean() for stratum_PS in strata]))
    tail = (1.0 - CONFIDENCE) / 2
    return middle - noise.reach(tail, "below"), middle + noise.reach(tail, "above")


def rank_biserial(differences_P: _Values) -> float:
    """Return the share of ranks that were gained minus the share lost; zeros have no rank."""
    moved = differences_P[differences_P != 0]
    if not len(moved):
        return 0.0
    ranks = rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def _wilcoxon(differences_P: _Values) -> float:
    if not differences_P.any():
        return 1.0
    return float(wilcoxon(differences_P, alternative="greater").pvalue)


def _by_seed(stratum: _Values) -> _Values:
    values_PS: _Values = np.asarray(stratum, dtype=np.float64).reshape(len(stratum), -1)
    return values_PS
