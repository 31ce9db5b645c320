"""StyleGAN2: training and sampling. N images, C channels, H, W, L layers, Z latent.

Karras et al. 2020 (arXiv 1912.04958) with DiffAugment (Zhao et al. 2020, arXiv 2006.10738).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyfree_ray.generators.adversarial import loss
from hyfree_ray.generators.adversarial.learner import AdversarialSampler, MixingLearner, adam
from hyfree_ray.generators.cuda import COMPILE_FROM, compiled_like_eager
from hyfree_ray.generators.protocol import Compute
from hyfree_ray.generators.stylegan2.networks import Discriminator, Generator
from hyfree_ray.generators.stylegan2.plan import StyleGan2Plan

LEARNING_RATE = 0.002
PATH_SHRINK = 2
"""The path length is measured on this fraction of a batch (appendix B)."""


class StyleGan2Learner(MixingLearner):
    """Both players in training."""

    def __init__(self, plan: StyleGan2Plan, compute: Compute, *, images_shown: int) -> None:
        generator, discriminator = (
            Generator(plan, compute.dtype),
            Discriminator(plan, compute.dtype),
        )
        super().__init__(plan, generator, discriminator, compute)
        self._path_mean = torch.zeros((), device=compute.device)
        self.compiled = False
        if compute.device.type == "cuda" and images_shown >= COMPILE_FROM:
            self.compile("inductor")

    def _adams(self) -> tuple[torch.optim.Adam, torch.optim.Adam]:
        return (
            adam(self.generator, LEARNING_RATE, every=loss.PATH_EVERY),
            adam(self.discriminator, LEARNING_RATE, every=loss.R1_EVERY),
        )

    def compile(self, backend: str | Callable[..., Any]) -> None:
        """Compile the networks for the two main phases, or leave them as they are if that fails.

        The penalties differentiate twice, which compiled networks cannot: they keep the eager ones.

        Args:
            backend: torch.compile's; compiled code need not give an eager training's last bits.
        """
        self.compiled = compiled_like_eager(
            lambda: self._compile_networks(backend),
            [self._rehearse_generator, self._rehearse_discriminator],
            [*self.generator.parameters(), *self.discriminator.parameters()],
        )
        if not self.compiled:
            self._paint, self._judge = self.generator.synthesis, self.discriminator
        self.discriminator.requires_grad_(True)

    def _compile_networks(self, backend: str | Callable[..., Any]) -> None:
        # No CUDA graphs: the discriminator runs twice before its backward pass, and their memory
        # is that of the run before.
        settings: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
        self._paint = torch.compile(self.generator.synthesis, **settings)
        self._judge = torch.compile(self.discriminator, **settings)

    def _rehearse_generator(self, seed: int) -> Tensor:
        random = torch.Generator(self._device).manual_seed(seed)
        return self._generator_loss(self._fakes_for(self._rehearsed(random), random), random)

    def _rehearsed(self, random: torch.Generator) -> Tensor:
        shape = (self.batch_size, self._plan.seen_channels, *self._plan.patch_size)
        return torch.rand(shape, generator=random, device=self._device)

    def _rehearse_discriminator(self, seed: int) -> Tensor:
        random = torch.Generator(self._device).manual_seed(seed)
        images_NCHW = self._rehearsed(random)
        fake_NCHW = self._fakes_for(images_NCHW, random).detach()
        return self._discriminator_loss(images_NCHW, fake_NCHW, random)

    def _given(self, images_NCHW: Tensor) -> Tensor | None:
        """The masks that follow the images' channels; None: the plan has none."""
        return images_NCHW[:, self._plan.channels :] if self._plan.given_channels else None

    def _fakes_for(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        """A batch of images by the generator, with the real masks that they were drawn for."""
        given_NKHW = self._given(images_NCHW)
        if given_NKHW is None:
            return self._fakes(random)
        w_NLZ = self._latents(self.batch_size, random)
        fake_NCHW = self._paint(w_NLZ, self._noises(self.batch_size, random), given_NKHW)
        return torch.cat([fake_NCHW, given_NKHW.to(fake_NCHW.dtype)], 1)

    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:
        """Generator, path length, discriminator, R1, average; the second and fourth lazily.

        The discriminator sees the images that the generator has just been judged by, augmented
        anew: to draw others would cost a fourteenth of the step.
        """
        fake_NCHW = self._fakes_for(images_NCHW, random)
        losses = {"generator": self._generator_step(fake_NCHW, random)}
        if step % loss.PATH_EVERY == 0:
            losses["path_length"] = self._path_step(images_NCHW, random)
        losses["discriminator"] = self._discriminator_step(images_NCHW, fake_NCHW.detach(), random)
        if step % loss.R1_EVERY == 0:
            losses["r1"] = self._r1_step(images_NCHW, random)
        self._average.update((step + 1) * self.batch_size, self.batch_size)
        return losses

    def _path_step(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        w_NLZ = self._latents(self.batch_size // PATH_SHRINK, random)
        given_NKHW = self._given(images_NCHW[: len(w_NLZ)])
        noises = self._noises(len(w_NLZ), random)
        fake_NCHW = self.generator.synthesis(w_NLZ, noises, given_NKHW)
        noise_NCHW = torch.randn(fake_NCHW.shape, generator=random, device=self._device)
        lengths_N = loss.path_lengths(w_NLZ, fake_NCHW, noise_NCHW)
        penalty, self._path_mean = loss.path_penalty(lengths_N, self._path_mean)
        self._descend(self._generator_adam, penalty * loss.PATH_EVERY)
        return lengths_N.detach().mean()

    def state_dict(self) -> dict[str, Any]:
        """Weights of both, the average, Adam's moments, the mean path length."""
        return super().state_dict() | {"path_mean": self._path_mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict(state)
        self._path_mean = state["path_mean"]


class StyleGan2Backend:
    """StyleGAN2 as a backend, without truncation (psi 1)."""

    def learner(
        self, plan: StyleGan2Plan, compute: Compute, *, images_shown: int
    ) -> StyleGan2Learner:
        """Two networks with fresh weights."""
        return StyleGan2Learner(plan, compute, images_shown=images_shown)

    def sampler(
        self, plan: StyleGan2Plan, compute: Compute, weights: dict[str, Tensor]
    ) -> AdversarialSampler:
        """A generator with the weights of a snapshot."""
        return AdversarialSampler(plan, Generator(plan, compute.dtype), compute, weights)


BACKEND = StyleGan2Backend()
