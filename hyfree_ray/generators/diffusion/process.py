"""The process from an image to noise, and its steps back. N images, C channels, H, W, T steps.

Ho et al. 2020 (DDPM, arXiv 2006.11239); Song et al. 2021 (DDIM, arXiv 2010.02502). Images are of
about unit variance: q(x_t | x_0) = N(sqrt(abar_t) x_0, 1 - abar_t).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from hyfree_ray.generators.diffusion.config import STEPS

BETA_FIRST, BETA_LAST = 2.5e-5, 5e-3
"""Akbar et al. 2024 (arXiv 2306.02986): a quarter of Ho et al.'s over four times the steps."""


@lru_cache
def betas_T() -> Tensor:
    """Variance of the noise that each step adds, float64."""
    return torch.linspace(BETA_FIRST, BETA_LAST, STEPS, dtype=torch.float64)


@lru_cache
def kept_T() -> Tensor:
    """Share of the image's variance after each step, float64: abar_t = prod (1 - beta)."""
    return (1 - betas_T()).cumprod(0)


def noisy(images_NCHW: Tensor, noise_NCHW: Tensor, kept_N: Tensor) -> Tensor:
    """x_t of images and noise (Ho et al. 2020, equation 4)."""
    kept_N111 = kept_N[:, None, None, None]
    return kept_N111.sqrt() * images_NCHW + (1 - kept_N111).sqrt() * noise_NCHW


def image_behind(x_NCHW: Tensor, noise_NCHW: Tensor, kept: float) -> Tensor:
    """x_0 of x_t and its noise: equation 4 solved for the image."""
    return (x_NCHW - (1 - kept) ** 0.5 * noise_NCHW) / kept**0.5


def posterior_mean(x_NCHW: Tensor, image_NCHW: Tensor, step: int) -> Tensor:
    """Mean of q(x_(t-1) | x_t, x_0) (Ho et al. 2020, equation 7)."""
    beta, kept = float(betas_T()[step]), float(kept_T()[step])
    before = kept / (1 - beta)
    from_image = before**0.5 * beta / (1 - kept)
    from_noisy = (1 - beta) ** 0.5 * (1 - before) / (1 - kept)
    return from_image * image_NCHW + from_noisy * x_NCHW


ImageOf = Callable[[Tensor, int, float], Tensor]
"""The image that is believed to be behind x_t, of its step and abar there."""


def ancestral(image_of: ImageOf, noise: Callable[[], Tensor]) -> Tensor:
    """Go all steps back, with noise of variance beta (Ho et al. 2020, algorithm 2).

    Args:
        image_of: what is drawn at a step.
        noise: gives standard normal noise_NCHW, anew at each call.
    """
    x_NCHW = noise()
    for step in reversed(range(STEPS)):
        x_NCHW = posterior_mean(x_NCHW, image_of(x_NCHW, step, float(kept_T()[step])), step)
        if step > 0:
            x_NCHW = x_NCHW + float(betas_T()[step]) ** 0.5 * noise()
    return x_NCHW


def ddim(image_of: ImageOf, x_NCHW: Tensor, evaluations: int) -> Tensor:
    """Go back in fewer steps, without noise (Song et al. 2021, equation 12, sigma 0).

    The noise is what x_t is beside the image, which may have been clipped.
    """
    steps = [STEPS - 1 - STEPS * k // evaluations for k in range(evaluations)]
    kept = [float(kept_T()[step]) for step in steps] + [1.0]
    for step, (now, then) in zip(steps, pairwise(kept), strict=True):
        image_NCHW = image_of(x_NCHW, step, now)
        noise_NCHW = (x_NCHW - now**0.5 * image_NCHW) / (1 - now) ** 0.5
        x_NCHW = then**0.5 * image_NCHW + (1 - then) ** 0.5 * noise_NCHW
    return x_NCHW
