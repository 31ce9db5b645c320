"""StyleGAN2: training and sampling. N images, C channels, H, W, L layers, Z latent.

Karras et al. 2020 (arXiv 1912.04958) with DiffAugment (Zhao et al. 2020, arXiv 2006.10738).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyfree_ray.generators.average import Average
from hyfree_ray.generators.cuda import COMPILE_FROM, compiled_like_eager, tune
from hyfree_ray.generators.protocol import Compute
from hyfree_ray.generators.stylegan2 import loss
from hyfree_ray.generators.stylegan2.augment import augment
from hyfree_ray.generators.stylegan2.networks import Discriminator, Generator
from hyfree_ray.generators.stylegan2.plan import StyleGan2Plan

BATCH_SIZE = 8
LEARNING_RATE = 0.002
BETAS = (0.0, 0.99)
MIXING = 0.9
"""Share of images whose layers follow two latents (style mixing)."""
PATH_SHRINK = 2
"""The path length is measured on this fraction of a batch (appendix B)."""


def lazy_adam(module: nn.Module, every: int) -> torch.optim.Adam:
    """Adam for a network that also takes a regularisation step every `every` steps.

    It then makes (every + 1) / every times as many steps, so its rate is multiplied and its betas
    are raised to c = every / (every + 1) (Karras et al. 2020, appendix B, "lazy regularization").
    """
    c = every / (every + 1)
    betas = (BETAS[0] ** c, BETAS[1] ** c)
    return torch.optim.Adam(
        module.parameters(), lr=LEARNING_RATE * c, betas=betas, eps=1e-8, fused=True
    )


class StyleGan2Learner:
    """Both players in training."""

    batch_size = BATCH_SIZE

    def __init__(self, plan: StyleGan2Plan, compute: Compute, *, images_shown: int) -> None:
        device = compute.device
        self._plan, self._latent, self._device = plan, plan.latent_size, device
        self.generator = Generator(plan, compute.dtype).to(device)
        self.discriminator = Discriminator(plan, compute.dtype).to(device)
        self._paint: Callable[..., Tensor] = self.generator.synthesis
        self._judge: Callable[..., Tensor] = self.discriminator
        self._average = Average(self.generator)
        self._generator_adam = lazy_adam(self.generator, loss.PATH_EVERY)
        self._discriminator_adam = lazy_adam(self.discriminator, loss.R1_EVERY)
        self._path_mean = torch.zeros((), device=device)
        self.compiled = False
        tune(device)
        if device.type == "cuda" and images_shown >= COMPILE_FROM:
            self.compile("inductor")

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
        return self._generator_loss(self._fakes(random), random)

    def _rehearse_discriminator(self, seed: int) -> Tensor:
        random = torch.Generator(self._device).manual_seed(seed)
        shape = (self.batch_size, self._plan.channels, *self._plan.patch_size)
        images_NCHW = torch.rand(shape, generator=random, device=self._device)
        return self._discriminator_loss(images_NCHW, self._fakes(random).detach(), random)

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """As they are; the discriminator pads."""
        return images_NCHW

    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:
        """Generator, path length, discriminator, R1, average; the second and fourth lazily.

        The discriminator sees the images that the generator has just been judged by, augmented
        anew: to draw others would cost a fourteenth of the step.
        """
        fake_NCHW = self._fakes(random)
        losses = {"generator": self._generator_step(fake_NCHW, random)}
        if step % loss.PATH_EVERY == 0:
            losses["path_length"] = self._path_step(random)
        losses["discriminator"] = self._discriminator_step(images_NCHW, fake_NCHW.detach(), random)
        if step % loss.R1_EVERY == 0:
            losses["r1"] = self._r1_step(images_NCHW, random)
        self._average.update((step + 1) * self.batch_size, self.batch_size)
        return losses

    def _latents(self, count: int, random: torch.Generator) -> Tensor:
        """w_NLZ of random latents; layers from a random one on follow a second latent.

        Mixing regularisation (Karras et al. 2019, arXiv 1812.04948, section 3.1).
        """
        layers = self.generator.synthesis.layers
        z_NZ = torch.randn(2 * count, self._latent, generator=random, device=self._device)
        draw = torch.rand(2, count, generator=random, device=self._device)
        first_NZ, second_NZ = self.generator.mapping(z_NZ).chunk(2)
        crossover_N = 1 + (draw[0] * (layers - 1)).long()
        crossover_N = torch.where(draw[1] < MIXING, crossover_N, layers)
        early_NL = torch.arange(layers, device=self._device) < crossover_N[:, None]
        return torch.where(early_NL[:, :, None], first_NZ[:, None], second_NZ[:, None])

    def _noises(self, count: int, random: torch.Generator) -> list[Tensor]:
        return [
            torch.randn(count, 1, *size, generator=random, device=self._device)
            for size in self.generator.synthesis.noise_sizes
        ]

    def _fakes(self, random: torch.Generator) -> Tensor:
        w_NLZ = self._latents(self.batch_size, random)
        return self._paint(w_NLZ, self._noises(self.batch_size, random))

    def _generator_loss(self, fake_NCHW: Tensor, random: torch.Generator) -> Tensor:
        self.discriminator.requires_grad_(False)
        value = loss.generator_loss(self._judge(augment(fake_NCHW, random)))
        self.discriminator.requires_grad_(True)
        return value

    def _discriminator_loss(
        self, images_NCHW: Tensor, fake_NCHW: Tensor, random: torch.Generator
    ) -> Tensor:
        both_NCHW = torch.cat([augment(fake_NCHW, random), augment(images_NCHW, random)])
        fake_N, real_N = self._judge(both_NCHW, batches=2).chunk(2)
        return loss.discriminator_loss(real_N, fake_N)

    def _generator_step(self, fake_NCHW: Tensor, random: torch.Generator) -> Tensor:
        value = self._generator_loss(fake_NCHW, random)
        self._descend(self._generator_adam, value)
        return value.detach()

    def _path_step(self, random: torch.Generator) -> Tensor:
        w_NLZ = self._latents(self.batch_size // PATH_SHRINK, random)
        fake_NCHW = self.generator.synthesis(w_NLZ, self._noises(len(w_NLZ), random))
        noise_NCHW = torch.randn(fake_NCHW.shape, generator=random, device=self._device)
        lengths_N = loss.path_lengths(w_NLZ, fake_NCHW, noise_NCHW)
        penalty, self._path_mean = loss.path_penalty(lengths_N, self._path_mean)
        self._descend(self._generator_adam, penalty * loss.PATH_EVERY)
        return lengths_N.detach().mean()

    def _discriminator_step(
        self, images_NCHW: Tensor, fake_NCHW: Tensor, random: torch.Generator
    ) -> Tensor:
        value = self._discriminator_loss(images_NCHW, fake_NCHW, random)
        self._descend(self._discriminator_adam, value)
        return value.detach()

    def _r1_step(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        penalty = loss.r1_penalty(
            images_NCHW, lambda images: self.discriminator(augment(images, random))
        )
        self._descend(self._discriminator_adam, penalty * loss.R1_EVERY)
        return penalty.detach()

    def _descend(self, adam: torch.optim.Adam, value: Tensor) -> None:
        adam.zero_grad(set_to_none=True)
        value.backward()
        adam.step()

    def state_dict(self) -> dict[str, Any]:
        """Weights of both, the average, Adam's moments, the mean path length."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self._average.weights,
            "generator_adam": self._generator_adam.state_dict(),
            "discriminator_adam": self._discriminator_adam.state_dict(),
            "path_mean": self._path_mean,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self._average.load(state["average"])
        self._generator_adam.load_state_dict(state["generator_adam"])
        self._discriminator_adam.load_state_dict(state["discriminator_adam"])
        self._path_mean = state["path_mean"]

    def averaged(self) -> dict[str, Tensor]:
        """The generator's averaged weights."""
        return self._average.weights


