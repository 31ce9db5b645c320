"""From rows of scores to the means that tables show.

Aggregation, everywhere: a case is the mean of its labels, a patient the mean of their cases in each
seed and then of the seeds, a test site what the metric says of its patients (the mean), foreign the
unweighted mean of the other test sites.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from hyfree_ray.evaluation.metrics import METRICS
from hyfree_ray.evaluation.scores import PRIMARY, ScoreRow

Tested = Literal["own", "foreign"]
_Model = tuple[str, str, str]
_Patients = dict[int, dict[int, float]]
"""Patient to seed to value."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One regime's models, of one site or of all, on own or foreign test cases."""

    regime: str
    tested: Tested
    counts: dict[str, int]
    values: Mapping[str, float | None]
    """By metric; None where nothing was measured."""

    @property
    def primary(self) -> float | None:
        """Of the metric that models are compared by."""
        return self.values.get(PRIMARY)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: metrics stand beside the rest."""
        rest = {"regime": self.regime, "tested": self.tested, "counts": self.counts}
        return {**rest, **self.values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Score:
        """Read what `to_json` wrote."""
        metrics = dict(values)
        rest = {name: metrics.pop(name) for name in ("regime", "tested", "counts")}
        return cls(**rest, values=metrics)


def patient_means(rows: Iterable[ScoreRow]) -> dict[_Model, _Patients]:
    """Of one metric: for every model and test site, a patient's mean in each seed."""
    labels: dict[tuple[_Model, int, int, int], list[float]] = defaultdict(list)
    for row in rows:
        model = (row.regime, row.train_site, row.test_site)
        labels[model, row.patient, row.seed, row.case].append(row.value)
    cases: dict[tuple[_Model, int, int], list[float]] = defaultdict(list)
    for (model, patient, seed, _), values in labels.items():
        cases[model, patient, seed].append(fmean(values))
    means: dict[_Model, _Patients] = defaultdict(lambda: defaultdict(dict))
    for (model, patient, seed), values in cases.items():
        means[model][patient][seed] = fmean(values)
    return {model: dict(patients) for model, patients in means.items()}


def site_mean(patients: Mapping[int, Mapping[int, float]], metric: str) -> float:
    """A test site's: every patient weighs the same, however many seeds it was seen with."""
    return METRICS[metric].aggregate(fmean(by_seed.values()) for by_seed in patients.values())
