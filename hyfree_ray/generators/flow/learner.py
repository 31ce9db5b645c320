"""The flow's network in training. Shapes: N images, C channels, H, W (padded), A augmentations."""

from __future__ import annotations

import torch
from torch import Tensor

from hyfree_ray.generators.denoising.learner import DenoiserLearner
from hyfree_ray.generators.flow.network import Denoiser
from hyfree_ray.generators.flow.plan import FlowPlan
from hyfree_ray.generators.protocol import Compute

NEAR = 0.2
"""An error counts at most as it does when so much of the way is left: what is left to do later is
grain, and a short training needs its time for what is before."""


def velocity_error(drawn_NCHW: Tensor, images_NCHW: Tensor, time_N: Tensor) -> Tensor:
    """Mean squared error of the velocity to an image that was drawn for another, limited near 1."""
    left_N111 = (1 - time_N[:, None, None, None]).clamp(min=NEAR)
    return ((drawn_NCHW - images_NCHW) / left_N111).square().mean()


class FlowLearner(DenoiserLearner):
    """The network in training."""

    def __init__(self, plan: FlowPlan, compute: Compute, *, images_shown: int) -> None:
        super().__init__(plan, Denoiser(plan, compute.dtype), compute, images_shown=images_shown)

    def _squared_error(
        self, images_NCHW: Tensor, noise_NCHW: Tensor, time_N: Tensor, told_NA: Tensor
    ) -> Tensor:
        """The velocity's (Liu et al. 2022, equation 1), limited near t = 1."""
        time_N111 = time_N[:, None, None, None]
        given_NKHW = None
        if self._plan.given_channels:
            images_NCHW, given_NKHW = images_NCHW.tensor_split([self._plan.channels], 1)
        line_NCHW = torch.lerp(noise_NCHW, images_NCHW, time_N111)
        drawn_NCHW = self.network(line_NCHW, time_N, told_NA, given_NKHW)
        return velocity_error(drawn_NCHW, images_NCHW, time_N)
