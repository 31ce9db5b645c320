"""StyleGAN3's own settings."""

from __future__ import annotations

from pydantic import Field

from hyfree_ray.generators.record import GeneratorConfig


class StyleGan3Config(GeneratorConfig):
    """Width of both networks and depth of the generator."""

    max_channels: int = Field(default=512, ge=8)
    """Channels at most; the paper: 512."""
    layers: int = Field(default=14, ge=3)
    """Of the generator, besides the one to the image; the paper: 14."""

    @property
    def training_passes(self) -> float:
        return 9.0


BUDGETS = {
    "small": StyleGan3Config(max_channels=16, layers=8),
    "smoke": StyleGan3Config(max_channels=8, layers=4),
}
