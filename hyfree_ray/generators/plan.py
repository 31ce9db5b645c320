"""The generators' shapes, derived from nnU-Net's `2d` plan in numbered steps (no hyperparameters).

HyFree-S3 (Chebykin et al. 2024, arXiv 2404.06240) gives the generator the U-Net's patch size,
strides and kernels. Sizes are (height, width) in pixels; lists go from the finest level (the
whole image) to the coarsest (the base).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.segmenters.unet_plan import UNetPlan

Size = tuple[int, int]

_CHANNEL_BUDGET = 32768
_FULL_WIDTH = 512


def channels_at(size: Size, max_channels: int) -> int:
    """StyleGAN2's channels at a size: min(32768 // floor(sqrt(h w)), max_channels)."""
    return min(_CHANNEL_BUDGET // math.isqrt(size[0] * size[1]), max_channels)


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True, kw_only=True)
class GeneratorPlan:
    """What both generators are built from. `base_size` x product of `strides` = `padded_size`."""

    patch_size: Size
    """What a generator returns: the centre of the padded size."""
    padded_size: Size
    base_size: Size
    channels: int
    """Image channels."""
    strides: tuple[Size, ...]
    """Stride from level i to level i + 1."""
    kernel_sizes: tuple[Size, ...]
    """Kernel of each level; one more than `strides`."""
    level_channels: tuple[int, ...]
    """StyleGAN2's channels of each level."""
    latent_size: int
    """StyleGAN2's z and w."""
    flow_unshuffle: Size
    """Pixels (h, w) folded into channels before the flow's first level."""
    flow_features: tuple[int, ...]
    """The flow's features of each of its levels (those left after unshuffling)."""
    steps: tuple[str, ...]
    """The derivation, one numbered line each."""

    @classmethod
    def derive(cls, unet: UNetPlan, *, max_channels: int = _FULL_WIDTH) -> GeneratorPlan:
        """Derive the plan.

        Args:
            unet: the 2d configuration of nnU-Net's plan.
            max_channels: channels at most; 512 is the paper's width, small budgets take less.

        Raises:
            HyfreeError: a width under 8, or a U-Net plan that no generator can be built from.
        """
        if max_channels < 8:
            raise HyfreeError(
                "generator.bad-plan",
                f"max_channels is {max_channels}; a generator needs at least 8",
            )
        strides, kernels = _levels(unet)
        product = (math.prod(s[0] for s in strides), math.prod(s[1] for s in strides))
        height, width = unet.patch_size
        base = (-(-height // product[0]), -(-width // product[1]))
        padded = (base[0] * product[0], base[1] * product[1])
        sizes = _level_sizes(padded, strides)
        level_channels = tuple(channels_at(size, max_channels) for size in sizes)
        latent = min(_FULL_WIDTH, 4 * max_channels)
        unshuffle = (2, 2) if strides[:1] == ((2, 2),) else (1, 1)
        flow_levels = len(sizes) - (unshuffle != (1, 1))
        first = min(max_channels, max(32, max_channels // 4))
        features = tuple(min(first * 2**level, max_channels) for level in range(flow_levels))
        plan = cls(
            patch_size=unet.patch_size,
            padded_size=padded,
            base_size=base,
            channels=unet.channels,
            strides=strides,
            kernel_sizes=kernels,
            level_channels=level_channels,
            latent_size=latent,
            flow_unshuffle=unshuffle,
            flow_features=features,
            steps=(),
        )
        told = _in_words(plan, product, max_channels)
        return replace(
            plan, steps=tuple(f"{number}. {step}" for number, step in enumerate(told, 1))
        )

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of each level, from the padded size to the base."""
        return _level_sizes(self.padded_size, self.strides)

    @property
    def flow_strides(self) -> tuple[Size, ...]:
        """Strides between the flow's levels."""
        return self.strides[len(self.strides) + 1 - len(self.flow_features) :]

    @property
    def flow_kernels(self) -> tuple[Size, ...]:
        """Kernels of the flow's levels."""
        return self.kernel_sizes[-len(self.flow_features) :]

    @property
    def margin(self) -> Size:
        """Pixels between the padded size's top left corner and the patch's."""
        (height, width), (tall, wide) = self.patch_size, self.padded_size
        return ((tall - height) // 2, (wide - width) // 2)

    def to_json(self) -> str:
        """The plan as text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> GeneratorPlan:
        """Read what `to_json` wrote."""
        values: Mapping[str, Any] = json.loads(text)
        return cls(**{name: _tuples(value) for name, value in values.items()})


def _in_words(plan: GeneratorPlan, product: Size, max_channels: int) -> tuple[str, ...]:
    """The derivation, a line a step. `product` is that of the strides."""
    return (
        f"patch {_text(plan.patch_size)}, {plan.channels} channels: the output is what the "
        "U-Net trains on",
        f"strides {' '.join(_text(s) for s in plan.strides) or 'none'} from fine to coarse: the "
        "U-Net's encoder after its stem, reversed in a generator",
        f"base {_text(plan.base_size)} = patch / {_text(product)}, rounded up"
        + (
            ": divides exactly"
            if plan.padded_size == plan.patch_size
            else f": the padded size {_text(plan.padded_size)} is cut to its centre"
        ),
        f"kernels {' '.join(_text(k) for k in plan.kernel_sizes)}, fine to coarse: the U-Net's; a "
        "strided convolution takes the coarser level's",
        f"stylegan2 channels {' '.join(map(str, plan.level_channels))} at "
        f"{' '.join(map(_text, plan.level_sizes))}: min({_CHANNEL_BUDGET} // floor(sqrt(h w)), "
        f"{max_channels})"
        + ("" if max_channels >= _FULL_WIDTH else f"; the paper's cap is {_FULL_WIDTH}"),
        f"stylegan2 latents z = w = {plan.latent_size}, mapping of 2 layers: "
        "min(512, 4 x width cap)",
        "stylegan2 training: batch 8, minibatch-stddev group 4, Adam 0.002 (0, 0.99), R1 10 "
        "every 16 steps, path length 2 every 4, style mixing 0.9: the paper's values",
        "averaged weights: half-life min(10,000 images, 5 % of the images shown so far), so "
        "that a short training forgets its beginning too",
        f"flow input unshuffled {_text(plan.flow_unshuffle)}: "
        + (
            "the first stride is 2x2, so pixels become channels at no loss and a quarter of "
            "the cost"
            if plan.flow_unshuffle == (2, 2)
            else "the first stride is not 2x2"
        ),
        f"flow features {' '.join(map(str, plan.flow_features))}: doubled at each level like the "
        f"U-Net's, from max(32, {max_channels} / 4), at most {max_channels}",
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _level_sizes(padded: Size, strides: tuple[Size, ...]) -> tuple[Size, ...]:
    sizes = [padded]
    for stride in strides:
        sizes.append((sizes[-1][0] // stride[0], sizes[-1][1] // stride[1]))
    return tuple(sizes)


def _levels(unet: UNetPlan) -> tuple[tuple[Size, ...], tuple[Size, ...]]:
    """Strides between levels and each level's kernel.

    The stem's stride of 1x1 is no step between levels; a stem that does stride gets a level of
    its own at full size.
    """
    if not unet.strides or len(unet.strides) != len(unet.kernel_sizes):
        raise HyfreeError(
            "generator.bad-plan",
            f"the U-Net plan has {len(unet.strides)} strides and {len(unet.kernel_sizes)} kernel "
            "sizes; it needs one of each for every stage",
        )
    if any(side % 2 == 0 for kernel in unet.kernel_sizes for side in kernel):
        raise HyfreeError(
            "generator.bad-plan",
            f"the U-Net plan has an even kernel in {unet.kernel_sizes}; use odd ones",
        )
    if unet.channels < 1 or min(unet.patch_size) < 1 or min(min(s) for s in unet.strides) < 1:
        raise HyfreeError(
            "generator.bad-plan",
            f"the U-Net plan has patch {unet.patch_size}, {unet.channels} channels and strides "
            f"{unet.strides}; all of them have to be at least 1",
        )
    if unet.strides[0] == (1, 1):
        return unet.strides[1:], unet.kernel_sizes
    return unet.strides, (unet.kernel_sizes[0], *unet.kernel_sizes)
