"""The flow's own settings."""

from __future__ import annotations

from pydantic import Field

from hyfree_ray.generators.record import GeneratorConfig


class FlowConfig(GeneratorConfig):
    """Width and solver of a rectified flow."""

    max_channels: int = Field(default=256, ge=8)
    """Features at most."""
    evaluations: int = Field(default=10, ge=2)
    """Of the network for an image."""

    @property
    def sample_passes(self) -> float:
        return float(self.evaluations)


BUDGETS = {"small": FlowConfig(max_channels=64), "smoke": FlowConfig(max_channels=16)}
