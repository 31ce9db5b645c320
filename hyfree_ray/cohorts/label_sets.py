"""What the labels of nnU-Net's `dataset.json` mean: classes, regions made of them, and `ignore`.

    {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "ignore": 4}

A class is a value of a label map; a region is a list of classes, and regions may overlap. Pixels
of the value `ignore` were not annotated: nothing is learned or scored there.

Between parties a label is its name: each numbers the structures as its own data do, and what it
gets from another is brought to its own values.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyfree_ray.core.errors import HyfreeError

Labels = Mapping[str, Any]
"""Names to a class (a number) or a region (a list of classes), in nnU-Net's order."""

BACKGROUND = "background"
IGNORE = "ignore"

MAX_VALUES = 256
"""Label maps are of 8 bits where they travel."""


def read_labels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The labels of a parsed `dataset.json`: classes by value, regions in the order they have.

    nnU-Net gives each region an output in that order, so it is part of what the labels are.

    Raises:
        HyfreeError: they are not what nnU-Net takes.
    """
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise HyfreeError(
            "data.bad-labels",
            'dataset.json: labels must be like {"background": 0, "organ": 1}; correct them',
        )
    for name, value in labels.items():
        classes = value if isinstance(value, list) and value and name != IGNORE else [value]
        if any(isinstance(one, bool) or not isinstance(one, int) for one in classes):
            raise HyfreeError(
                "data.bad-labels",
                f"dataset.json: label {name!r} must be a whole number, or a list of them (a"
                " region); correct it",
            )
    if labels.get(BACKGROUND) != 0:
        raise HyfreeError(
            "data.bad-labels",
            'dataset.json: nnU-Net requires "background": 0 in labels; add it',
        )
    classes = sorted(class_values(labels))
    known = classes + ([labels[IGNORE]] if IGNORE in labels else [])
    if len(known) > MAX_VALUES:
        raise HyfreeError(
            "data.bad-labels",
            f"dataset.json: {len(known)} label values; at most {MAX_VALUES} allowed, merge some",
        )
    if len(classes) < 2 or known != list(range(len(known))):
        raise HyfreeError(
            "data.bad-labels",
            "dataset.json: label values must be 0 (background), 1, 2, ... without gaps, with that"
            " of ignore, if any, the highest; renumber them",
        )
    if not has_regions(labels):
        if len(labels) != len(known):
            raise HyfreeError(
                "data.bad-labels", "dataset.json: two labels have the same value; give each its own"
            )
        return {name: _scalar(value) for name, value in sorted(labels.items(), key=_by_value)}
    order = dataset.get("regions_class_order")
    regions = len(foreground(labels))
    if not isinstance(order, list) or len(order) != regions or sorted(order) != classes[1:]:
        raise HyfreeError(
            "data.bad-regions",
            f"dataset.json: regions need regions_class_order, a list of {regions} classes, one for"
            f" each region in the order of labels, each of {classes[1:]} once; correct it",
        )
    return dict(labels)


def _scalar(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _by_value(item: tuple[str, Any]) -> Any:
    return _scalar(item[1])


def has_regions(labels: Labels) -> bool:
    """Whether a label is made of several classes: nnU-Net then trains an output for each."""
    return any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values())


def class_values(labels: Labels) -> set[int]:
    """All classes, the background included, `ignore` not."""
    return {
        one
        for name, value in labels.items()
        if name != IGNORE
        for one in (value if isinstance(value, (list, tuple)) else [value])
    }


def foreground(labels: Labels) -> dict[str, tuple[int, ...]]:
    """What is segmented: the classes of each label or region, without background and `ignore`."""
    return {
        name: tuple(value) if isinstance(value, (list, tuple)) else (value,)
        for name, value in labels.items()
        if name not in (BACKGROUND, IGNORE)
    }


def mask_of(label_map: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Where a label map has one of the classes; bool, of its shape."""
    if len(classes) == 1:
        return np.asarray(label_map == classes[0])
    return np.isin(label_map, classes)


