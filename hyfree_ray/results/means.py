"""From rows of scores to the means that tables show.

Aggregation, everywhere: a case is the mean of its labels, a patient the mean of their cases in each
seed and then of the seeds, a test site what the metric says of its patients (the mean), foreign the
unweighted mean of the other test sites.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean

from hyfree_ray.evaluation.metrics import METRICS
from hyfree_ray.evaluation.scores import ScoreRow

_Model = tuple[str, str, str]
_Patients = dict[int, dict[int, float]]
"""Patient to seed to value."""


def patient_means(rows: Iterable[ScoreRow]) -> dict[_Model, _Patients]:
    """Return, of one metric, a patient's mean in each seed, for every model and test site."""
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
    """Return a test site's mean: every patient weighs the same, in however many seeds."""
    return METRICS[metric].aggregate(fmean(by_seed.values()) for by_seed in patients.values())
