"""What the labels of nnU-Net's `dataset.json` mean: classes, regions made of them, and `ignore`.

    {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "ignore": 4}

A class is a value of a label map; a region is a list of classes, and regions may overlap. Pixels
of the value `ignore` were not annotated: nothing is learned or scored there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyfree_ray.errors import HyfreeError

Labels = Mapping[str, Any]
"""Names to a class (a number) or a region (a list of classes), in nnU-Net's order."""

BACKGROUND = "background"
IGNORE = "ignore"


def read_labels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The labels of a parsed `dataset.json`: classes by value, regions in the order they have.

    nnU-Net gives each region an output in that order, so it is part of what the labels are.

    Raises:
        HyfreeError: they are not what nnU-Net takes.
    """
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise HyfreeError('dataset.json: labels must be like {"background": 0, "organ": 1}')
    for name, value in labels.items():
        classes = value if isinstance(value, list) and value and name != IGNORE else [value]
        if any(isinstance(one, bool) or not isinstance(one, int) for one in classes):
            raise HyfreeError(
                f"dataset.json: label {name!r} must be a whole number, or a list of them: a region"
            )
    if labels.get(BACKGROUND) != 0:
        raise HyfreeError('dataset.json: labels need "background": 0; nnU-Net insists on the name')
    classes = sorted(class_values(labels))
    known = classes + ([labels[IGNORE]] if IGNORE in labels else [])
    if len(classes) < 2 or known != list(range(len(known))):
        raise HyfreeError(
            "dataset.json: label values must be 0 (background), 1, 2, ... without gaps, and the"
            " highest one ignore's, if there is one"
        )
    if not has_regions(labels):
        if len(labels) != len(known):
            raise HyfreeError("dataset.json: two labels have the same value; give each its own")
        return {name: _scalar(value) for name, value in sorted(labels.items(), key=_by_value)}
    order = dataset.get("regions_class_order")
    regions = len(foreground(labels))
    if not isinstance(order, list) or len(order) != regions or not set(order) <= set(classes):
        raise HyfreeError(
            f"dataset.json: regions need regions_class_order, a list of {regions} of their classes:"
            " the one that each region paints, in the order of labels"
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
