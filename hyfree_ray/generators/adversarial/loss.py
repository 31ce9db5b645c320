"""Losses and regularisers. N images, L layers, Z latent.

The logistic ones are StyleGAN2's (Karras et al. 2020, arXiv 1912.04958, section 3.1 and appendix
B), WGAN-GP's are of progressive growing (Karras et al. 2018, arXiv 1710.10196, appendix A).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

R1_GAMMA = 10.0
R1_EVERY = 16
"""Steps between two R1 penalties; each counts this many times."""
GRADIENT_WEIGHT = 10.0
DRIFT_WEIGHT = 1e-3
"""How much it counts that logits of real images leave 0."""
PATH_WEIGHT = 2.0
PATH_EVERY = 4
PATH_DECAY = 0.01
"""How fast the running mean of the path length moves."""


def generator_loss(fake_N: Tensor) -> Tensor:
    """Non-saturating logistic loss (Goodfellow et al. 2014): -log sigmoid(D(G(z)))."""
    return F.softplus(-fake_N).mean()


def discriminator_loss(real_N: Tensor, fake_N: Tensor) -> Tensor:
    """Logistic loss: -log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
    return F.softplus(-real_N).mean() + F.softplus(fake_N).mean()


def r1_penalty(images_NCHW: Tensor, discriminate: Callable[[Tensor], Tensor]) -> Tensor:
    """gamma / 2 E |grad D(x)|^2 on real images (Mescheder et al. 2018, arXiv 1801.04406, eq. 9)."""
    images_NCHW = images_NCHW.detach().requires_grad_()
    logits_N = discriminate(images_NCHW)
    (slope_NCHW,) = torch.autograd.grad(logits_N.sum(), images_NCHW, create_graph=True)
    return slope_NCHW.square().sum((1, 2, 3)).mean() * (R1_GAMMA / 2)


def path_lengths(w_NLZ: Tensor, images_NCHW: Tensor, noise_NCHW: Tensor) -> Tensor:
    """|J_w^T y| for a random image y (Karras et al. 2020, equation 4), mean square over layers.

    Args:
        noise_NCHW: standard normal; divided by the root of the number of pixels here.
    """
    scale = 1 / math.sqrt(math.prod(images_NCHW.shape[2:]))
    (slope_NLZ,) = torch.autograd.grad(
        (images_NCHW * noise_NCHW).sum() * scale, w_NLZ, create_graph=True
    )
    return slope_NLZ.square().sum(2).mean(1).sqrt()


def path_penalty(lengths_N: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """weight E (|J_w^T y| - a)^2 and the new a, the running mean (equation 4).

    Args:
        mean: a before this step.
    """
    target = torch.lerp(mean, lengths_N.detach().mean(), PATH_DECAY)
    return (lengths_N - target).square().mean() * PATH_WEIGHT, target


def wasserstein_loss(real_N: Tensor, fake_N: Tensor) -> Tensor:
    """E D(G(z)) - E D(x), and what keeps logits near 0 (Karras et al. 2018, appendix A.1)."""
    return fake_N.mean() - real_N.mean() + DRIFT_WEIGHT * real_N.square().mean()


def gradient_penalty(
    real_NCHW: Tensor,
    fake_NCHW: Tensor,
    share_N: Tensor,
    discriminate: Callable[[Tensor], Tensor],
) -> Tensor:
    """weight E (|grad D(x)| - 1)^2 between images (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3).

    Args:
        real_NCHW: the one end.
        fake_NCHW: the other.
        share_N: in [0, 1]; how far from the one to the other.
        discriminate: images to logits.
    """
    between_NCHW = torch.lerp(real_NCHW, fake_NCHW, share_N[:, None, None, None])
    between_NCHW = between_NCHW.detach().requires_grad_()
    logits_N = discriminate(between_NCHW)
    (slope_NCHW,) = torch.autograd.grad(logits_N.sum(), between_NCHW, create_graph=True)
    length_N = slope_NCHW.flatten(1).square().sum(1).add(1e-12).sqrt()
    return (length_N - 1).square().mean() * GRADIENT_WEIGHT
