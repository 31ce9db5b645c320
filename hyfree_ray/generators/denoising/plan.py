"""What the generators that denoise share of their plans: widths of a U-Net, and its training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from hyfree_ray.generators.plan import GeneratorPlan, Size

MAX_BATCH = 16
COSTS: Mapping[int, float] = {16: 1.0, 8: 1.15, 4: 1.4}
"""What an image costs to train on in a batch of that size, in images of a batch of 16: on one CPU
thread at the width of `small` (`benchmarks/images.py --costs`). Written down, not measured where it
runs: a plan is the same on all machines."""
MIN_UPDATES = 500
"""A training of fewer updates takes smaller batches: 621 updates in batches of 16 drew heads as
good as 1,810 in batches of 4 in the same time (docs/RESULTS.md, "Images that teach")."""
AUGMENT_FROM = 300
"""Times that each image is shown, from which images are augmented: shown 100 times or less they are
learnt worse for it, and are not yet known by heart (docs/RESULTS.md, "Images that teach")."""
MAX_RATE = 4e-3
"""Adam's highest learning rate in batches of `MAX_BATCH`."""


DenoiserPlanT = TypeVar("DenoiserPlanT", bound="DenoiserPlan")


@dataclass(frozen=True, kw_only=True)
class DenoiserPlan(GeneratorPlan):
    """What a U-Net and its sampler are built from, and what it is trained with."""

    unshuffle: Size
    """Pixels (h, w) folded into channels before the first level."""
    features: tuple[int, ...]
    """Of each of the network's levels (those left after unshuffling)."""
    evaluations: int
    """Of the network for an image."""
    batch_size: int = MAX_BATCH
    """Images an update."""
    learning_rate: float = MAX_RATE
    """The highest."""
    augmented: bool = False
    """Whether images are augmented and the network is told how."""

    @property
    def feature_strides(self) -> tuple[Size, ...]:
        """Strides between the network's levels."""
        return self.strides[len(self.strides) + 1 - len(self.features) :]

    @property
    def feature_kernels(self) -> tuple[Size, ...]:
        """Kernels of the network's levels."""
        return self.kernel_sizes[-len(self.features) :]


def scheduled(
    plan: DenoiserPlanT,
    *,
    batch_size: int | None,
    learning_rate: float | None,
    images: int,
    images_shown: int,
    private: bool = False,
) -> DenoiserPlanT:
    """Derive batch and learning rate from the length of the training, in further numbered steps.

    Args:
        plan: of the network.
        batch_size: images an update, where that is set.
        learning_rate: the highest, where that is set.
        images: training images.
        images_shown: how many are shown in all.
        private: whether the training bounds what is learnt of a patient.
    """
    batch = batch_size or (MAX_BATCH if private else _batch_for(images_shown))
    rate = learning_rate or MAX_RATE * math.sqrt(min(1.0, batch / MAX_BATCH))
    updates = -(-images_shown // batch)
    why = "as set" if batch_size else _why(batch, private)
    augmented = not private and images_shown >= AUGMENT_FROM * images
    steps = plan.with_steps(
        f"{images} training images, {images_shown} shown in all",
        f"batches of {batch}, {updates} updates: {why}",
        f"learning rate {rate:.2g}: "
        + ("as set" if learning_rate else f"{MAX_RATE:g} x sqrt({batch} / {MAX_BATCH})")
        + ", after a linear warm-up over 2 % of the training falling like a cosine to 5 %",
        ("augmented, and the network told how" if augmented else "not augmented")
        + f": that pays where each image is shown {AUGMENT_FROM} times or more",
    )["steps"]
    return replace(plan, steps=steps, batch_size=batch, learning_rate=rate, augmented=augmented)


def _batch_for(images_shown: int) -> int:
    enough = (batch for batch in COSTS if images_shown >= MIN_UPDATES * batch)
    return next(enough, min(COSTS))


def _why(batch: int, private: bool) -> str:
    if private:
        return "the largest: the noise of a private training weighs the less"
    return (
        f"the largest of {', '.join(map(str, COSTS))} with at least {MIN_UPDATES} updates, or the "
        f"smallest; an image costs {COSTS[batch]:g} times what it does in batches of {MAX_BATCH}"
    )
