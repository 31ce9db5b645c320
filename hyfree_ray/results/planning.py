"""How many test patients would show a gain that is worth it: a range, from stated assumptions.

Not of the gain that was seen: what a sample's own difference asks for scatters a hundredfold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import chi2, norm

from hyfree_ray.evaluation.uncertainty import CONFIDENCE, Noise
from hyfree_ray.results.contrasts import MIN_PATIENTS

GAIN = 0.05
"""Dice: the gain that is asked for."""
POWER = 0.8
"""Of the samples of so many patients, that show it."""


@dataclass(frozen=True, kw_only=True)
class Patients:
    """A range of numbers of patients, over the sites as now."""

    fewest: int
    most: int

    def describe(self) -> str:
        """Write the range with what it assumes."""
        gain = f"+{GAIN:.2f}".replace("0.", ".", 1)
        return (
            f"{self.fewest:,} to {self.most:,} patients like these would show a gain of {gain} "
            f"elsewhere {100 * POWER:.0f} % of the time (differences spread as here, 90 % range)"
        )


def patients_to_show(noise: Noise, patients: int, share: float) -> Patients | None:
    """Return how many patients show a gain of `GAIN`, by how surely their spread is known.

    Args:
        noise: of the mean over the patients that there are. None is returned where trainings are
            in it, which more patients do not take away, or where patients do not differ.
        patients: that there are.
        share: of the 5 %, that the contrast has.
    """
    if noise.trainings or noise.patients.variance == 0.0:
        return None
    tail = (1.0 - CONFIDENCE) / 2 * share
    wanted = (norm.isf(tail) + norm.ppf(POWER)) ** 2 / GAIN**2
    one = noise.patients.variance * patients * wanted
    freedom = noise.patients.freedom
    low, high = (one * freedom / float(chi2.ppf(q, freedom)) for q in (0.95, 0.05))
    return Patients(fewest=_two_digits(low), most=_two_digits(high))


def _two_digits(number: float) -> int:
    whole = max(MIN_PATIENTS, math.ceil(number))
    step = int(10 ** max(0, math.floor(math.log10(whole)) - 1))  # it is an estimate
    return math.ceil(whole / step) * step
