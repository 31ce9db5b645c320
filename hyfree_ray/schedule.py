"""How long stages will take, and how long the chains are that begin with them."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyfree_ray.device_memory import share_of
from hyfree_ray.party import Step
from hyfree_ray.store import RECORD

GPU_SECONDS_AN_ITERATION = 0.16
"""nnU-Net 2d at its defaults: 40 s for 250 iterations on an A100 (its documentation)."""

GPU_SECONDS_AN_IMAGE = 0.025
"""StyleGAN2 at about 256x256 (published: 21.6 to 24.2 s for 1000 on a V100)."""

CPU_FACTOR = 150.0
"""A CPU core against such a GPU, at full width. Hours become weeks."""

OTHER_SECONDS = 5.0
"""A stage that trains nothing, where no record tells better."""

_LIKE = {"train_general": "train_segmenter", "train_fedavg": "train_segmenter"}
"""Trainings of networks like the sites' own: how fast those are tells how fast these will be."""

_ITERATIONS = ("train_segmenter", "train_general", "train_fedavg")


def work_of(stage: str, params: Mapping[str, Any]) -> float:
    """A stage's length in its own units: iterations, images shown, images sampled."""
    if stage in _ITERATIONS:
        return float(params["epochs"] * params["iterations"])
    if stage == "train_generator":
        return float(params["images_shown"])
    return float(params.get("quota", 1))


def _records(store: Path) -> Iterator[dict[str, Any]]:
    """All that a store's parties have done; what is not readable tells nothing."""
    for folder in ("sites/*", "pool", "oracle"):
        for file in store.glob(f"{folder}/stages/*/{RECORD}"):
            with contextlib.suppress(OSError, ValueError):
                yield json.loads(file.read_text())


def pace_of(store: Path, device: str) -> dict[str, tuple[float, int]]:
    """Seconds a unit of work by stage, and how many records say so, from a store's records."""
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in _records(store):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            # What computes on no device is as fast beside any.
            if record["device"] == device or not record["device_seconds"]:
                work = work_of(record["stage"], record["params"])
                spent[record["stage"]].append((float(record["seconds"]), work))
    return {
        stage: (sum(s for s, _ in found) / max(1e-9, sum(w for _, w in found)), len(found))
        for stage, found in spent.items()
    }


def device_shares(store: Path) -> dict[str, dict[str, float]]:
    """By party and stage, the share of a GPU that it took at most, with a margin, from records.

    What was never measured on a GPU is not in it.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for record in _records(store):
        used, there = record.get("device_memory_mib"), record.get("device_total_mib")
        if used and there:
            share = share_of(used, there)
            stages = found[record["owner"]]
            stages[record["stage"]] = max(share, stages.get(record["stage"], 0.0))
    return dict(found)


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What the records of stores tell of stages to come."""

    pace: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """As `pace_of` tells it."""
    shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """As `device_shares` tells them."""
    done: frozenset[str] = frozenset()
    """Tickets of stages."""


def experience_of(store: Path, device: str) -> Experience:
    """What one store tells, of all parties that have a folder in it."""
    return Experience(
        pace=pace_of(store, device),
        shares=device_shares(store),
        done=frozenset(
            ticket_of(one["owner"], one["key"])
            for one in _records(store)
            if {"owner", "key"} <= one.keys()
        ),
    )


def together(found: Iterable[Experience]) -> Experience:
    """What several stores tell; one that is heard twice (of a common disk) tells no more."""
    found = list(found)
    paces: dict[str, list[tuple[float, int]]] = defaultdict(list)
    shares: dict[str, dict[str, float]] = defaultdict(dict)
    for one in found:
        for stage, pace in one.pace.items():
            paces[stage].append(pace)
        for party, stages in one.shares.items():
            for stage, share in stages.items():
                shares[party][stage] = max(share, shares[party].get(stage, 0.0))
    return Experience(
        pace={
            stage: (sum(each * n for each, n in told) / sum(n for _, n in told), told[0][1])
            for stage, told in paces.items()
        },
        shares=dict(shares),
        done=frozenset().union(*(one.done for one in found)),
    )


def expected_seconds(
    steps: Iterable[Step],
    pace: Mapping[str, tuple[float, int]],
    device: str,
    done: Collection[str] = (),
) -> dict[str, float]:
    """Expected seconds of each step by key: by records, else by rule of thumb; 0 if it is done.

    Args:
        steps: of all parties.
        pace: as `pace_of` tells it.
        device: "cpu" or "cuda".
        done: tickets of stages that are done where this process cannot see it.
    """
    factor = 1.0 if device == "cuda" else CPU_FACTOR
    found = {}
    for step in steps:
        work = work_of(step.stage, step.call.params)
        told = pace.get(step.stage) or pace.get(_LIKE.get(step.stage, ""))
        if step.done or ticket_of(step.owner, step.key) in done:
            found[step.key] = 0.0
        elif told is not None:
            found[step.key] = told[0] * work
        elif step.stage in _ITERATIONS:
            found[step.key] = work * GPU_SECONDS_AN_ITERATION * factor
        elif step.stage == "train_generator":
            found[step.key] = work * GPU_SECONDS_AN_IMAGE * factor
        else:
            found[step.key] = OTHER_SECONDS
    return found


def remaining_seconds(
    inputs: Mapping[str, Iterable[str]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """The longest chain that begins with each stage, by key, itself included.

    Args:
        inputs: by stage, the keys of what it reads; keys that are no stage do not count.
        seconds: how long each takes.
    """
    readers: dict[str, list[str]] = defaultdict(list)
    for key, sources in inputs.items():
        for source in sources:
            readers[source].append(key)
    found: dict[str, float] = {}
    for start in inputs:
        stack = [start]
        while stack:  # depth first, without recursion
            key = stack[-1]
            open_readers = [reader for reader in readers[key] if reader not in found]
            if key in found or not open_readers:
                if key not in found:
                    after = max((found[reader] for reader in readers[key]), default=0.0)
                    found[key] = seconds[key] + after
                stack.pop()
            else:
                stack += open_readers
    return found


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is expected of a stage, in seconds."""

    seconds: float
    """How long it takes."""
    chain: float
    """How long it and the longest chain after it take."""


def ticket_of(owner: str, key: str) -> str:
    """A stage's name in a run: two parties may make the same, each for itself."""
    return f"{owner}/{key}"


def outlooks(steps: Sequence[Step], seconds: Mapping[str, float]) -> dict[str, Outlook]:
    """What is expected of each step, by ticket.

    Args:
        steps: of all parties.
        seconds: how long each takes, by key.
    """
    inputs = {step.key: [found.key for found in step.call.inputs.values()] for step in steps}
    chains = remaining_seconds(inputs, seconds)
    return {
        ticket_of(step.owner, step.key): Outlook(seconds=seconds[step.key], chain=chains[step.key])
        for step in steps
    }
