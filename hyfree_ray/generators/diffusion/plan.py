"""The diffusion model's shape, derived from nnU-Net's plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyfree_ray.generators.denoising.plan import DenoiserPlan, scheduled
from hyfree_ray.generators.diffusion.config import STEPS, DiffusionConfig
from hyfree_ray.generators.plan import AVERAGED, GeneratorPlan
from hyfree_ray.segmenters.unet_plan import UNetPlan

ATTENTIVE = 16 * 16
"""Places of a level at most, from which they look at each other."""
_MIN_FEATURES = 8


@dataclass(frozen=True, kw_only=True)
class DiffusionPlan(DenoiserPlan):
    """What the network and its sampler are built from, and what it is trained with."""

    blocks: int
    """Residual blocks of a level on the way down, and as many on the way up."""
    attention: tuple[int, ...]
    """Levels whose places look at each other."""


def derive(unet: UNetPlan, config: DiffusionConfig) -> DiffusionPlan:
    """Derive the plan in numbered steps.

    Raises:
        HyfreeError: a U-Net plan that no generator can be built from.
    """
    shape, width = GeneratorPlan.of(unet), config.max_channels
    first = max(_MIN_FEATURES, width // 4)
    levels = range(len(shape.level_sizes))
    features = tuple(min(first * 2 ** (level // 2), width) for level in levels)
    attention = tuple(i for i in levels if math.prod(shape.level_sizes[i]) <= ATTENTIVE)
    how = "ancestral sampling" if config.evaluations == STEPS else "DDIM"
    return DiffusionPlan(
        **shape.with_steps(
            f"features {' '.join(map(str, features))}: doubled at every other level from "
            f"{width} / 4, at most {width}",
            f"{config.blocks} residual blocks a level; attention in {len(attention)} of "
            f"{len(levels)} levels: those of 16x16 places or fewer",
            f"{STEPS} steps to noise, linear in beta; the network predicts the noise, beginning "
            "with its best linear guess, of images scaled by their mean and spread",
            f"{config.evaluations} evaluations of the network for an image: {how}",
            AVERAGED,
        ),
        unshuffle=(1, 1),
        features=features,
        evaluations=config.evaluations,
        blocks=config.blocks,
        attention=attention,
    )


def schedule(
    plan: DiffusionPlan, config: DiffusionConfig, *, images: int, images_shown: int
) -> DiffusionPlan:
    """Derive batch and learning rate, as for all that denoise, in further numbered steps."""
    return scheduled(
        plan,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        images=images,
        images_shown=images_shown,
    )
