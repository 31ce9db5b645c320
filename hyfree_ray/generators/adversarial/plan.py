"""What the adversarial generators share of their plans: channels, latents, growth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hyfree_ray.generators.plan import GeneratorPlan, Size, size_text

CHANNEL_BUDGET = 32768
FULL_WIDTH = 512
MAX_PHASE = 600_000
"""Images of a phase of growth at most (Karras et al. 2018, arXiv 1710.10196, appendix A)."""
MIN_UPDATES = 2000
"""A training of fewer updates takes smaller batches."""
MIN_BATCH = 8

GrowingPlanT = TypeVar("GrowingPlanT", bound="GrowingPlan")


def channels_at(size: Size, max_channels: int) -> int:
    """Return the channels at a size: min(32768 // floor(sqrt(h w)), max_channels)."""
    return min(CHANNEL_BUDGET // math.isqrt(size[0] * size[1]), max_channels)


def latent_of(max_channels: int) -> int:
    """Return the length of z and w: min(512, 4 max_channels)."""
    return min(FULL_WIDTH, 4 * max_channels)


def channels_of(shape: GeneratorPlan, max_channels: int) -> tuple[tuple[int, ...], str]:
    """Return the channels of each level, and the step that says so."""
    channels = tuple(channels_at(size, max_channels) for size in shape.level_sizes)
    step = (
        f"channels {' '.join(map(str, channels))} at "
        f"{' '.join(map(size_text, shape.level_sizes))}: min({CHANNEL_BUDGET} // "
        f"floor(sqrt(h w)), {max_channels})"
    )
    return channels, step + (
        "" if max_channels >= FULL_WIDTH else f"; the paper's cap is {FULL_WIDTH}"
    )


@dataclass(frozen=True, kw_only=True)
class AdversarialPlan(GeneratorPlan):
    """What generator and discriminator are built from."""

    level_channels: tuple[int, ...]
    """Channels of each level."""
    latent_size: int
    """Of z and w."""


@dataclass(frozen=True, kw_only=True)
class GrowingPlan(AdversarialPlan):
    """Networks that begin with the coarsest levels and get the finer ones one after another."""

    first_level: int
    """The finest level at the beginning."""
    phase_images: int = MAX_PHASE
    """Images shown in a phase; a level fades in for one and is trained for another."""
    batch_size: int = MIN_BATCH
    """Images an update."""

    def depth(self, images_shown: int) -> float:
        """Return the finest level so far; 2.25 is level 2, faded in by three quarters."""
        phases = images_shown / self.phase_images - 1
        if phases <= 0:
            return float(self.first_level)
        grown = int(phases / 2)
        return max(0.0, self.first_level - grown - min(1.0, phases - 2 * grown))


def batch_at(size: Size) -> int:
    """Return the batch at a size: 128 at 16 pixels, 8 at 256 (Karras et al. 2018, appendix A)."""
    side = math.isqrt(size[0] * size[1])
    return max(MIN_BATCH, min(128, 2048 // 2 ** max(0, math.ceil(math.log2(max(1, side))))))


def grown(
    plan: GrowingPlanT,
    config: Any,  # noqa: ARG001
    *,
    images: int,  # noqa: ARG001
    images_shown: int,
) -> GrowingPlanT:
    """Derive batch and phases from the length of the training, in further numbered steps.

    Args:
        plan: of the networks.
        config: not looked at.
        images: not looked at.
        images_shown: how many are shown in all.
    """
    largest = batch_at(plan.padded_size)
    batch = max(MIN_BATCH, min(largest, 2 ** int(math.log2(max(1, images_shown // MIN_UPDATES)))))
    phases = 2 * plan.first_level
    phase = min(MAX_PHASE, max(1, images_shown // (2 * max(1, phases))))
    steps = plan.with_steps(
        f"batches of {batch}: {largest} at this size, at least {MIN_BATCH}, fewer where there "
        f"would be fewer than {MIN_UPDATES} updates",
        f"grows by {plan.first_level} levels, each faded in over {phase} images and trained for "
        f"as many: half of {images_shown} images shown, at most {MAX_PHASE} a phase; the rest at "
        "full size; Adam begins anew with each level",
    )["steps"]
    return replace(plan, steps=steps, batch_size=batch, phase_images=phase)
