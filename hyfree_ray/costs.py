"""What a run will cost, roughly, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyfree_ray.party import Step

if TYPE_CHECKING:
    from hyfree_ray.simulation import Simulation

GPU_SECONDS_AN_ITERATION = 0.16
"""nnU-Net 2d at its defaults: 40 s for 250 iterations on an A100 (its documentation)."""

GPU_SECONDS_A_KIMG = 25.0
"""StyleGAN2 at about 256x256 on a data-centre GPU (published: 21.6 to 24.2 on a V100)."""

CPU_FACTOR = 150.0
"""A CPU core against such a GPU, at full width. Hours become weeks."""

MEBIBYTES_A_MODEL = 600
"""Weights, momentum and the best weights of nnU-Net at full width, two checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate, good to a factor of about two."""

    device_hours: float
    disk_gib: float
    device: str
    full_width: bool

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


def estimate(simulation: Simulation, missing: Sequence[Step], device: str) -> Cost:
    """Estimate what the missing stages will cost at full width."""
    budget = simulation.experiment.budget
    unet, generator = budget.unet, budget.generator
    epochs = {
        "local": unet.epochs,
        "local2x": unet.epochs + unet.finetune_epochs,
        "finetuned": unet.finetune_epochs,
        "train_general": unet.epochs,
    }
    seconds, models = 0.0, 0
    for step in missing:
        if step.name in epochs:
            seconds += epochs[step.name] * unet.iterations * GPU_SECONDS_AN_ITERATION
            models += 1
        elif step.stage == "train_generator":
            images = simulation.sites[step.owner].training_images
            shown = max(generator.min_images_shown, generator.images_shown_per_image * images)
            seconds += shown / 1000 * GPU_SECONDS_A_KIMG
            models += 2
    factor = 1.0 if device == "cuda" else CPU_FACTOR
    return Cost(
        device_hours=seconds * factor / 3600,
        disk_gib=models * MEBIBYTES_A_MODEL / 1024,
        device=device,
        full_width=budget.plan.base_features is None,
    )
