"""The shape that all generators share, from nnU-Net's `2d` plan in numbered steps.

HyFree-S3 (Chebykin et al. 2024, arXiv 2404.06240) gives the generator the U-Net's patch size,
strides and kernels. A generator's own plan adds to it what else its networks are built from. Sizes
are (height, width) in pixels; lists go from the finest level (the whole image) to the coarsest (the
base).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.segmenters.unet_plan import UNetPlan

Size = tuple[int, int]

AVERAGED = (
    "averaged weights: half-life min(10,000 images, 5 % of the images shown so far), so that a "
    "short training forgets its beginning too"
)
"""The step of the derivation for who draws from `average.Average`."""

PlanT = TypeVar("PlanT", bound="GeneratorPlan")


def size_text(size: Size) -> str:
    """Write a size as 96x64."""
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True, kw_only=True)
class GeneratorPlan:
    """What every generator is built from. `base_size` x product of `strides` = `padded_size`."""

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
    steps: tuple[str, ...]
    """The derivation, one numbered line each."""
    mask_channels: int = 0
    """How many of the channels trained on, the last ones, stand for a mask: brightness is none of
    theirs."""
    given_channels: int = 0
    """Channels of a mask that an image is drawn for; they follow the image's in training."""

    @classmethod
    def of(cls, unet: UNetPlan) -> GeneratorPlan:
        """Derive what all generators share from the 2d configuration of nnU-Net's plan.

        Raises:
            HyfreeError: a U-Net plan that no generator can be built from.
        """
        strides, kernels = _levels(unet)
        product = (math.prod(s[0] for s in strides), math.prod(s[1] for s in strides))
        height, width = unet.patch_size
        base = (-(-height // product[0]), -(-width // product[1]))
        plan = GeneratorPlan(
            patch_size=unet.patch_size,
            padded_size=(base[0] * product[0], base[1] * product[1]),
            base_size=base,
            channels=unet.channels,
            strides=strides,
            kernel_sizes=kernels,
            steps=(),
        )
        return replace(plan, **plan.with_steps(*_shared_steps(plan, product)))

    def with_steps(self, *further: str) -> dict[str, Any]:
        """Return the fields, with further steps of the derivation numbered after those so far."""
        numbered = (f"{number}. {step}" for number, step in enumerate(further, len(self.steps) + 1))
        return vars(self) | {"steps": (*self.steps, *numbered)}

    @property
    def seen_channels(self) -> int:
        """Channels that are trained on: the image's, and those of a mask that is given."""
        return self.channels + self.given_channels

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of each level, from the padded size to the base."""
        sizes = [self.padded_size]
        for stride in self.strides:
            sizes.append((sizes[-1][0] // stride[0], sizes[-1][1] // stride[1]))
        return tuple(sizes)

    @property
    def margin(self) -> Size:
        """Pixels between the padded size's top left corner and the patch's."""
        (height, width), (tall, wide) = self.patch_size, self.padded_size
        return ((tall - height) // 2, (wide - width) // 2)

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Pixels left, right, above and below the patch in the padded size, as torch pads."""
        (height, width), (tall, wide) = self.patch_size, self.padded_size
        top, left = self.margin
        return (left, wide - width - left, top, tall - height - top)

    def to_json(self) -> str:
        """Write the plan as text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls: type[PlanT], text: str) -> PlanT:
        """Read what `to_json` wrote."""
        values: Mapping[str, Any] = json.loads(text)
        return cls(**{name: _tuples(value) for name, value in values.items()})


def _shared_steps(plan: GeneratorPlan, product: Size) -> tuple[str, ...]:
    """The derivation so far, a line a step. `product` is that of the strides."""
    return (
        f"patch {size_text(plan.patch_size)}, {plan.channels} channels: the output is what the "
        "U-Net trains on",
        f"strides {' '.join(size_text(s) for s in plan.strides) or 'none'} from fine to coarse: "
        "the U-Net's encoder after its stem, reversed in a generator",
        f"base {size_text(plan.base_size)} = patch / {size_text(product)}, rounded up"
        + (
            ": divides exactly"
            if plan.padded_size == plan.patch_size
            else f": the padded size {size_text(plan.padded_size)} is cut to its centre"
        ),
        f"kernels {' '.join(size_text(k) for k in plan.kernel_sizes)}, fine to coarse: the "
        "U-Net's; a strided convolution takes the coarser level's",
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


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
            f"{unet.strides}; all must be at least 1",
        )
    if unet.strides[0] == (1, 1):
        return unet.strides[1:], unet.kernel_sizes
    return unet.strides, (unet.kernel_sizes[0], *unet.kernel_sizes)
