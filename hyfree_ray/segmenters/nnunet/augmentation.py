"""Trainings whose images are augmented more strongly or not at all, and are otherwise the same.

Shapes: C channels, H height, W width, O channels of a layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import (
    nnUNetTrainerNoDA,
)
from torch import Tensor
from torch.nn import functional

from hyfree_ray.segmenters.nnunet.train import ResumableTrainer

LAYERS = 4
WIDTH = 2
"""Channels of a random network's inner layers, for each channel of the image."""

SHARE = 0.5
"""Share of samples that go through a random network."""


class RandomIntensityNetwork(ImageOnlyTransform):
    """Domain randomisation: an image's intensities through a random shallow network.

    Global intensity non-linear augmentation (Ouyang et al. 2022, arXiv 2111.12525, section III-A):
    convolutions of 1x1 or 3x3 with normally distributed weights, leaky ReLUs between them; the
    result is mixed with the image by a uniformly distributed share and scaled to the image's
    Frobenius norm. Anatomy stays where it is, its look does not.
    """

    def get_parameters(self, **data: Any) -> dict[str, Any]:
        """Draw a network, and the share of its output."""
        channels = data["image"].shape[0]
        widths = [channels, *[WIDTH * channels] * (LAYERS - 1), channels]
        layers = []
        for read, written in itertools.pairwise(widths):
            side = 1 + 2 * int(torch.randint(2, ()))
            weight = torch.randn(written, read, side, side) / math.sqrt(read * side * side)
            layers.append((weight, torch.randn(written)))
        return {"layers": layers, "share": float(torch.rand(()))}

    def _apply_to_image(
        self, img: Tensor, layers: Sequence[tuple[Tensor, Tensor]], share: float
    ) -> Tensor:
        through = img.float()
        for number, (weight_OCHW, bias_O) in enumerate(layers):
            if number:
                through = functional.leaky_relu(through)
            padding = weight_OCHW.shape[-1] // 2
            through = functional.conv2d(through[None], weight_OCHW, bias_O, padding=padding)[0]
        mixed = share * through + (1 - share) * img
        return (mixed * (img.norm() / mixed.norm().clamp(min=1e-6))).to(img.dtype)


class PlainTrainer(ResumableTrainer, nnUNetTrainerNoDA):
    """Without any augmentation, as nnU-Net's trainer NoDA: none of the segmented images' mirrors
    are averaged either."""


class StrongTrainer(ResumableTrainer, nnUNetTrainerDA5):
    """With nnU-Net's own stronger augmentation, as its trainer DA5 has it."""


class RandomisedTrainer(StrongTrainer):
    """With domain randomisation as well."""

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> ComposeTransforms:
        """Return DA5's transforms, with random networks after those that move pixels."""
        found = nnUNetTrainerDA5.get_training_transforms(*args, **kwargs)
        moved = [isinstance(one, SpatialTransform) for one in found.transforms].index(True)
        randomised = RandomTransform(RandomIntensityNetwork(), apply_probability=SHARE)
        found.transforms.insert(moved + 1, randomised)
        return found


TRAINERS: Mapping[str, type[ResumableTrainer]] = {
    "none": PlainTrainer,
    "nnunet": ResumableTrainer,
    "da5": StrongTrainer,
    "da5+gin": RandomisedTrainer,
}
"""By the augmentation that a regime's record names."""
