"""HyFree-S3 as a Ray-distributed simulation platform: would sharing synthetic data help my site?

The Python API, see `docs/API.md`. What stands here is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyfree_ray.api.generators import TrainedGenerator as TrainedGenerator
    from hyfree_ray.api.generators import train_generator as train_generator
    from hyfree_ray.api.registries import register as register
    from hyfree_ray.api.releases import LoadedRelease as LoadedRelease
    from hyfree_ray.api.releases import load_release as load_release
    from hyfree_ray.api.runs import Run as Run
    from hyfree_ray.api.runs import load_run as load_run
    from hyfree_ray.api.simulations import simulate as simulate
    from hyfree_ray.config.experiment import Experiment as Experiment
    from hyfree_ray.core.errors import HyfreeError as HyfreeError

__version__ = "0.1.0"

_HOMES = {
    "Experiment": "hyfree_ray.config.experiment",
    "HyfreeError": "hyfree_ray.core.errors",
    "LoadedRelease": "hyfree_ray.api.releases",
    "Run": "hyfree_ray.api.runs",
    "TrainedGenerator": "hyfree_ray.api.generators",
    "load_release": "hyfree_ray.api.releases",
    "load_run": "hyfree_ray.api.runs",
    "register": "hyfree_ray.api.registries",
    "simulate": "hyfree_ray.api.simulations",
    "train_generator": "hyfree_ray.api.generators",
}
"""Where each name of the API is."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
