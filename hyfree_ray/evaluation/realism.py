"""How far synthetic images and labels are from real ones, in units of the real ones' own spread.

Every measure is taken twice: between the synthetic and the real images, and between two halves of
the real ones, by patient: its floor. A measure over its floor says how much worse than real images
something is, on one scale for all of them, so that they can be averaged.

Shapes: N, M images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hyfree_ray.cohorts.label_sets import Labels
from hyfree_ray.evaluation.image_statistics import statistics_of
from hyfree_ray.evaluation.label_statistics import label_distances, label_statistics
from hyfree_ray.evaluation.two_sample import two_sample_accuracy

MIN_PATIENTS = 20
"""Held-out patients below which the images are compared with those of the training patients."""

MIN_HALVED = 4
"""Patients below which there are no two halves to split again."""

HALVINGS = 4
"""Ways to halve the real images, over which a floor is averaged."""

LEAST_FLOOR_OF_IMAGES, LEAST_FLOOR_OF_LABELS = 1e-2, 0.05
"""Differences below these are none, however alike the halves are: 5 % of a structure's share."""
LEAST_EXCESS = 0.1
"""Floor of twice the accuracy over one half: a few images more or less told are no difference."""

_Images = npt.NDArray[np.float32]
_Masks = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A distance to the real images, beside the same between two halves of these."""

    value: float
    floor: float

    @property
    def times_floor(self) -> float:
        """How many times as far as real images are from real images; at least 1."""
        return max(self.value, self.floor) / self.floor


@dataclass(frozen=True, kw_only=True)
class Realism:
    """All measures of a set of images and their labels."""

    accuracy: float
    """Of a classifier that tells the images from real ones; 0.5 is chance."""
    accuracy_floor: float
    """The same between two halves of the real images."""
    images: Mapping[str, Measure]
    """Statistics of the images, without a network."""
    labels: Mapping[str, Measure]
    """Statistics of the labels; none without labels."""

    @property
    def told(self) -> Measure:
        """The accuracy as a distance: 0 at chance, 1 where each image is told."""
        value, floor = (max(0.0, 2 * one - 1) for one in (self.accuracy, self.accuracy_floor))
        return Measure(value=value, floor=max(floor, LEAST_EXCESS))

    @property
    def images_times_floor(self) -> float:
        """The geometric mean of the images' statistics over their floors."""
        return geometric_mean(one.times_floor for one in self.images.values())

    @property
    def labels_times_floor(self) -> float:
        """The same of the labels'; 1 without labels."""
        return geometric_mean(one.times_floor for one in self.labels.values())

    @property
    def groups(self) -> tuple[float, float, float]:
        """The three kinds of measures, each over its floor: classifier, images, labels."""
        return (self.told.times_floor, self.images_times_floor, self.labels_times_floor)

    @property
    def times_floor(self) -> float:
        """One number for all: the three kinds count alike."""
        return geometric_mean(self.groups)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive numbers; 1 for none."""
    logs = np.log(list(values))
    return float(np.exp(logs.mean())) if len(logs) else 1.0


def halves(patients_N: npt.NDArray[np.int64], seed: int) -> list[npt.NDArray[np.bool_]]:
    """Mark one half of the images, `HALVINGS` times; no patient is in both halves."""
    names = np.unique(patients_N)
    rng = np.random.default_rng(seed)
    chosen = (rng.permutation(names)[: len(names) // 2] for _ in range(HALVINGS))
    return [np.isin(patients_N, one) for one in chosen]


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """The real images that others are compared with.

    Args:
        folds: of the classifier's cross-validation.
        steps: of each classifier's training.
    """

    images_NCHW: _Images
    labels_NHW: _Masks
    patients_N: npt.NDArray[np.int64]
    labels: Labels
    """`dataset.json`'s."""
    seed: int
    folds: int = 4
    steps: int = 100

    @cached_property
    def _halves(self) -> list[npt.NDArray[np.bool_]]:
        return halves(self.patients_N, self.seed)

    @cached_property
    def _accuracy_floor(self) -> float:
        half_N = self._halves[0]
        return two_sample_accuracy(
            self.images_NCHW[half_N],
            self.patients_N[half_N],
            self.images_NCHW[~half_N],
            groups_M=self.patients_N[~half_N],
            seed=self.seed,
            folds=self.folds,
            steps=self.steps,
        )

    @cached_property
    def _floors(self) -> dict[str, float]:
        images, labels = [], []
        for half_N in self._halves:
            one, other = self.images_NCHW[half_N], self.images_NCHW[~half_N]
            statistics = statistics_of(one.shape[1])
            images.append({name: distance(one, other) for name, distance in statistics.items()})
            labels.append(
                label_distances(
                    label_statistics(self.labels_NHW[half_N], self.labels),
                    label_statistics(self.labels_NHW[~half_N], self.labels),
                )
            )
        return {
            name: max(float(np.mean([one[name] for one in found])), least)
            for found, least in ((images, LEAST_FLOOR_OF_IMAGES), (labels, LEAST_FLOOR_OF_LABELS))
            for name in found[0]
        }

    def compare(self, images_MCHW: _Images, labels_MHW: _Masks | None) -> Realism:
        """Measure how far images, and their labels where there are any, are from these."""
        accuracy = two_sample_accuracy(
            self.images_NCHW,
            self.patients_N,
            images_MCHW,
            seed=self.seed,
            folds=self.folds,
            steps=self.steps,
        )
        statistics = statistics_of(images_MCHW.shape[1])
        return Realism(
            accuracy=accuracy,
            accuracy_floor=self._accuracy_floor,
            images=self._measures(
                {name: one(images_MCHW, self.images_NCHW) for name, one in statistics.items()}
            ),
            labels={} if labels_MHW is None else self._measures(self._of_labels(labels_MHW)),
        )

    def _of_labels(self, labels_MHW: _Masks) -> dict[str, float]:
        return label_distances(
            label_statistics(labels_MHW, self.labels),
            label_statistics(self.labels_NHW, self.labels),
        )

    def _measures(self, distances: Mapping[str, float]) -> dict[str, Measure]:
        return {
            name: Measure(value=value, floor=self._floors[name])
            for name, value in distances.items()
        }
