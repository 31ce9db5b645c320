"""Estimate what a run will cost before it starts: by earlier runs, else by published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyfree_ray.federation.status import Step
from hyfree_ray.scheduling.history import (
    expected_seconds,
    outlooks,
    read_history,
    share_of_full_size,
)

if TYPE_CHECKING:
    from hyfree_ray.federation.simulation import Simulation

MEBIBYTES_A_MODEL = 600
"""Weights, momentum and the best weights of nnU-Net at full width, two checkpoints."""

FULL_FEATURES = 512
"""The most that nnU-Net's plan gives a 2D stage: with its square the weights grow."""

TRAININGS = (
    *("train_generator", "train_segmenter", "train_general", "train_fedavg"),
    "train_personal_federated",
)
"""Stages that train a network that is used, or several."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate, good to a factor of about two."""

    device_hours: float
    """Of all stages that train or compute on a device, one after the other."""
    seconds: Mapping[str, float]
    """Of each stage, by key; 0 where it is done."""
    least_hours: float
    """The longest chain of stages: no number of devices is faster."""
    disk_gib: float
    """Of trainings' checkpoints and models; releases and predictions are small beside them."""
    device: str
    full_width: bool
    records: int
    """Finished trainings in the store that the estimate rests on."""
    calibrated: bool
    """It rests on trainings that were tried out for it."""

    @property
    def is_known(self) -> bool:
        """Whether anything is known: rules of thumb are of nnU-Net at full width."""
        return bool(self.records) or self.calibrated or self.full_width

    @property
    def warning(self) -> str:
        """One line before a run; empty but for the paper's lengths: small budgets take minutes."""
        if not self.full_width:
            return ""
        kind = "GPU" if self.device == "cuda" else "CPU core"
        text = (
            f"this will take about {self.device_hours:,.0f} {kind} hours and "
            f"{self.disk_gib:,.0f} GiB of disk"
        )
        if self.device == "cpu":
            text = f"no GPU was found; {text}; consider --budget small"
        return text

    def describe_time(self) -> str:
        """Say in one line how long it will take and who says so, for a plan that is looked at."""
        if not self.is_known:
            return (
                "no earlier run in this store shows how long it will take; --calibrate measures "
                "it for a minute"
            )
        tried = ["a calibration on this machine"] if self.calibrated else []
        earlier = [f"{self.records} earlier trainings"] if self.records else []
        source = " and ".join(earlier + tried) or "published figures"
        return (
            f"expected, by {source}: {_format_hours(self.device_hours)} of one device, at least "
            f"{_format_hours(self.least_hours)} on any number of them"
        )

    def describe_disk(self) -> str:
        """Say how much of the disk it will take."""
        if self.disk_gib >= 1:
            return f"about {self.disk_gib:,.0f} GiB of disk"
        return f"about {max(1, round(self.disk_gib * 1024)):,} MiB of disk"


def add_up(costs: Sequence[Cost]) -> Cost:
    """Return what several runs will cost one after the other; what two share is in one of them."""
    return Cost(
        seconds={key: value for cost in costs for key, value in cost.seconds.items()},
        device_hours=sum(cost.device_hours for cost in costs),
        least_hours=max(cost.least_hours for cost in costs),
        disk_gib=sum(cost.disk_gib for cost in costs),
        device=costs[0].device,
        full_width=all(cost.full_width for cost in costs),
        records=min(cost.records for cost in costs),
        calibrated=all(cost.calibrated for cost in costs),
    )


def _format_hours(hours: float) -> str:
    """So that it reads well: minutes under two hours, no `1 hours`."""
    if hours < 2:
        minutes = max(1, round(hours * 60))
        return f"{minutes} minute{'s' * (minutes > 1)}"
    return f"{hours:,.1f} hours" if hours < 10 else f"{hours:,.0f} hours"


def estimate(
    simulation: Simulation,
    steps: Sequence[Step],
    store: Path,
    device: str,
    calibrated: Mapping[str, float] | None = None,
) -> Cost:
    """Estimate what the steps that are not done will cost.

    Args:
        simulation: the run.
        steps: all of it.
        store: whose records tell how long trainings took.
        device: "cpu" or "cuda".
        calibrated: seconds a unit of work by stage; used where no record tells.
    """
    known = read_history(store).seconds_per_unit(device)
    added = {stage: (rate, 0) for stage, rate in (calibrated or {}).items() if stage not in known}
    share = share_of_full_size(simulation.experiment.budget.plan)
    seconds = expected_seconds(steps, added | known, device, share=share)
    paths = [outlook.critical_path for outlook in outlooks(steps, seconds).values()]
    missing = [step for step in steps if not step.done]
    caps = simulation.experiment.budget.plan
    width = 1.0 if caps.max_features is None else min(1.0, caps.max_features / FULL_FEATURES)
    models = sum(1 + (s.stage == "train_generator") for s in missing if s.stage in TRAININGS)
    return Cost(
        seconds=seconds,
        device_hours=sum(seconds[step.key] for step in missing if step.device) / 3600,
        least_hours=max(paths, default=0.0) / 3600,
        disk_gib=models * MEBIBYTES_A_MODEL * width**2 / 1024,
        device=device,
        full_width=simulation.experiment.budget.plan.base_features is None,
        records=sum(known[stage][1] for stage in TRAININGS if stage in known),
        calibrated=bool(added),
    )
