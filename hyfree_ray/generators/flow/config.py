"""The flow's own settings."""

from __future__ import annotations

from pydantic import Field

from hyfree_ray.generators.record import GeneratorConfig


class FlowConfig(GeneratorConfig):
    """Width, solver and privacy of a rectified flow."""

    max_channels: int = Field(default=256, ge=8)
    """Features at most."""
    evaluations: int = Field(default=10, ge=2)
    """Of the network for an image."""
    epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Differential privacy of the training, by patient; None: none is asked for."""
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Norm that a patient's gradient is cut to, where it is."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images an update; None: derived from the training's length."""
    learning_rate: float | None = Field(default=None, gt=0)
    """The highest; None: derived from the batch."""

    @property
    def private(self) -> bool:
        return self.epsilon is not None

    @property
    def sample_passes(self) -> float:
        return float(self.evaluations)


BUDGETS = {"small": FlowConfig(max_channels=64), "smoke": FlowConfig(max_channels=16)}
