"""Rectified flow: training and sampling. N images, C channels, H, W (padded).

Liu et al. 2022 (arXiv 2209.03003) and Lipman et al. 2022 (arXiv 2210.02747): on the straight
line x_t = (1 - t) noise + t image the velocity is image - noise; a network learns its mean given
x_t, and an image is drawn by following it from noise at t = 0 to t = 1. The network draws the image
and its error counts as the velocity's, (image - x_t) / (1 - t).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from hyfree_ray.generators.denoising.learner import DenoiserSampler
from hyfree_ray.generators.flow.learner import NEAR, FlowLearner
from hyfree_ray.generators.flow.network import Denoiser
from hyfree_ray.generators.flow.plan import FlowPlan
from hyfree_ray.generators.protocol import Compute

LOSS_TIMES = 16
"""Times at which an image's loss is taken."""


def time_grid(steps: int) -> list[float]:
    """Times from 0 to 1, closer together at both ends, where the velocity turns fastest."""
    places = (2 * k / steps - 1 for k in range(steps + 1))
    return [0.5 + 0.5 * math.tanh(place) / math.tanh(1) for place in places]


def follow(velocity: Callable[[Tensor, float], Tensor], x_NCHW: Tensor, steps: int) -> Tensor:
    """Integrate dx/dt = velocity(x, t) from t = 0 to 1, one evaluation a step.

    Adams and Bashforth's two-step method for uneven steps (Hairer, Norsett & Wanner 1993,
    section III.5): the velocity is extended along its last change. Ten such steps follow the flow
    as closely as 25 of Euler's.
    """
    before, last = None, 0.0
    for now, then in pairwise(time_grid(steps)):
        length = then - now
        present_NCHW = velocity(x_NCHW, now)
        slope_NCHW = present_NCHW
        if before is not None:
            slope_NCHW = present_NCHW + (present_NCHW - before) * (length / (2 * last))
        x_NCHW = x_NCHW + length * slope_NCHW
        before, last = present_NCHW, length
    return x_NCHW


class FlowSampler(DenoiserSampler):
    """Follows the velocity from noise to an image."""

    def __init__(self, plan: FlowPlan, compute: Compute, weights: dict[str, Tensor]) -> None:
        super().__init__(plan, Denoiser(plan, compute.dtype), compute, weights)

    def _velocity(self, x_NCHW: Tensor, time: float) -> Tensor:
        time_N = torch.full((len(x_NCHW),), time, device=x_NCHW.device)
        image_NCHW: Tensor = self._network(x_NCHW, time_N, None, self._given_NKHW)
        return (image_NCHW - x_NCHW) / (1 - time)

    def losses(self, images_NCHW: Tensor) -> Tensor:
        """Return loss_N, the error of training at `LOSS_TIMES` even times, with noise of its own
        each: a patient's loss depends on nobody else."""
        padded_NCHW = F.pad(images_NCHW, self._plan.sides, mode="replicate")
        total_N = torch.zeros(len(images_NCHW), device=images_NCHW.device)
        for draw in range(LOSS_TIMES):
            source = torch.Generator().manual_seed(draw)
            noise_1CHW = torch.randn((1, *padded_NCHW.shape[1:]), generator=source)
            time = (draw + 0.5) / LOSS_TIMES
            line_NCHW = torch.lerp(noise_1CHW.to(padded_NCHW.device), padded_NCHW, time)
            time_N = torch.full((len(line_NCHW),), time, device=line_NCHW.device)
            error_NCHW = (self._network(line_NCHW, time_N) - padded_NCHW) / max(1 - time, NEAR)
            total_N += error_NCHW.square().mean((1, 2, 3))
        return total_N / LOSS_TIMES

    def _denoise(self, noise: Callable[[], Tensor]) -> Tensor:
        return follow(self._velocity, noise(), self._plan.evaluations)


class FlowBackend:
    """The rectified flow as a backend."""

    def learner(self, plan: FlowPlan, compute: Compute, *, images_shown: int) -> FlowLearner:
        """A flow with fresh weights, private where its plan asks for it."""
        if plan.epsilon is not None:
            from hyfree_ray.generators.flow.private import PrivateFlowLearner

            return PrivateFlowLearner(plan, compute, images_shown=images_shown)
        return FlowLearner(plan, compute, images_shown=images_shown)

    def sampler(self, plan: FlowPlan, compute: Compute, weights: dict[str, Tensor]) -> FlowSampler:
        """A flow with the weights of a snapshot."""
        return FlowSampler(plan, compute, weights)


BACKEND = FlowBackend()
