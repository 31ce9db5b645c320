"""StyleGAN: training and sampling. N images, C channels, H, W, L layers, Z latent.

Karras et al. 2019 (arXiv 1812.04948) with DiffAugment (Zhao et al. 2020, arXiv 2006.10738).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyfree_ray.generators.adversarial.growing import GrowingDiscriminator, GrowingLearner
from hyfree_ray.generators.adversarial.learner import AdversarialSampler, MixingLearner, adam
from hyfree_ray.generators.plan import Size
from hyfree_ray.generators.protocol import Compute
from hyfree_ray.generators.stylegan1.networks import Generator
from hyfree_ray.generators.stylegan1.plan import StyleGan1Plan

MEAN_DECAY = 0.995
"""What is left of the mean w after a step."""


def rate_at(size: Size) -> float:
    """The learning rate at a size (Karras et al. 2019, appendix C)."""
    side = math.sqrt(size[0] * size[1])
    return 2e-3 if side >= 256 else 1.5e-3 if side >= 128 else 1e-3


class StyleGan1Learner(GrowingLearner, MixingLearner):
    """Both players in training, by the logistic loss with R1 at every step."""

    def __init__(self, plan: StyleGan1Plan, compute: Compute) -> None:
        generator = Generator(plan, compute.dtype)
        discriminator = GrowingDiscriminator(plan, compute.dtype, softened=True)
        super().__init__(plan, generator, discriminator, compute)

    def _adams(self) -> tuple[torch.optim.Adam, torch.optim.Adam]:
        rate = rate_at(self._plan.level_sizes[self.generator.synthesis.finest])
        return adam(self.generator, rate), adam(self.discriminator, rate)

    def _latents(self, count: int, random: torch.Generator) -> Tensor:
        w_NLZ = super()._latents(count, random)
        # The first layer's, which no second latent follows.
        mean_Z = w_NLZ[:, 0].detach().mean(0)
        self.generator.mean_w.lerp_(mean_Z, 1 - MEAN_DECAY)
        return w_NLZ

    def _discriminator_loss(
        self, images_NCHW: Tensor, fake_NCHW: Tensor, random: torch.Generator
    ) -> Tensor:
        logistic = super()._discriminator_loss(images_NCHW, fake_NCHW, random)
        return logistic + self._r1(images_NCHW, random)


class StyleGan1Backend:
    """StyleGAN as a backend."""

    def learner(
        self,
        plan: StyleGan1Plan,
        compute: Compute,
        *,
        images_shown: int,  # noqa: ARG002
    ) -> StyleGan1Learner:
        """Two networks with fresh weights; the plan says how they grow."""
        return StyleGan1Learner(plan, compute)

    def sampler(
        self, plan: StyleGan1Plan, compute: Compute, weights: dict[str, Tensor]
    ) -> AdversarialSampler:
        """A generator with the weights of a snapshot, as deep as it was."""
        return AdversarialSampler(plan, Generator(plan, compute.dtype), compute, weights)


BACKEND = StyleGan1Backend()
