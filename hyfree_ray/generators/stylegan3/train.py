"""StyleGAN3-T: training and sampling. N images, C channels, H, W, Z latent.

Karras et al. 2021 (arXiv 2106.12423) with DiffAugment (Zhao et al. 2020, arXiv 2006.10738).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyfree_ray.generators.adversarial import loss
from hyfree_ray.generators.adversarial.learner import AdversarialLearner, AdversarialSampler, adam
from hyfree_ray.generators.protocol import Compute
from hyfree_ray.generators.stylegan2.networks import Discriminator
from hyfree_ray.generators.stylegan3.networks import Generator
from hyfree_ray.generators.stylegan3.plan import StyleGan3Plan

GENERATOR_RATE, DISCRIMINATOR_RATE = 0.0025, 0.002


class StyleGan3Learner(AdversarialLearner):
    """Both players in training: the residual discriminator, lazy R1, no other regulariser."""

    def __init__(self, plan: StyleGan3Plan, compute: Compute) -> None:
        generator, discriminator = (
            Generator(plan, compute.dtype),
            Discriminator(plan, compute.dtype),
        )
        super().__init__(plan, generator, discriminator, compute)

    def _adams(self) -> tuple[torch.optim.Adam, torch.optim.Adam]:
        return (
            adam(self.generator, GENERATOR_RATE),
            adam(self.discriminator, DISCRIMINATOR_RATE, every=loss.R1_EVERY),
        )

    def _fakes(self, random: torch.Generator) -> Tensor:
        z_NZ = torch.randn(self.batch_size, self._latent, generator=random, device=self._device)
        images_NCHW: Tensor = self.generator(z_NZ, [])
        return images_NCHW

    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:
        """Generator, discriminator, R1, average; the third lazily."""
        fake_NCHW = self._fakes(random)
        losses = {
            "generator": self._generator_step(fake_NCHW, random),
            "discriminator": self._discriminator_step(images_NCHW, fake_NCHW.detach(), random),
        }
        if step % loss.R1_EVERY == 0:
            losses["r1"] = self._r1_step(images_NCHW, random)
        self._average.update((step + 1) * self.batch_size, self.batch_size)
        return losses


class StyleGan3Backend:
    """StyleGAN3-T as a backend, without truncation."""

    def learner(
        self,
        plan: StyleGan3Plan,
        compute: Compute,
        *,
        images_shown: int,  # noqa: ARG002
    ) -> StyleGan3Learner:
        """Two networks with fresh weights."""
        return StyleGan3Learner(plan, compute)

    def sampler(
        self, plan: StyleGan3Plan, compute: Compute, weights: dict[str, Tensor]
    ) -> AdversarialSampler:
        """A generator with the weights of a snapshot; its magnitudes no longer move."""
        return AdversarialSampler(plan, Generator(plan, compute.dtype).eval(), compute, weights)


BACKEND = StyleGan3Backend()
