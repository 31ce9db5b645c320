"""StyleGAN2's shape, derived from nnU-Net's plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyfree_ray.generators.plan import AVERAGED, GeneratorPlan, Size, size_text
from hyfree_ray.generators.stylegan2.config import StyleGan2Config
from hyfree_ray.segmenters.unet_plan import UNetPlan

_CHANNEL_BUDGET = 32768
_FULL_WIDTH = 512


def channels_at(size: Size, max_channels: int) -> int:
    """Return StyleGAN2's channels at a size: min(32768 // floor(sqrt(h w)), max_channels)."""
    return min(_CHANNEL_BUDGET // math.isqrt(size[0] * size[1]), max_channels)


@dataclass(frozen=True, kw_only=True)
class StyleGan2Plan(GeneratorPlan):
    """What generator and discriminator are built from."""

    level_channels: tuple[int, ...]
    """Channels of each level."""
    latent_size: int
    """Of z and w."""


def derive(unet: UNetPlan, config: StyleGan2Config) -> StyleGan2Plan:
    """Derive the plan in numbered steps.

    Raises:
        HyfreeError: a U-Net plan that no generator can be built from.
    """
    shape, width = GeneratorPlan.of(unet), config.max_channels
    channels = tuple(channels_at(size, width) for size in shape.level_sizes)
    latent = min(_FULL_WIDTH, 4 * width)
    return StyleGan2Plan(
        **shape.with_steps(
            f"channels {' '.join(map(str, channels))} at "
            f"{' '.join(map(size_text, shape.level_sizes))}: min({_CHANNEL_BUDGET} // "
            f"floor(sqrt(h w)), {width})"
            + ("" if width >= _FULL_WIDTH else f"; the paper's cap is {_FULL_WIDTH}"),
            f"latents z = w = {latent}, mapping of 2 layers: min(512, 4 x width cap)",
            "training: batch 8, minibatch-stddev group 4, Adam 0.002 (0, 0.99), R1 10 every 16 "
            "steps, path length 2 every 4, style mixing 0.9: the paper's values",
            AVERAGED,
        ),
        level_channels=channels,
        latent_size=latent,
    )
