"""StyleGAN's shape, derived from nnU-Net's plan."""

from __future__ import annotations

from dataclasses import dataclass

from hyfree_ray.generators.adversarial.plan import GrowingPlan, channels_of, latent_of
from hyfree_ray.generators.plan import AVERAGED, GeneratorPlan, size_text
from hyfree_ray.generators.stylegan1.config import StyleGan1Config
from hyfree_ray.segmenters.unet_plan import UNetPlan

MAPPING_LAYERS = 8
TRUNCATED_LAYERS = 8
_BEGINS_AT = 8
"""Pixels of the smaller side at which training begins."""


@dataclass(frozen=True, kw_only=True)
class StyleGan1Plan(GrowingPlan):
    """What generator and discriminator are built from, how they grow, how styles are truncated."""

    truncation: float


def derive(unet: UNetPlan, config: StyleGan1Config) -> StyleGan1Plan:
    """Derive the plan in numbered steps.

    Raises:
        HyfreeError: a U-Net plan that no generator can be built from.
    """
    shape, width = GeneratorPlan.of(unet), config.max_channels
    channels, how = channels_of(shape, width)
    latent = latent_of(width)
    first = sum(min(size) >= _BEGINS_AT for size in shape.level_sizes[1:])
    return StyleGan1Plan(
        **shape.with_steps(
            how,
            f"latents z = w = {latent}, mapping of {MAPPING_LAYERS} layers: min(512, 4 x width "
            "cap)",
            f"begins at {size_text(shape.level_sizes[first])}: the coarsest level of "
            f"{_BEGINS_AT} pixels or more",
            "training: minibatch-stddev group 4, R1 10 at every step, style mixing 0.9, Adam 0.001 "
            "(0.0015 from 128 pixels on, 0.002 from 256), (0, 0.99): the paper's values; real and "
            "generated images augmented alike (DiffAugment)",
            f"styles of the first {TRUNCATED_LAYERS} layers drawn at {config.truncation:g} of "
            "their distance from the mean",
            AVERAGED,
        ),
        level_channels=channels,
        latent_size=latent,
        first_level=first,
        truncation=config.truncation,
    )
