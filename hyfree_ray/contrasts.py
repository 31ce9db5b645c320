"""Whether one model is better than another on the same patients, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

Verdict = Literal["helped", "did not", "cannot tell"]

LEAST_PATIENTS = 10
"""Test patients from which on an interval is given."""
RESAMPLES = 10_000
_CONFIDENCE = 0.95
_BATCH = 500  # resamples at a time, so that memory does not grow with the number of patients

Strata = Sequence[npt.NDArray[np.float64]]


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
    """The 95 % percentile interval of a bootstrap over patients."""
    patients: int
    reason: str
    """Why there is no interval; empty where there is one."""

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to say, and never more."""
        if self.low is not None and self.low > 0:
            return "helped"
        if self.high is not None and self.high < 0:
            return "did not"
        return "cannot tell"

    @property
    def words(self) -> str:
        """The verdict with its numbers, in one line."""
        if self.difference is None:
            return self.reason
        if self.low is None or self.high is None:
            return f"{signed(self.difference)} cannot tell ({self.reason})"
        said = "did not, it hurt" if self.verdict == "did not" else self.verdict
        return f"{signed(self.difference)} [{signed(self.low)}, {signed(self.high)}] {said}"


def signed(value: float) -> str:
    """A difference of Dice as it is printed: +.012."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def contrast(
    first: str,
    second: str,
    site: str | None,
    tested: Literal["own", "foreign"],
    strata: Strata,
    *,
    seed: int,
) -> Contrast:
    """Mean paired difference with its interval.

    Args:
        strata: for every test site one difference a patient. The estimate is the unweighted mean
            of the sites' means; patients are drawn again within their site.
        seed: of the resampling.
    """
    strata = [stratum for stratum in strata if len(stratum)]
    patients = sum(len(stratum) for stratum in strata)
    low = high = difference = None
    reason = ""
    if not strata:
        reason = f"{first} and {second} were not both scored here"
    else:
        difference = float(np.mean([stratum.mean() for stratum in strata]))
        if patients < LEAST_PATIENTS:
            reason = f"{patients} patients"
        elif min(len(stratum) for stratum in strata) < 2:
            reason = "a site with 1 patient"
        else:
            low, high = interval(strata, seed)
    return Contrast(
        first=first,
        second=second,
        site=site,
        tested=tested,
        difference=difference,
        low=low,
        high=high,
        patients=patients,
        reason=reason,
    )


def interval(strata: Strata, seed: int) -> tuple[float, float]:
    """Stratified percentile bootstrap (Efron 1979) of the unweighted mean of the strata's means.

    Args:
        strata: two or more numbers each.
    """

    def statistic(*samples: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
        means: npt.NDArray[np.float64] = np.mean([sample.mean(axis) for sample in samples], axis=0)
        return means

    found = bootstrap(
        tuple(strata),
        statistic,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        confidence_level=_CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