def with_values(label_map: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """A label map with its values exchanged; those that `values` does not name stay."""
    if all(old == new for old, new in values.items()):
        return label_map
    table = np.arange(max(int(label_map.max()), *values) + 1, dtype=label_map.dtype)
    for old, new in values.items():
        table[old] = new
    return np.asarray(table[label_map])


@dataclass(frozen=True, kw_only=True)
class LabelEncoding:
    """The label maps that a trained network draws: what synthetic images are labelled with.

    `ignore` is not in them: a network knows everything.
    """

    names: dict[str, int]
    """Background, and each label or region with the value that it paints."""
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Regions with their classes, in the order in which they paint; empty without regions."""

    @classmethod
    def of(cls, dataset: Mapping[str, Any]) -> LabelEncoding:
        """What networks of a `dataset.json` draw."""
        labels = dataset["labels"]
        classes = foreground(labels)
        if not has_regions(labels):
            return cls(names={BACKGROUND: 0, **{name: one[0] for name, one in classes.items()}})
        values = zip(classes, dataset["regions_class_order"], strict=True)
        return cls(names={BACKGROUND: 0, **dict(values)}, regions=tuple(classes.items()))

    def dataset(self) -> dict[str, Any]:
        """The entries of a `dataset.json` with these labels."""
        if not self.regions:
            return {"labels": dict(self.names)}
        return {
            "labels": {BACKGROUND: 0, **{name: list(classes) for name, classes in self.regions}},
            "regions_class_order": [self.names[name] for name, _ in self.regions],
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each output of a network that draws these is for, in nnU-Net's order."""
        if self.regions:
            return tuple(name for name, _ in self.regions)
        return tuple(sorted(self.names, key=self.names.__getitem__))

    def numbered_by_name(self) -> dict[str, Any]:
        """The labels with values in the order of their names: equal for equal structures."""
        names = sorted(name for name in self.names if name != BACKGROUND)
        value = {name: number for number, name in enumerate(names, start=1)}
        parts = self._parts()
        return {
            BACKGROUND: 0,
            **{
                name: sorted(value[part] for part in parts[name]) if self.regions else value[name]
                for name in names
            },
        }

    def values_in(self, own: LabelEncoding) -> dict[int, int]:
        """These values, and those that `own` has for the same names.

        Raises:
            HyfreeError: other structures; says which.
        """
        if differences := own.differences(self):
            raise HyfreeError(
                "data.other-labels",
                f"another party's labels are those of another task: it {differences}; all parties"
                " must label the same structures",
            )
        return {value: own.names[name] for name, value in self.names.items()}

    def _parts(self) -> dict[str, set[str]]:
        """The labels whose values each label is made of, by name."""
        painter = {value: name for name, value in self.names.items()}
        classes = dict(self.regions)
        return {
            name: {painter[one] for one in classes.get(name, (value,))}
            for name, value in self.names.items()
        }

    def differences(self, other: LabelEncoding) -> str:
        """What `other` has otherwise, matched by name, in words; empty where they are alike.

        Values may differ, and so may the order of labels, but for regions that overlap: the later
        one paints over the earlier.
        """
        said = []
        if missing := [name for name in self.names if name not in other.names]:
            said.append(f"lacks {', '.join(missing)}")
        if unknown := [name for name in other.names if name not in self.names]:
            said.append(f"has {', '.join(unknown)}, which the others do not label")
        if said:
            return "; ".join(said)
        own, others = self._parts(), other._parts()
        said = [
            f"defines {name} as {', '.join(sorted(others[name]))}, here it is"
            f" {', '.join(sorted(parts))}"
            for name, parts in own.items()
            if others[name] != parts
        ]
        if said or not self.regions:
            return "; ".join(said)
        place = {name: other.outputs.index(name) for name in self.outputs}
        said = [
            f"paints {two} before {one}, here it is after"
            for one, two in itertools.combinations(self.outputs, 2)
            if own[one] & own[two] and place[one] > place[two]
        ]
        return "; ".join(said)
