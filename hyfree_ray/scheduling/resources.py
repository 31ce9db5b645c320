"""Describe how a run is executed: what stages take of a cluster, who goes first. Never in a key."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyfree_ray.config.loading import read_yaml
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.status import Step
from hyfree_ray.scheduling.capacity import why_unsatisfiable
from hyfree_ray.scheduling.history import Outlook
from hyfree_ray.scheduling.queue import SEGMENT_S

DEFAULT = "default"
"""The entry for all sites that have none of their own."""


class Resources(BaseModel):
    """What each of a site's stages takes while it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(default=1.0, gt=0)
    gpus: Annotated[float, Field(gt=0)] | Literal["measured"] = 1.0
    """Of stages that compute on a device; a fraction shares it with other sites, "measured" is the
    share of its memory that the stage takes: by earlier runs, else by its own first segment, before
    which it takes what other sites' stages of that name took, and all of it as the first."""
    memory_gib: float = Field(default=0.0, ge=0)
    """Main memory that Ray sets aside; 0: none."""

    def needs(self, *, on_gpu: bool, measured: float = 1.0) -> dict[str, float]:
        """Return amounts by Ray's names.

        Args:
            on_gpu: the stage computes on a GPU.
            measured: share of a GPU's memory that it took before.
        """
        found = {"CPU": self.cpus}
        if on_gpu:
            found["GPU"] = measured if self.gpus == "measured" else self.gpus
        if self.memory_gib:
            found["memory"] = self.memory_gib * 2**30
        return found


def read_resources(config: Path | None) -> dict[str, Resources]:
    """Read the `resources` of a configuration file: by party, and `default`.

    Raises:
        HyfreeError: an unknown field or an amount that is none.
    """
    found = {} if config is None else read_yaml(config).get("resources", {})
    if not isinstance(found, Mapping):
        raise HyfreeError(
            "config.bad-value",
            f"{config}: resources must map sites to cpus, gpus and memory_gib",
        )
    return {str(name): _entry(str(name), values) for name, values in found.items()}


def check_parties(resources: Mapping[str, Resources], sites: Collection[str]) -> None:
    """Refuse resources of who takes no part.

    Raises:
        HyfreeError: the first such entry; the nearest name is named.
    """
    known = [DEFAULT, POOL, ORACLE, *sites]
    for name in resources:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise HyfreeError(
                "option.unknown-site", f"resources.{name}: no such site; did you mean {nearest!r}?"
            )


def check_machine(
    steps: Iterable[Step], resources: Mapping[str, Resources], cpus: float, memory_gib: float
) -> None:
    """Refuse what this machine, alone, could never start. GPUs are looked at when Ray is there.

    Raises:
        HyfreeError: the first stage, and what it lacks.
    """
    here = {"CPU": cpus, "memory": memory_gib * 2**30}
    for step in steps:
        needs = resources_of(step.owner, resources).needs(on_gpu=False)
        lacking = why_unsatisfiable(needs, [here])
        if lacking is not None and not step.done:
            raise never_starts(step, lacking)


def never_starts(step: Step, lacking: str) -> HyfreeError:
    """Make the error of a stage that would wait for ever: what for."""
    return HyfreeError(
        "cluster.no-room",
        f"{step.owner}: {step.name} can never start: it {lacking}; lower its resources in the "
        "configuration or add a machine",
    )


def _entry(name: str, values: Any) -> Resources:
    try:
        return Resources.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in ("resources", name, *problem["loc"]))
        raise HyfreeError("config.bad-value", f"{where}: {problem['msg'].lower()}") from error


def resources_of(party: str, by_party: Mapping[str, Resources]) -> Resources:
    """Return a party's resources."""
    return by_party.get(party, by_party.get(DEFAULT, Resources()))


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is executed on a cluster."""

    rules: Rules = field(default_factory=Rules)
    resources: Mapping[str, Resources] = field(default_factory=dict)
    """By party, and `default`."""
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)
    """What is expected of each stage, by task: who goes first, who is preempted."""
    segment_s: float = SEGMENT_S
    """A training keeps its slot for at least as long."""
    gpu_shares: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By party and stage, the share of a GPU that it took before."""
