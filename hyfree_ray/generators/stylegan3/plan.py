"""StyleGAN3's shape, derived from nnU-Net's plan. Rates are samples a side, (height, width).

Karras et al. 2021 (arXiv 2106.12423), section 3.2 and appendix G. Each axis has rates and cutoffs
of its own; those of the paper are powers of two, these the sizes of the plan's levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyfree_ray.generators.adversarial.plan import AdversarialPlan, channels_of, latent_of
from hyfree_ray.generators.plan import AVERAGED, GeneratorPlan, Size, size_text
from hyfree_ray.generators.stylegan3.config import StyleGan3Config
from hyfree_ray.segmenters.unet_plan import UNetPlan

MAPPING_LAYERS = 2
MARGIN = 10
"""Samples that a layer's features reach beyond each edge of the image."""
_CRITICAL = 2
"""Layers at the end that are sampled as coarsely as can be."""
_FIRST_CUTOFF = 2.0
"""Periods a side that the input has at most."""
_FIRST_STOP, _LAST_STOP = 1.1, 0.3
"""Octaves from the cutoff to where nothing is left, of the first and the last layer."""
_CHANNEL_BUDGET = 16384


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a layer puts out."""

    size: Size
    rate: Size
    cutoff: tuple[float, float]
    """Periods a side that are kept."""
    half_width: tuple[float, float]
    """Of the band in which a filter falls."""
    channels: int
    kernel: Size


@dataclass(frozen=True, kw_only=True)
class StyleGan3Plan(AdversarialPlan):
    """What generator and discriminator are built from; `level_channels` are the latter's."""

    max_channels: int
    layers: int
    """Of the generator, besides the one to the image."""

    def layer(self, number: int) -> Layer:
        """Return a layer; `layers` is the one to the image."""
        share = min(number / max(1, self.layers - _CRITICAL), 1.0)
        axes = [self._axis(axis, share) for axis in (0, 1)]
        rate = (axes[0][1], axes[1][1])
        level = max(
            i
            for i, size in enumerate(self.level_sizes)
            if all(side >= wanted for side, wanted in zip(size, rate, strict=True))
        )
        cutoff = (axes[0][0], axes[1][0])
        width = _CHANNEL_BUDGET / math.sqrt(cutoff[0] * cutoff[1])
        last = number >= self.layers - 1
        return Layer(
            size=self.padded_size if last else (rate[0] + 2 * MARGIN, rate[1] + 2 * MARGIN),
            rate=rate,
            cutoff=cutoff,
            half_width=(axes[0][2], axes[1][2]),
            channels=self.channels if number == self.layers else self._channels(width),
            kernel=self.kernel_sizes[level],
        )

    def _channels(self, width: float) -> int:
        return round(min(width, self.max_channels))

    def _axis(self, axis: int, share: float) -> tuple[float, int, float]:
        """Cutoff, rate and half width along an axis, `share` of the way to the last layers."""
        side = self.padded_size[axis]
        first = min(_FIRST_CUTOFF, side / 2)
        cutoff = first * (side / 2 / first) ** share
        stop_first, stop_last = first * 2**_FIRST_STOP, side / 2 * 2**_LAST_STOP
        stop = stop_first * (stop_last / stop_first) ** share
        wanted = min(2 * stop, side)
        rate = min(size[axis] for size in self.level_sizes if size[axis] >= wanted)
        return cutoff, rate, max(stop, rate / 2) - cutoff


def derive(unet: UNetPlan, config: StyleGan3Config) -> StyleGan3Plan:
    """Derive the plan in numbered steps.

    Raises:
        HyfreeError: a U-Net plan that no generator can be built from.
    """
    shape, width = GeneratorPlan.of(unet), config.max_channels
    channels, how = channels_of(shape, width)
    latent = latent_of(width)
    fields = shape.with_steps()
    plan = StyleGan3Plan(
        **fields,
        level_channels=channels,
        latent_size=latent,
        max_channels=width,
        layers=config.layers,
    )
    layers = [plan.layer(number) for number in range(config.layers + 1)]
    steps = shape.with_steps(
        f"discriminator of residual blocks: {how}",
        f"generator of {config.layers} layers at rates of "
        f"{' '.join(size_text(layer.rate) for layer in layers)}: the smallest of the levels' that "
        "hold what a layer lets through, each axis by itself",
        f"channels {' '.join(str(layer.channels) for layer in layers)}: min({_CHANNEL_BUDGET} / "
        f"cutoff, {width})",
        f"latents z = w = {latent}, mapping of {MAPPING_LAYERS} layers: min(512, 4 x width cap)",
        "training: batch 8, minibatch-stddev group 4, Adam 0.0025 and 0.002 (0, 0.99), R1 10 every "
        "16 steps: the paper's values; real and generated images augmented alike (DiffAugment)",
        AVERAGED,
    )["steps"]
    return StyleGan3Plan(**vars(plan) | {"steps": steps})
