"""The diffusion model's own settings."""

from __future__ import annotations

from pydantic import Field

from hyfree_ray.generators.record import GeneratorConfig

STEPS = 4000
"""Of the process from an image to noise (Akbar et al. 2024, arXiv 2306.02986)."""


class DiffusionConfig(GeneratorConfig):
    """Width, depth and sampling of a diffusion model: those of Akbar et al. 2024."""

    max_channels: int = Field(default=256, ge=8)
    """Features at most; the finest level has a quarter."""
    blocks: int = Field(default=3, ge=1)
    """Residual blocks of a level."""
    evaluations: int = Field(default=STEPS, ge=2, le=STEPS)
    """Of the network for an image: all steps by ancestral sampling, fewer by DDIM."""
    batch_size: int | None = Field(default=32, ge=1)
    """Images an update; None: derived from the training's length."""
    learning_rate: float | None = Field(default=1e-4, gt=0)
    """The highest; None: derived from the batch."""

    @property
    def sample_passes(self) -> float:
        return float(self.evaluations)


BUDGETS = {
    "small": DiffusionConfig(
        max_channels=64, blocks=1, evaluations=25, batch_size=None, learning_rate=None
    ),
    "smoke": DiffusionConfig(
        max_channels=16, blocks=1, evaluations=10, batch_size=None, learning_rate=None
    ),
}
