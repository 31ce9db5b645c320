"""What observers may know of a party: no paths, no names of cases, no private parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyfree_ray.core.artifacts import Call
from hyfree_ray.core.records import StageRecord

Point = Mapping[str, Any]
"""A point of a training's curve: step, total, time, and what it measured."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage that a party asked for."""

    owner: str
    name: str
    """The stage, or the regime that it trains a model of."""
    purpose: str
    """The regime that it was asked for, or `regimes.RELEASE`. In no key."""
    stage: str
    key: str
    device: bool
    done: bool
    """It was there already, before it was asked for."""
    call: Call


@dataclass(frozen=True, kw_only=True)
class RunningStage:
    """A stage that a party waits for."""

    name: str
    purpose: str
    first: Point | None
    last: Point | None
    begun: bool
    """False: it waits for its place."""
    takes: str
    """What it needs to begin, in words."""
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
    """What has come in from another party."""

    sender: str
    receiver: str
    stage: str
    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a party does now, and what is new since it was asked last."""

    owner: str
    running: Sequence[RunningStage]
    unfinished_s: float
    """Seconds that went into stages without an end."""
    finished: Sequence[FinishedStage]
    received: Sequence[ReceivedParcel]
