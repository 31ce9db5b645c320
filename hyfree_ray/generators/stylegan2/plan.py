"""StyleGAN2's shape, derived from nnU-Net's plan."""

from __future__ import annotations

from dataclasses import dataclass

from hyfree_ray.generators.adversarial.plan import AdversarialPlan, channels_of, latent_of
from hyfree_ray.generators.plan import AVERAGED, GeneratorPlan
from hyfree_ray.generators.stylegan2.config import StyleGan2Config
from hyfree_ray.segmenters.unet_plan import UNetPlan

MAPPING_LAYERS = 2


@dataclass(frozen=True, kw_only=True)
class StyleGan2Plan(AdversarialPlan):
    """What generator and discriminator are built from."""


def derive(unet: UNetPlan, config: StyleGan2Config) -> StyleGan2Plan:
    """Derive the plan in numbered steps.

    Raises:
        HyfreeError: a U-Net plan that no generator can be built from.
    """
    shape, width = GeneratorPlan.of(unet), config.max_channels
    channels, how = channels_of(shape, width)
    latent = latent_of(width)
    return StyleGan2Plan(
        **shape.with_steps(
            how,
            f"latents z = w = {latent}, mapping of 2 layers: min(512, 4 x width cap)",
            "training: batch 8, minibatch-stddev group 4, Adam 0.002 (0, 0.99), R1 10 every 16 "
            "steps, path length 2 every 4, style mixing 0.9: the paper's values",
            AVERAGED,
        ),
        level_channels=channels,
        latent_size=latent,
    )
