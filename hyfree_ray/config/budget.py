"""The budget: how much is computed, and nothing else. It is the one dial of an experiment.

Everything that the method derives (plans, networks, rates) stays derived; a budget shortens and
narrows it, and says so. The three budgets are `presets/smoke.yaml`, `small.yaml`, `paper.yaml`.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from hyfree_ray.border.manifest import MIN_ROWS
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.segmenters.plan_caps import PlanCaps
from hyfree_ray.segmenters.record import Optimiser

MIN_BATCHES = 100
"""Of a segmenter's training, with fewer of which no number says anything."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class UNetBudget(_Strict):
    """Lengths of nnU-Net's trainings, and the optimiser that suits these."""

    iterations: int = Field(ge=1)
    """Batches an epoch; nnU-Net: 250."""
    validation_iterations: int = Field(ge=1)
    """Validation batches an epoch; nnU-Net: 50."""
    epochs: int = Field(ge=1)
    """Epochs of the local and of the general model; nnU-Net: 1000."""
    finetune_epochs: int = Field(ge=1)
    """Epochs of fine-tuning; local2x trains for `epochs + finetune_epochs`."""
    optimiser: Optimiser
    """Of all these trainings: nnU-Net's `sgd`, which takes tens of thousands of batches, or
    `adamw`, for hundreds of them."""


class GeneratorBudget(_Strict):
    """Length of a generator's training; how wide it is, its record says for each budget."""

    images_shown_per_image: int = Field(ge=1)
    """How often each training image is shown; the paper: 1000 (N thousand images for N)."""
    min_images_shown: int = Field(ge=1)
    """A small site's generator is shown at least this many images."""
    snapshots: int = Field(ge=1, le=64)
    """EMA snapshots kept for the choice of one."""


class SynthesisBudget(_Strict):
    """How much a site releases."""

    per_real: float = Field(gt=0)
    """Synthetic images for each real training image; the paper: 10."""
    max_images: int | None = Field(ge=MIN_ROWS)
    """Synthetic images a site at most."""


class Budget(_Strict):
    """Compute of a whole experiment. Enters keys by its values, never by its name."""

    plan: PlanCaps
    unet: UNetBudget
    generator: GeneratorBudget
    synthesis: SynthesisBudget
    phantom_sites: int | None = Field(ge=1)
    """Phantom hospitals where no number is given; None: as many as the phantom says."""
    generator_backend: str
    """What `--generator auto` takes."""
    generator_reason: str
    """Why, in words: printed."""
    quality_gate: bool
    """Whether `gate.quality` is enforced where nothing is said: its trainings are long enough to
    make a release that teaches something."""
    labeller: str
    """Which of its own networks a site labels with where nothing is said."""

    @property
    def warning(self) -> str:
        """Say why no number of a run means anything; empty where the networks can learn."""
        batches = self.unet.epochs * self.unet.iterations
        if batches >= MIN_BATCHES:
            return ""
        return (
            f"networks were trained for {batches} batches and have learned nothing: these numbers "
            "show that every stage runs, and say nothing about sharing"
        )


BUDGETS = ("smoke", "small", "paper")


def budget_values(name: str) -> dict[str, Any]:
    """The named budget as it stands in its YAML file.

    Raises:
        HyfreeError: no such budget.
    """
    if name not in BUDGETS:
        raise HyfreeError(
            "config.unknown-budget",
            f"no budget {name!r}; use one of {', '.join(BUDGETS)}",
        )
    text = (resources.files("hyfree_ray.config") / "presets" / f"{name}.yaml").read_text()
    values: dict[str, Any] = yaml.safe_load(text)
    return values
