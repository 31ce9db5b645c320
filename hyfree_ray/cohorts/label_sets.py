"""The labels of nnU-Net's `dataset.json`: classes, regions made of them, and `ignore`.

    {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "ignore": 4}

A class is a value of a label map; a region is a list of classes, and regions may overlap. Pixels of
the value `ignore` were not annotated: nothing is learned or scored there.

Between parties a label is identified by its name: each numbers the structures as in its own data,
and maps another's values to its own.
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
"""Label maps travel with 8 bits."""


def read_labels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Read the labels of a parsed `dataset.json`: classes by value, regions in their order.

    nnU-Net gives each region an output in that order, so the order is part of the labels.

    Raises:
        HyfreeError: nnU-Net does not accept them.
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
    _check_painting(labels, order)
    return dict(labels)


def _check_painting(labels: Labels, order: Sequence[int]) -> None:
    """Check that regions, drawn one over the other, give every class its own regions back.

    nnU-Net draws region by region, each with the class that `regions_class_order` gives it; a
    perfect network must thus score 1.
    """
    regions = list(foreground(labels).items())
    for one in sorted(class_values(labels) - {0}):
        drawn = [
            value for (_, classes), value in zip(regions, order, strict=True) if one in classes
        ]
        wrong = [name for name, classes in regions if (one in classes) != (drawn[-1] in classes)]
        if wrong:
            raise HyfreeError(
                "data.bad-regions",
                f"dataset.json: regions_class_order {list(order)} draws class {one} as {drawn[-1]},"
                f" which is {'not ' * (one in dict(regions)[wrong[0]])}in the region {wrong[0]};"
                " give each region a class of its own, the smaller regions last",
            )


def _scalar(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _by_value(item: tuple[str, Any]) -> Any:
    return _scalar(item[1])


def has_regions(labels: Labels) -> bool:
    """Return whether a label is made of several classes: nnU-Net then trains an output for each."""
    return any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values())


def class_values(labels: Labels) -> set[int]:
    """Return all classes, the background included, `ignore` not."""
    return {
        one
        for name, value in labels.items()
        if name != IGNORE
        for one in (value if isinstance(value, (list, tuple)) else [value])
    }


def foreground(labels: Labels) -> dict[str, tuple[int, ...]]:
    """Return the classes of each label or region, without background and `ignore`."""
    return {
        name: tuple(value) if isinstance(value, (list, tuple)) else (value,)
        for name, value in labels.items()
        if name not in (BACKGROUND, IGNORE)
    }


def mask_of(label_map: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return where a label map has one of the classes; bool, of its shape."""
    if len(classes) == 1:
        return np.asarray(label_map == classes[0])
    return np.isin(label_map, classes)


def with_values(label_map: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """Map values of a label map; values that `values` does not name stay."""
    if all(old == new for old, new in values.items()):
        return label_map
    table = np.arange(max(int(label_map.max()), *values) + 1, dtype=label_map.dtype)
    for old, new in values.items():
        table[old] = new
    return np.asarray(table[label_map])


@dataclass(frozen=True, kw_only=True)
class LabelEncoding:
    """The values of the label maps that a trained network predicts, also for synthetic images.

    `ignore` has none: a network labels every pixel.
    """

    names: dict[str, int]
    """Background, and each label or region with the value that encodes it."""
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Regions with their classes, in the order in which they are drawn; empty without regions."""

    @classmethod
    def of(cls, dataset: Mapping[str, Any]) -> LabelEncoding:
        """Return the encoding that networks of a `dataset.json` predict."""
        labels = dataset["labels"]
        classes = foreground(labels)
        if not has_regions(labels):
            return cls(names={BACKGROUND: 0, **{name: one[0] for name, one in classes.items()}})
        values = zip(classes, dataset["regions_class_order"], strict=True)
        return cls(names={BACKGROUND: 0, **dict(values)}, regions=tuple(classes.items()))

    def dataset(self) -> dict[str, Any]:
        """Return the entries of a `dataset.json` with these labels."""
        if not self.regions:
            return {"labels": dict(self.names)}
        return {
            "labels": {BACKGROUND: 0, **{name: list(classes) for name, classes in self.regions}},
            "regions_class_order": [self.names[name] for name, _ in self.regions],
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """The label or region of each output of a network, in nnU-Net's order."""
        if self.regions:
            return tuple(name for name, _ in self.regions)
        return tuple(sorted(self.names, key=self.names.__getitem__))

    def numbered_by_name(self) -> dict[str, Any]:
        """Return the labels numbered in the order of their names: equal for equal structures."""
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
        """Map these values to those that `own` has for the same names.

        Raises:
            HyfreeError: the structures differ; the message names them.
        """
        if differences := own.differences(self):
            raise HyfreeError(
                "data.other-labels",
                f"another party's labels are those of another task: it {differences}; all parties"
                " must label the same structures",
            )
        return {value: own.names[name] for name, value in self.names.items()}

    def _parts(self) -> dict[str, set[str]]:
        """Return the labels whose values each label is made of, by name."""
        painter = {value: name for name, value in self.names.items()}
        classes = dict(self.regions)
        return {
            name: {painter[one] for one in classes.get(name, (value,))}
            for name, value in self.names.items()
        }

    def differences(self, other: LabelEncoding) -> str:
        """Describe how `other` differs, matched by name; empty if they are alike.

        Values may differ, and so may the order of labels, except for overlapping regions: the
        later one is drawn over the earlier.
        """
        found = []
        if missing := [name for name in self.names if name not in other.names]:
            found.append(f"lacks {', '.join(missing)}")
        if unknown := [name for name in other.names if name not in self.names]:
            found.append(f"has {', '.join(unknown)}, which the others do not label")
        if found:
            return "; ".join(found)
        own, others = self._parts(), other._parts()
        found = [
            f"defines {name} as {', '.join(sorted(others[name]))}, here it is"
            f" {', '.join(sorted(parts))}"
            for name, parts in own.items()
            if others[name] != parts
        ]
        if found or not self.regions:
            return "; ".join(found)
        place = {name: other.outputs.index(name) for name in self.outputs}
        found = [
            f"paints {two} before {one}, here it is after"
            for one, two in itertools.combinations(self.outputs, 2)
            if own[one] & own[two] and place[one] > place[two]
        ]
        return "; ".join(found)
