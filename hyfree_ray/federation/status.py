"""The status of a party for observers: no paths, no names of cases, no private parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.records import StageRecord

Point = Mapping[str, Any]
"""A point of a training's curve: step, total, time, and metrics."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage that a party requested."""

    owner: str
    name: str
    """The stage, or the regime of the model it trains."""
    purpose: str
    """The regime that it was requested for, or `regimes.RELEASE`. In no key."""
    stage: str
    key: str
    device: bool
    done: bool
    """Whether it was in the store before it was requested."""
    call: Call


@dataclass(frozen=True, kw_only=True)
class RunningStage:
    """A stage that a party waits for."""

    name: str
    purpose: str
    first: Point | None
    last: Point | None
    begun: bool
    """False: it waits for a slot."""
    takes: str
    """Description of the resources that it needs to begin."""
    silent_s: float


@dataclass(frozen=True, kw_only=True)
class FinishedStage:
    """A stage that is done."""

    name: str
    purpose: str
    record: StageRecord
    curve: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class ReceivedParcel:
    """A parcel that has come in from another party."""

    sender: str
    receiver: str
    stage: str
    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """The current work of a party, and news since the last query."""

    owner: str
    running: Sequence[RunningStage]
    unfinished_s: float
    """Seconds spent in stages without a result."""
    finished: Sequence[FinishedStage]
    received: Sequence[ReceivedParcel]
