"""Progressive GAN's generator in the shape of nnU-Net's plan.

Karras et al. 2018 (arXiv 1710.10196), table 2. N images, C channels, H, W, Z latent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyfree_ray.generators.adversarial import ops
from hyfree_ray.generators.adversarial.growing import GrowingPainter, enlarge
from hyfree_ray.generators.adversarial.layers import Convolution, Linear, unit
from hyfree_ray.generators.plan import Size
from hyfree_ray.generators.progan.plan import ProGanPlan


class Generator(GrowingPainter):
    """z to an image: nearest neighbours and two convolutions a level, each normalised by pixel."""

    def __init__(self, plan: ProGanPlan, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(plan)
        self._dtype = dtype
        channels, kernels = plan.level_channels, plan.kernel_sizes
        base = channels[-1] * math.prod(plan.base_size)
        # As a convolution of the latent, spread over the base, would be scaled.
        self.enter = Linear(plan.latent_size, base, activation=True, gain=ops.ACTIVATION_GAIN / 4)
        self.base = Convolution(channels[-1], channels[-1], kernels[-1])
        levels = range(len(plan.strides))
        self.firsts = nn.ModuleList(
            Convolution(channels[i + 1], channels[i], kernels[i]) for i in levels
        )
        self.seconds = nn.ModuleList(
            Convolution(channels[i], channels[i], kernels[i]) for i in levels
        )

    @property
    def noise_sizes(self) -> list[Size]:
        """It takes no noise but the latent."""
        return []

    def _block(self, level: int, x_NCHW: Tensor) -> Tensor:
        x_NCHW = enlarge(x_NCHW, self._plan.level_sizes[level])
        for convolution in (self.firsts[level], self.seconds[level]):
            x_NCHW = unit(ops.activate(convolution(x_NCHW)))
        return x_NCHW

    def grown_images(self, z_NZ: Tensor) -> Tensor:
        """Images of the finest level's size."""
        base_NZ = unit(self.enter(unit(z_NZ)).unflatten(1, (-1, *self._plan.base_size)))
        x_NCHW = base_NZ.to(self._dtype).contiguous(memory_format=torch.channels_last)
        return self.paint(unit(ops.activate(self.base(x_NCHW))), self._block)

    def forward(self, z_NZ: Tensor, noises: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Patch-sized images."""
        return self.whole(self.grown_images(z_NZ))