class StyleGan2Sampler:
    """A trained generator, without truncation (psi 1)."""

    def __init__(self, plan: StyleGan2Plan, compute: Compute, weights: dict[str, Tensor]) -> None:
        tune(compute.device)
        self._latent, self._device = plan.latent_size, compute.device
        self._generator = Generator(plan, compute.dtype).to(compute.device)
        self._generator.load_state_dict(weights)

    def __call__(self, seeds: Sequence[int]) -> Tensor:
        """One image a seed, NCHW."""
        sizes = self._generator.synthesis.noise_sizes
        lengths = [self._latent, *(height * width for height, width in sizes)]
        # On the CPU whatever the device: a seed means the same draw everywhere.
        draws = [
            torch.randn(sum(lengths), generator=torch.Generator().manual_seed(s)) for s in seeds
        ]
        z_NZ, *noises = torch.stack(draws).to(self._device).split(lengths, 1)
        images_NCHW: Tensor = self._generator(
            z_NZ,
            [noise.unflatten(1, (1, *size)) for noise, size in zip(noises, sizes, strict=True)],
        )
        return images_NCHW


class StyleGan2Backend:
    """StyleGAN2 as a backend."""

    def learner(
        self, plan: StyleGan2Plan, compute: Compute, *, images_shown: int
    ) -> StyleGan2Learner:
        """Two networks with fresh weights."""
        return StyleGan2Learner(plan, compute, images_shown=images_shown)

    def sampler(
        self, plan: StyleGan2Plan, compute: Compute, weights: dict[str, Tensor]
    ) -> StyleGan2Sampler:
        """A generator with the weights of a snapshot."""
        return StyleGan2Sampler(plan, compute, weights)


BACKEND = StyleGan2Backend()
