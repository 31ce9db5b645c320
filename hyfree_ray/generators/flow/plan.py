"""The flow's shape, derived from nnU-Net's plan."""

from __future__ import annotations

from dataclasses import dataclass

from hyfree_ray.generators.denoising.plan import DenoiserPlan, scheduled
from hyfree_ray.generators.flow.config import FlowConfig
from hyfree_ray.generators.plan import AVERAGED, GeneratorPlan, size_text
from hyfree_ray.segmenters.unet_plan import UNetPlan


@dataclass(frozen=True, kw_only=True)
class FlowPlan(DenoiserPlan):
    """What the network and its sampler are built from, and what it is trained with."""

    epsilon: float | None = None
    """Differential privacy of the training; None: none."""
    clip: float = 1.0
    """Norm that a patient's gradient is cut to, where it is private."""


def derive(unet: UNetPlan, config: FlowConfig) -> FlowPlan:
    """Derive the plan in numbered steps.

    Raises:
        HyfreeError: a U-Net plan that no generator can be built from.
    """
    shape, width = GeneratorPlan.of(unet), config.max_channels
    unshuffle = (2, 2) if shape.strides[:1] == ((2, 2),) else (1, 1)
    levels = len(shape.level_sizes) - (unshuffle != (1, 1))
    first = min(width, max(32, width // 4))
    features = tuple(min(first * 2**level, width) for level in range(levels))
    why = (
        "the first stride is 2x2, so pixels become channels at no loss and a quarter of the cost"
        if unshuffle == (2, 2)
        else "the first stride is not 2x2"
    )
    return FlowPlan(
        **shape.with_steps(
            f"input unshuffled {size_text(unshuffle)}: {why}",
            f"features {' '.join(map(str, features))}: doubled at each level like the U-Net's, "
            f"from max(32, {width} / 4), at most {width}",
            "the network draws the image, scaled by the training images' mean and spread, and at "
            "each level learns what is where; its error counts as the velocity's, at most as with "
            "a fifth of the way left",
            f"{config.evaluations} evaluations of the network for an image, by a two-step solver",
            AVERAGED,
        ),
        unshuffle=unshuffle,
        features=features,
        evaluations=config.evaluations,
        epsilon=config.epsilon,
        clip=config.clip,
    )


def schedule(plan: FlowPlan, config: FlowConfig, *, images: int, images_shown: int) -> FlowPlan:
    """Derive batch and learning rate from the length of the training, in further numbered steps.

    Args:
        plan: of the network.
        config: what it says is taken as it is.
        images: training images.
        images_shown: how many are shown in all.
    """
    return scheduled(
        plan,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        images=images,
        images_shown=images_shown,
        private=config.epsilon is not None,
    )
