"""What a run will cost, roughly, before it starts: by earlier runs, else by published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyfree_ray.party import Step
from hyfree_ray.schedule import expected_seconds, outlooks, pace_of

if TYPE_CHECKING:
    from hyfree_ray.simulation import Simulation

MEBIBYTES_A_MODEL = 600
"""Weights, momentum and the best weights of nnU-Net at full width, two checkpoints."""

_TRAININGS = ("train_generator", "train_segmenter", "train_general", "train_fedavg")


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
    """At full width."""
    device: str
    full_width: bool
    records: int
    """Finished trainings in the store that the estimate rests on."""
    calibrated: bool
    """It rests on trainings that were tried out for it."""

    @property
    def grounded(self) -> bool:
        """Whether anything is known: rules of thumb are of nnU-Net at full width."""
        return bool(self.records) or self.calibrated or self.full_width

    @property
    def worth_saying(self) -> bool:
        """Only the paper's lengths are worth a warning: the small budgets take minutes."""
        return self.full_width

    @property
    def words(self) -> str:
        """One line."""
        kind = "GPU" if self.device == "cuda" else "CPU core"
        text = (
            f"this will take about {self.device_hours:,.0f} {kind} hours and "
            f"{self.disk_gib:,.0f} GiB of disk"
        )
        if self.device == "cpu":
            text = f"warning: no GPU was found; {text}; consider --budget small"
        return text

    @property
    def by_records(self) -> str:
        """What earlier runs say, one line; for a plan that is looked at before it is run."""
        if not self.grounded:
            return (
                "no earlier run in this store tells how long it will take; --calibrate tries it "
                "out for a minute"
            )
        tried = ["a calibration on this machine"] if self.calibrated else []
        earlier = [f"{self.records} earlier trainings"] if self.records else []
        source = " and ".join(earlier + tried) or "published figures"
        return (
            f"expected, by {source}: {self.device_hours:.2g} hours of one device, at least "
            f"{self.least_hours:.2g} hours on any number of them"
        )


def estimate(
    simulation: Simulation,
    steps: Sequence[Step],
    store: Path,
    device: str,
    tried: Mapping[str, float] | None = None,
) -> Cost:
    """Estimate what the steps that are not done will cost.

    Args:
        simulation: the run.
        steps: all of it.
        store: whose records tell how long trainings took.
        device: "cpu" or "cuda".
        tried: seconds a unit of work by stage, from a calibration; used where no record tells.
    """
    pace = pace_of(store, device)
    added = {stage: (rate, 0) for stage, rate in (tried or {}).items() if stage not in pace}
    seconds = expected_seconds(steps, added | pace, device)
    chains = [outlook.chain for outlook in outlooks(steps, seconds).values()]
    missing = [step for step in steps if not step.done]
    models = sum(1 + (s.stage == "train_generator") for s in missing if s.stage in _TRAININGS)
    return Cost(
        seconds=seconds,
        device_hours=sum(seconds[step.key] for step in missing if step.device) / 3600,
        least_hours=max(chains, default=0.0) / 3600,
        disk_gib=models * MEBIBYTES_A_MODEL / 1024,
        device=device,
        full_width=simulation.experiment.budget.plan.base_features is None,
        records=sum(pace[stage][1] for stage in _TRAININGS if stage in pace),
        calibrated=bool(added),
    )
