"""Training and sampling of two players. N images, C channels, H, W, L layers, Z latent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyfree_ray.generators.adversarial import loss
from hyfree_ray.generators.adversarial.augment import augment
from hyfree_ray.generators.adversarial.plan import MIN_BATCH, AdversarialPlan
from hyfree_ray.generators.average import Average
from hyfree_ray.generators.cuda import tune
from hyfree_ray.generators.protocol import Compute

BETAS = (0.0, 0.99)
MIXING = 0.9
"""Share of images whose layers follow two latents (style mixing)."""


def adam(module: nn.Module, rate: float, *, every: int | None = None) -> torch.optim.Adam:
    """Adam for a network that also takes a regularisation step every `every` steps.

    It then makes (every + 1) / every times as many steps, so its rate is multiplied and its betas
    are raised to c = every / (every + 1) (Karras et al. 2020, arXiv 1912.04958, appendix B, "lazy
    regularization"). Where it takes none, c is 1.
    """
    c = 1.0 if every is None else every / (every + 1)
    betas = (BETAS[0] ** c, BETAS[1] ** c)
    return torch.optim.Adam(module.parameters(), lr=rate * c, betas=betas, eps=1e-8, fused=True)


class AdversarialLearner(ABC):
    """Both players in training, by the logistic loss; both see augmented images."""

    batch_size = MIN_BATCH
    compiled = False

    def __init__(
        self, plan: AdversarialPlan, generator: Any, discriminator: nn.Module, compute: Compute
    ) -> None:
        self._plan, self._latent, self._device = plan, plan.latent_size, compute.device
        self.generator = generator.to(compute.device)
        self.discriminator = discriminator.to(compute.device)
        self._judge: Callable[..., Tensor] = self.discriminator
        self._average = Average(self.generator)
        self._generator_adam, self._discriminator_adam = self._adams()
        tune(compute.device)

    @abstractmethod
    def _adams(self) -> tuple[torch.optim.Adam, torch.optim.Adam]:
        """Fresh optimisers of generator and discriminator."""

    @abstractmethod
    def _fakes(self, random: torch.Generator) -> Tensor:
        """A batch of images by the generator, with its gradients."""

    @abstractmethod
    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:
        """Learn from one batch: each player in its turn, and the average."""

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """As they are; the discriminator pads."""
        return images_NCHW

    def _score(self, fake_N: Tensor) -> Tensor:
        """The generator's loss, by the logits of its images."""
        return loss.generator_loss(fake_N)

    def _augment(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        return augment(images_NCHW, random, self._plan.mask_channels)

    def _generator_loss(self, fake_NCHW: Tensor, random: torch.Generator) -> Tensor:
        self.discriminator.requires_grad_(False)
        value = self._score(self._judge(self._augment(fake_NCHW, random)))
        self.discriminator.requires_grad_(True)
        return value

    def _discriminator_loss(
        self, images_NCHW: Tensor, fake_NCHW: Tensor, random: torch.Generator
    ) -> Tensor:
        both_NCHW = torch.cat([self._augment(one, random) for one in (fake_NCHW, images_NCHW)])
        fake_N, real_N = self._judge(both_NCHW, batches=2).chunk(2)
        return loss.discriminator_loss(real_N, fake_N)

    def _generator_step(self, fake_NCHW: Tensor, random: torch.Generator) -> Tensor:
        value = self._generator_loss(fake_NCHW, random)
        self._descend(self._generator_adam, value)
        return value.detach()

    def _discriminator_step(
        self, images_NCHW: Tensor, fake_NCHW: Tensor, random: torch.Generator
    ) -> Tensor:
        value = self._discriminator_loss(images_NCHW, fake_NCHW, random)
        self._descend(self._discriminator_adam, value)
        return value.detach()

    def _r1(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        return loss.r1_penalty(
            images_NCHW, lambda images: self.discriminator(self._augment(images, random))
        )

    def _r1_step(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        """R1 by itself, lazily: it counts for the steps without."""
        penalty = self._r1(images_NCHW, random)
        self._descend(self._discriminator_adam, penalty * loss.R1_EVERY)
        return penalty.detach()

    def _descend(self, adam: torch.optim.Adam, value: Tensor) -> None:
        adam.zero_grad(set_to_none=True)
        value.backward()
        adam.step()

    def state_dict(self) -> dict[str, Any]:
        """Weights of both, the average, Adam's moments."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self._average.weights,
            "generator_adam": self._generator_adam.state_dict(),
            "discriminator_adam": self._discriminator_adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self._average.load(state["average"])
        self._generator_adam.load_state_dict(state["generator_adam"])
        self._discriminator_adam.load_state_dict(state["discriminator_adam"])

    def averaged(self) -> dict[str, Tensor]:
        """The generator's averaged weights, and its buffers as they are."""
        return self._average.weights | dict(self.generator.named_buffers())


class MixingLearner(AdversarialLearner):
    """Players of whom the generator has a `mapping` to w and a `synthesis` with noise."""

    def __init__(
        self, plan: AdversarialPlan, generator: Any, discriminator: nn.Module, compute: Compute
    ) -> None:
        super().__init__(plan, generator, discriminator, compute)
        self._paint: Callable[..., Tensor] = self.generator.synthesis

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


class AdversarialSampler:
    """A trained generator: images from latents and, where it takes them, noises."""

    def __init__(
        self, plan: AdversarialPlan, generator: Any, compute: Compute, weights: dict[str, Tensor]
    ) -> None:
        tune(compute.device)
        self._latent, self._device = plan.latent_size, compute.device
        self._generator = generator.to(compute.device)
        self._generator.load_state_dict(weights)

    def __call__(self, seeds: Sequence[int], given_NKHW: Tensor | None = None, /) -> Tensor:
        """One image a seed, NCHW, for a mask where the generator takes one."""
        sizes = self._generator.noise_sizes
        lengths = [self._latent, *(height * width for height, width in sizes)]
        # On the CPU whatever the device: a seed means the same draw everywhere.
        draws = [
            torch.randn(sum(lengths), generator=torch.Generator().manual_seed(s)) for s in seeds
        ]
        z_NZ, *noises = torch.stack(draws).to(self._device).split(lengths, 1)
        images_NCHW: Tensor = self._generator(
            z_NZ,
            [noise.unflatten(1, (1, *size)) for noise, size in zip(noises, sizes, strict=True)],
            *(() if given_NKHW is None else (given_NKHW,)),
        )
        return images_NCHW
