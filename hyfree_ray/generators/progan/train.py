"""Progressive GAN: training and sampling. N images, C channels, H, W, Z latent.

Karras et al. 2018 (arXiv 1710.10196) with DiffAugment (Zhao et al. 2020, arXiv 2006.10738).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyfree_ray.generators.adversarial import loss
from hyfree_ray.generators.adversarial.growing import GrowingDiscriminator, GrowingLearner
from hyfree_ray.generators.adversarial.learner import AdversarialSampler, adam
from hyfree_ray.generators.progan.networks import Generator
from hyfree_ray.generators.progan.plan import ProGanPlan
from hyfree_ray.generators.protocol import Compute

LEARNING_RATE = 1e-3


class ProGanLearner(GrowingLearner):
    """Both players in training, by WGAN-GP."""

    def __init__(self, plan: ProGanPlan, compute: Compute) -> None:
        generator = Generator(plan, compute.dtype)
        discriminator = GrowingDiscriminator(plan, compute.dtype, softened=False)
        super().__init__(plan, generator, discriminator, compute)

    def _adams(self) -> tuple[torch.optim.Adam, torch.optim.Adam]:
        return adam(self.generator, LEARNING_RATE), adam(self.discriminator, LEARNING_RATE)

    def _fakes(self, random: torch.Generator) -> Tensor:
        z_NZ = torch.randn(self.batch_size, self._latent, generator=random, device=self._device)
        images_NCHW: Tensor = self.generator.grown_images(z_NZ)
        return images_NCHW

    def _score(self, fake_N: Tensor) -> Tensor:
        return -fake_N.mean()

    def _discriminator_loss(
        self, images_NCHW: Tensor, fake_NCHW: Tensor, random: torch.Generator
    ) -> Tensor:
        """Wasserstein loss and gradient penalty, between the images as they have been judged."""
        fake_NCHW, real_NCHW = (self._augment(one, random) for one in (fake_NCHW, images_NCHW))
        fake_N, real_N = self._judge(torch.cat([fake_NCHW, real_NCHW]), batches=2).chunk(2)
        share_N = torch.rand(len(real_NCHW), generator=random, device=self._device)
        penalty = loss.gradient_penalty(real_NCHW, fake_NCHW, share_N, self.discriminator)
        return loss.wasserstein_loss(real_N, fake_N) + penalty


class ProGanBackend:
    """Progressive GAN as a backend."""

    def learner(self, plan: ProGanPlan, compute: Compute, *, images_shown: int) -> ProGanLearner:  # noqa: ARG002
        """Two networks with fresh weights; the plan says how they grow."""
        return ProGanLearner(plan, compute)

    def sampler(
        self, plan: ProGanPlan, compute: Compute, weights: dict[str, Tensor]
    ) -> AdversarialSampler:
        """A generator with the weights of a snapshot, as deep as it was."""
        return AdversarialSampler(plan, Generator(plan, compute.dtype), compute, weights)


BACKEND = ProGanBackend()
