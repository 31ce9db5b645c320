"""StyleGAN's own settings."""

from __future__ import annotations

from pydantic import Field

from hyfree_ray.generators.record import GeneratorConfig


class StyleGan1Config(GeneratorConfig):
    """Width of both networks, and truncation."""

    max_channels: int = Field(default=512, ge=8)
    """Channels at most; the paper: 512."""
    truncation: float = Field(default=0.7, ge=0, le=1)
    """How far from the mean the styles of the first layers are drawn; 1: as they are."""

    @property
    def training_passes(self) -> float:
        return 9.0


BUDGETS = {"small": StyleGan1Config(max_channels=32), "smoke": StyleGan1Config(max_channels=8)}
