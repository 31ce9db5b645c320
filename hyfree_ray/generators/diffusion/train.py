"""Diffusion: network, training and sampling. N images, C channels, H, W (padded), A numbers.

Ho et al. 2020 (arXiv 2006.11239) as Akbar et al. 2024 (arXiv 2306.02986) use it: 4000 linear steps,
the network predicts the noise, the variance of a step back is fixed to beta. Images are scaled by
the training images' mean and spread. The network's part is added to the best linear guess of the
noise, sqrt(1 - abar) x_t where images have unit variance, so that a fresh one does not draw noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyfree_ray.generators.denoising.learner import DenoiserLearner, DenoiserSampler
from hyfree_ray.generators.denoising.unet import UNet
from hyfree_ray.generators.diffusion import process
from hyfree_ray.generators.diffusion.config import STEPS
from hyfree_ray.generators.diffusion.plan import DiffusionPlan
from hyfree_ray.generators.protocol import Compute


class NoisePredictor(UNet):
    """Predicts the noise in noisy, scaled, padded images."""

    def __init__(self, plan: DiffusionPlan, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(plan, dtype, blocks=plan.blocks, attention=plan.attention)

    def forward(
        self, x_NCHW: Tensor, step_N: Tensor, kept_N: Tensor, told_NA: Tensor | None = None
    ) -> Tensor:
        """The noise, float32.

        Args:
            x_NCHW: noisy images, float32.
            step_N: how many steps have been made, less one.
            kept_N: abar after them, float32.
            told_NA: how the images were augmented; None: not at all.
        """
        kept_N111 = kept_N[:, None, None, None]
        more_NCHW = self.transform(x_NCHW, step_N.float() / STEPS, told_NA)
        return (1 - kept_N111).sqrt() * x_NCHW + kept_N111.sqrt() * more_NCHW


class DiffusionLearner(DenoiserLearner):
    """The network in training."""

    def __init__(self, plan: DiffusionPlan, compute: Compute, *, images_shown: int) -> None:
        network = NoisePredictor(plan, compute.dtype)
        self._kept_T = process.kept_T().float().to(compute.device)
        super().__init__(plan, network, compute, images_shown=images_shown)

    def _squared_error(
        self, images_NCHW: Tensor, noise_NCHW: Tensor, time_N: Tensor, told_NA: Tensor
    ) -> Tensor:
        """The noise's (Ho et al. 2020, equation 14)."""
        step_N = (time_N * STEPS).long().clamp(max=STEPS - 1)
        kept_N = self._kept_T[step_N]
        scaled_NCHW = (images_NCHW - self.network.centre) / self.network.spread
        x_NCHW = process.noisy(scaled_NCHW, noise_NCHW, kept_N)
        predicted_NCHW: Tensor = self.network(x_NCHW, step_N, kept_N, told_NA)
        return (predicted_NCHW - noise_NCHW).square().mean()


class DiffusionSampler(DenoiserSampler):
    """Goes back from noise to an image: all steps with noise, or fewer without."""

    def __init__(self, plan: DiffusionPlan, compute: Compute, weights: dict[str, Tensor]) -> None:
        super().__init__(plan, NoisePredictor(plan, compute.dtype), compute, weights)

    def _image(self, x_NCHW: Tensor, step: int, kept: float) -> Tensor:
        """The image that the network believes in, scaled, clipped to [-1, 1] unscaled."""
        device = x_NCHW.device
        step_N = torch.full((len(x_NCHW),), step, device=device)
        kept_N = torch.full((len(x_NCHW),), kept, device=device)
        noise_NCHW: Tensor = self._network(x_NCHW, step_N, kept_N)
        centre, spread = self._network.centre, self._network.spread
        image_NCHW = process.image_behind(x_NCHW, noise_NCHW, kept) * spread + centre
        return (image_NCHW.clamp(-1, 1) - centre) / spread

    def _denoise(self, noise: Callable[[], Tensor]) -> Tensor:
        if self._plan.evaluations == STEPS:
            x_NCHW = process.ancestral(self._image, noise)
        else:
            x_NCHW = process.ddim(self._image, noise(), self._plan.evaluations)
        return x_NCHW * self._network.spread + self._network.centre


class DiffusionBackend:
    """The diffusion model as a backend."""

    def learner(
        self, plan: DiffusionPlan, compute: Compute, *, images_shown: int
    ) -> DiffusionLearner:
        """A network with fresh weights."""
        return DiffusionLearner(plan, compute, images_shown=images_shown)

    def sampler(
        self, plan: DiffusionPlan, compute: Compute, weights: dict[str, Tensor]
    ) -> DiffusionSampler:
        """A network with the weights of a snapshot."""
        return DiffusionSampler(plan, compute, weights)


BACKEND = DiffusionBackend()
