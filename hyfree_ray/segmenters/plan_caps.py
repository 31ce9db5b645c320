"""What a budget may take from nnU-Net's plan: sizes, never rules."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PlanCaps(BaseModel):
    """Caps on nnU-Net's plan. `null` leaves nnU-Net's rule."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    working_size: int | None = Field(ge=16)
    """Longest side, in pixels, of the median image after resampling."""
    base_features: int | None = Field(ge=4)
    """Features of the first U-Net stage; nnU-Net: 32."""
    max_features: int | None = Field(ge=8)
    """Features of the deepest stages at most; nnU-Net: 512."""
    batch_size: int | None = Field(ge=2)
    """Slices a batch at most."""
