"""Progressive GAN's shape, derived from nnU-Net's plan."""

from __future__ import annotations

from dataclasses import dataclass

from hyfree_ray.generators.adversarial.plan import GrowingPlan, channels_of, latent_of
from hyfree_ray.generators.plan import AVERAGED, GeneratorPlan
from hyfree_ray.generators.progan.config import ProGanConfig
from hyfree_ray.segmenters.unet_plan import UNetPlan


@dataclass(frozen=True, kw_only=True)
class ProGanPlan(GrowingPlan):
    """What generator and discriminator are built from, and how they grow."""


def derive(unet: UNetPlan, config: ProGanConfig) -> ProGanPlan:
    """Derive the plan in numbered steps.

    Raises:
        HyfreeError: a U-Net plan that no generator can be built from.
    """
    shape, width = GeneratorPlan.of(unet), config.max_channels
    channels, how = channels_of(shape, width)
    latent = latent_of(width)
    return ProGanPlan(
        **shape.with_steps(
            how,
            f"latent z = {latent}, on the sphere: min(512, 4 x width cap)",
            "training: WGAN-GP 10, drift 0.001, minibatch-stddev group 4, Adam 0.001 (0, 0.99): "
            "the paper's values; real and generated images augmented alike (DiffAugment)",
            AVERAGED,
        ),
        level_channels=channels,
        latent_size=latent,
        first_level=len(shape.strides),
    )
