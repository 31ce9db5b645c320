"""U-Net plans for the generators' tests."""

from __future__ import annotations

from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.segmenters.unet_plan import UNetPlan

HALVINGS = ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2))


def unet_plan(
    patch: tuple[int, int],
    *,
    channels: int = 1,
    strides: tuple[tuple[int, int], ...] = HALVINGS,
    kernels: tuple[tuple[int, int], ...] | None = None,
) -> UNetPlan:
    """A plan such as nnU-Net writes."""
    stages = len(strides)
    return UNetPlan(
        patch_size=patch,
        spacing=(1.0, 1.0),
        strides=strides,
        kernel_sizes=kernels or ((3, 3),) * stages,
        features_per_stage=tuple(min(32 * 2**stage, 512) for stage in range(stages)),
        batch_size=12,
        channels=channels,
        normalization_schemes=("ZScoreNormalization",) * channels,
    )


def tiny_plan(channels: int = 1, patch: tuple[int, int] = (24, 20)) -> GeneratorPlan:
    """Non-square, with a stride along one axis only, and sizes that the strides do not divide."""
    strides = ((1, 1), (2, 2), (2, 1), (1, 2))
    return GeneratorPlan.derive(
        unet_plan(patch, channels=channels, strides=strides), max_channels=8
    )
