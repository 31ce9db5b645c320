"""Records of the running program: generators, regimes and what else the platform knows by name."""

from __future__ import annotations

from typing import Any, TypeVar

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.registry import Registry
from hyfree_ray.evaluation.metrics import METRICS
from hyfree_ray.evaluation.regimes import REGIMES
from hyfree_ray.generators import GENERATORS
from hyfree_ray.segmenters import SEGMENTERS

R = TypeVar("R")

_REGISTRIES: tuple[Registry[Any], ...] = (GENERATORS, SEGMENTERS, REGIMES, METRICS)


def register(record: R) -> R:
    """Make a generator, architecture, regime or metric known by its name, in this process.

    What is to run in other processes, on Ray too, belongs into a package with an entry point.

    Example:
        >>> from hyfree_ray.evaluation.metrics import METRICS
        >>> "dice" in METRICS
        True

    Args:
        record: a `Generator`, a `Segmenter`, a `Regime` or a `Metric`.

    Returns:
        The record.

    Raises:
        HyfreeError: the name is taken, or it is no record.
    """
    for registry in _REGISTRIES:
        if isinstance(record, registry.kind):
            registry.register(record)
            return record
    kinds = " or ".join(registry.kind.__name__ for registry in _REGISTRIES)
    raise HyfreeError(
        "extension.broken", f"a {type(record).__name__} cannot be registered; give a {kinds}"
    )
