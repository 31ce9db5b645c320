"""Progressive GAN's own settings."""

from __future__ import annotations

from pydantic import Field

from hyfree_ray.generators.record import GeneratorConfig


class ProGanConfig(GeneratorConfig):
    """Width of both networks."""

    max_channels: int = Field(default=512, ge=8)
    """Channels at most; the paper: 512."""

    @property
    def training_passes(self) -> float:
        return 9.0


BUDGETS = {"small": ProGanConfig(max_channels=32), "smoke": ProGanConfig(max_channels=8)}
