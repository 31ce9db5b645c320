"""U-Net plans for the generators' tests."""

from __future__ import annotations

from hyfree_ray.generators import GENERATORS
from hyfree_ray.generators.flow import plan as flow
from hyfree_ray.generators.flow.config import FlowConfig
from hyfree_ray.generators.flow.plan import FlowPlan
from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.record import GeneratorConfig
from hyfree_ray.generators.stylegan2 import plan as stylegan2
from hyfree_ray.generators.stylegan2.config import StyleGan2Config
from hyfree_ray.generators.stylegan2.plan import StyleGan2Plan
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


def tiny_unet(channels: int = 1, patch: tuple[int, int] = (24, 20)) -> UNetPlan:
    """Non-square, with a stride along one axis only, and sizes that the strides do not divide."""
    strides = ((1, 1), (2, 2), (2, 1), (1, 2))
    return unet_plan(patch, channels=channels, strides=strides)


def tiny_flow(channels: int = 1, patch: tuple[int, int] = (24, 20)) -> FlowPlan:
    return flow.derive(tiny_unet(channels, patch), FlowConfig(max_channels=8))


def tiny_stylegan2(channels: int = 1, patch: tuple[int, int] = (24, 20)) -> StyleGan2Plan:
    return stylegan2.derive(tiny_unet(channels, patch), StyleGan2Config(max_channels=8))


def tiny_config(name: str) -> GeneratorConfig:
    """The narrowest network of a generator, drawn from as the budget smoke does."""
    generator = GENERATORS[name]
    return generator.configured({**generator.at("smoke").model_dump(), "max_channels": 8})


def tiny(name: str, unet: UNetPlan | None = None) -> GeneratorPlan:
    """The plan of a generator's narrowest network."""
    return GENERATORS[name].derive(unet or tiny_unet(), tiny_config(name))
