"""Lookup of the functions that train a regime's models, by the names in `REGIMES`.

They are imported when called: in the process of the party that trains.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hyfree_ray.core.artifacts import Artifact
from hyfree_ray.evaluation.regimes import record_of
from hyfree_ray.federation.interface import ReplaySet


@dataclass(frozen=True, kw_only=True)
class Given:
    """The inputs that a site's training begins with."""

    regime: str
    general: Artifact | None = None
    """The pool's model that the regime needs, if any."""
    shared: ReplaySet | None = None
    """The round's releases, if the regime needs them."""


SiteTrainer = Callable[[Any, Given], Awaitable[Artifact | None]]
"""Called with the site's party. None: the site has no such model."""

PoolTrainer = Callable[[Any, str, Mapping[str, str]], Awaitable[Artifact]]
"""Called with the pool's party, the regime, and the keys of the releases by site."""

OracleTrainer = Callable[[Any, str, ReplaySet, Collection[str]], Awaitable[Artifact]]
"""Called with the oracle's party, the regime, the pool's releases, and the sites whose real data
may be read."""


def site_trainer(regime: str) -> SiteTrainer:
    """Return the function that trains a site's model of a regime."""
    found: SiteTrainer = _trainer(regime)
    return found


def pool_trainer(regime: str) -> PoolTrainer:
    """Return the function that trains the pool's model of a regime."""
    found: PoolTrainer = _trainer(regime)
    return found


def oracle_trainer(regime: str) -> OracleTrainer:
    """Return the function that trains the oracle's model of a regime."""
    found: OracleTrainer = _trainer(regime)
    return found


def _trainer(regime: str) -> Any:
    module, _, name = record_of(regime).train.partition(":")
    return getattr(importlib.import_module(module), name)
