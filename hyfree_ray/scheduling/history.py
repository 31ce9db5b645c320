"""Foresee how long stages will take, and how long the chains are that begin with them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyfree_ray.core.device_memory import share_of
from hyfree_ray.core.records import RECORD, StageRecord, load_record
from hyfree_ray.federation.status import Step
from hyfree_ray.segmenters.plan_caps import PlanCaps

GPU_SECONDS_AN_ITERATION = 0.16
"""nnU-Net 2d at its defaults: 40 s for 250 iterations on an A100 (its documentation)."""

GPU_SECONDS_AN_IMAGE = 0.025
"""StyleGAN2 at about 256x256 (published: 21.6 to 24.2 s for 1000 on a V100)."""

CPU_FACTOR = 150.0
"""A CPU core against such a GPU, at full width. Hours become weeks."""

FULL_SIDE, BASE_FEATURES = 256, 32
"""Of the images and networks that these figures are of: nnU-Net's default features."""

OTHER_SECONDS = 5.0
"""A stage that trains nothing, where no record tells better."""

_SEGMENTERS = ("train_general", "train_fedavg", "train_personal_federated")
_LIKE = dict.fromkeys(_SEGMENTERS, "train_segmenter") | {"overtrain_generator": "train_generator"}
"""Trainings of networks like the sites' own: how fast those are tells how fast these will be."""

_ITERATIONS = ("train_segmenter", *_SEGMENTERS)
_IMAGES = ("train_generator", "overtrain_generator")


def work_of(stage: str, params: Mapping[str, Any]) -> float:
    """Count a stage's work in its own units: iterations, images shown, images sampled."""
    if stage in _ITERATIONS:
        return float(params["epochs"] * params["iterations"])
    if stage in _IMAGES:
        return float(params["images_shown"])
    return float(params.get("quota", 1))


def _records(store: Path) -> Iterator[StageRecord]:
    """All that a store's parties have done; what is not readable tells nothing."""
    for folder in ("sites/*", "pool", "oracle"):
        for file in store.glob(f"{folder}/stages/*/{RECORD}"):
            with contextlib.suppress(OSError, ValueError):
                yield load_record(file.parent, StageRecord)


@dataclass(frozen=True, kw_only=True)
class StageTiming:
    """What the record of one stage tells of others."""

    stage: str
    seconds: float
    work: float
    """As `work_of` counts it."""
    device: str
    """"any" where it computed on none: it is as fast beside each."""
    gpu_share: float
    """That it took, with a margin; 0 where that was not measured."""


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """What the records of stores tell of stages to come."""

    timings: Mapping[str, StageTiming] = field(default_factory=dict)
    """By task."""

    def seconds_per_unit(self, device: str) -> dict[str, tuple[float, int]]:
        """Return seconds a unit of work by stage on a device, and how many records say so."""
        by_stage: dict[str, list[StageTiming]] = defaultdict(list)
        for one in self.timings.values():
            if one.device in {device, "any"}:
                by_stage[one.stage].append(one)
        return {
            stage: (
                sum(one.seconds for one in found) / max(1e-9, sum(one.work for one in found)),
                len(found),
            )
            for stage, found in by_stage.items()
        }

    def gpu_shares(self) -> dict[str, dict[str, float]]:
        """Return the largest share of a GPU that each stage took, by party and stage.

        What was never measured on a GPU is not in it.
        """
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for task, one in self.timings.items():
            if one.gpu_share:
                stages = found[task.partition("/")[0]]
                stages[one.stage] = max(one.gpu_share, stages.get(one.stage, 0.0))
        return dict(found)


def read_history(store: Path) -> RunHistory:
    """Read what one store tells, of all parties that have a folder in it.

    What is not readable, and what is not of this form, tells nothing.
    """
    found = {}
    for record in _records(store):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            used, there = record.device_memory_mib, record.device_total_mib
            found[task_id(record.owner, record.key)] = StageTiming(
                stage=record.stage,
                seconds=float(record.seconds),
                work=work_of(record.stage, record.params),
                device=record.device if record.device_seconds else "any",
                gpu_share=share_of(used, there) if used and there else 0.0,
            )
    return RunHistory(timings=found)


def merge(histories: Iterable[RunHistory]) -> RunHistory:
    """Join what several stores tell; a record that two of them have, on one disk, counts once."""
    every = [history.timings.items() for history in histories]
    return RunHistory(timings={task: one for items in every for task, one in items})


def share_of_full_size(caps: PlanCaps) -> float:
    """Return what a step of a narrowed training costs, as a share of one at full size."""
    side = min(1.0, (caps.working_size or FULL_SIDE) / FULL_SIDE)
    features = min(1.0, (caps.base_features or BASE_FEATURES) / BASE_FEATURES)
    return (side * features) ** 2


def expected_seconds(
    steps: Iterable[Step],
    seconds_per_unit: Mapping[str, tuple[float, int]],
    device: str,
    done: Collection[str] = (),
    share: float = 1.0,
) -> dict[str, float]:
    """Estimate each step's seconds, by key: by records, else by rule of thumb; 0 if it is done.

    Args:
        steps: of all parties.
        seconds_per_unit: see `RunHistory`.
        device: "cpu" or "cuda".
        done: tasks that are done where this process cannot see it.
        share: `share_of_full_size` of the run's trainings, for the rule of thumb.
    """
    factor = share * (1.0 if device == "cuda" else CPU_FACTOR)
    found = {}
    for step in steps:
        work = work_of(step.stage, step.call.params)
        known = seconds_per_unit.get(step.stage) or seconds_per_unit.get(_LIKE.get(step.stage, ""))
        if step.done or task_id(step.owner, step.key) in done:
            found[step.key] = 0.0
        elif known is not None:
            found[step.key] = known[0] * work
        elif step.stage in _ITERATIONS:
            found[step.key] = work * GPU_SECONDS_AN_ITERATION * factor
        elif step.stage in _IMAGES:
            found[step.key] = work * GPU_SECONDS_AN_IMAGE * factor
        else:
            found[step.key] = OTHER_SECONDS
    return found


def critical_paths(
    inputs: Mapping[str, Iterable[str]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Return the seconds of the longest chain that begins with each stage, itself included.

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
    critical_path: float
    """How long it and the longest chain after it take."""


def task_id(owner: str, key: str) -> str:
    """Name a stage in a run: two parties may make the same, each for itself."""
    return f"{owner}/{key}"


def outlooks(steps: Sequence[Step], seconds: Mapping[str, float]) -> dict[str, Outlook]:
    """Return what is expected of each step, by task.

    Args:
        steps: of all parties.
        seconds: how long each takes, by key.
    """
    inputs = {step.key: [found.key for found in step.call.inputs.values()] for step in steps}
    paths = critical_paths(inputs, seconds)
    return {
        task_id(step.owner, step.key): Outlook(
            seconds=seconds[step.key], critical_path=paths[step.key]
        )
        for step in steps
    }
