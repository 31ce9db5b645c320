"""Training and sampling of a U-Net that learns from noisy images. N images, C channels, H, W."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hyfree_ray.generators.average import Average
from hyfree_ray.generators.cuda import COMPILE_FROM, compiled_like_eager, tune
from hyfree_ray.generators.denoising.augment import NUMBERS, augment
from hyfree_ray.generators.denoising.plan import DenoiserPlan
from hyfree_ray.generators.denoising.unet import UNet
from hyfree_ray.generators.protocol import Compute

WARM_UP = 0.02
"""Share of the training in which the learning rate grows."""
FINAL_RATE = 0.05
"""Share of the learning rate that is left at the end."""
LEAST_SPREAD = 0.02
"""Of images that are all alike."""


def rate_at(share: float, peak: float) -> float:
    """The learning rate when `share` of the training is done: linear warm-up, then a cosine."""
    if share < WARM_UP:
        return peak * share / WARM_UP
    falling = 0.5 + 0.5 * math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * falling)


class DenoiserLearner(ABC):
    """The network in training."""

    def __init__(
        self, plan: DenoiserPlan, network: UNet, compute: Compute, *, images_shown: int
    ) -> None:
        self.batch_size = plan.batch_size
        self._plan = plan
        self._compute = compute
        self._images_shown = images_shown
        self.network = network.to(compute.device)
        self._error: Callable[..., Tensor] = self._squared_error
        self._average = Average(self.network)
        self._optimiser = torch.optim.Adam(
            self.network.parameters(), lr=plan.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.compiled = False
        tune(compute.device)
        if compute.device.type == "cuda" and images_shown >= COMPILE_FROM:
            # As CUDA graphs: the network is small, and starting its kernels would take longest.
            self.compile("inductor", mode="reduce-overhead")

    def compile(self, backend: str | Callable[..., Any], mode: str | None = None) -> None:
        """Compile the loss, network and all, or leave it as it is if that fails.

        Args:
            backend: torch.compile's; compiled code need not give an eager training's last bits.
            mode: torch.compile's.
        """

        def compile_error() -> None:
            self._error = torch.compile(
                self._squared_error, backend=backend, mode=mode, fullgraph=True, dynamic=False
            )

        self.compiled = compiled_like_eager(
            compile_error, [self._rehearse], list(self.network.parameters())
        )
        if not self.compiled:
            self._error = self._squared_error

    def _rehearse(self, seed: int) -> Tensor:
        random = torch.Generator(self._compute.device).manual_seed(seed)
        shape = (self.batch_size, self._plan.seen_channels, *self._plan.padded_size)
        images_NCHW = torch.rand(shape, generator=random, device=self._compute.device)
        return self.loss(images_NCHW, random)

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """Padded to the padded size with the edge's values, so that the margin continues it.

        Their mean and spread are what the network's input and output are scaled by.
        """
        padded_NCHW = F.pad(images_NCHW, self._plan.sides, mode="replicate")
        self.scale_by(padded_NCHW[:, : self._plan.channels])
        return padded_NCHW

    def scale_by(self, padded_NCHW: Tensor) -> None:
        """Take over the mean image, and the spread around it, that the network is scaled by."""
        self.network.centre.copy_(padded_NCHW.mean(0))
        around_NCHW = padded_NCHW - self.network.centre
        self.network.spread.copy_(around_NCHW.square().mean().sqrt().clamp(min=LEAST_SPREAD))

    def loss(self, images_NCHW: Tensor, random: torch.Generator) -> Tensor:
        """The error at noises and times of the batch, and of images that may be augmented."""
        told_NA = torch.zeros(len(images_NCHW), NUMBERS, device=images_NCHW.device)
        if self._plan.augmented:
            images_NCHW, told_NA = augment(images_NCHW, random, self._plan.mask_channels)
        noise_NCHW = torch.empty_like(images_NCHW[:, : self._plan.channels])
        noise_NCHW.normal_(generator=random)
        time_N = self.times(len(images_NCHW), random)
        return self._error(images_NCHW, noise_NCHW, time_N, told_NA)

    def times(self, count: int, random: torch.Generator) -> Tensor:
        """Times_N to learn at: uniform, one draw from each of N equal parts of [0, 1].

        Which makes the sum over a batch less random (Kingma et al. 2021, arXiv 2107.00630,
        appendix I.1). `benchmarks/flow.py --training` compares it with a logit-normal draw.
        """
        draw_N = torch.rand(count, generator=random, device=random.device)
        return (torch.arange(count, device=random.device) + draw_N) / count

    @abstractmethod
    def _squared_error(
        self, images_NCHW: Tensor, noise_NCHW: Tensor, time_N: Tensor, told_NA: Tensor
    ) -> Tensor:
        """The mean squared error of what the network predicts of noisy images.

        Args:
            images_NCHW: without noise, with what is given of a mask as further channels.
            noise_NCHW: standard normal, of the image's channels.
            time_N: in [0, 1].
            told_NA: how the images were augmented.
        """

    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:
        """One step of Adam and of the average."""
        shown = (step + 1) * self.batch_size
        for group in self._optimiser.param_groups:
            group["lr"] = rate_at(min(1.0, shown / self._images_shown), self._plan.learning_rate)
        self._optimiser.zero_grad(set_to_none=True)
        loss = self.loss(images_NCHW, random)
        loss.backward()
        self._optimiser.step()
        self._average.update(shown, self.batch_size)
        # A copy: the next replay of a CUDA graph writes where this one did.
        return {"loss": loss.detach().clone()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, their average, Adam's moments."""
        return {
            "network": self.network.state_dict(),
            "average": self._average.weights,
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self._average.load(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])

    def averaged(self) -> dict[str, Tensor]:
        """The network's averaged weights, and what it is scaled by."""
        return self._average.weights | dict(self.network.named_buffers())


class DenoiserSampler(ABC):
    """Draws images out of the noise of their seeds."""

    def __init__(
        self, plan: DenoiserPlan, network: UNet, compute: Compute, weights: dict[str, Tensor]
    ) -> None:
        tune(compute.device)
        self._plan = plan
        self._compute = compute
        self._network = network.to(compute.device)
        self._network.load_state_dict(weights)
        self._given_NKHW: Tensor | None = None

    def __call__(self, seeds: Sequence[int], given_NKHW: Tensor | None = None, /) -> Tensor:
        """One image a seed, NCHW, for a mask where the network takes one."""
        if given_NKHW is not None:
            self._given_NKHW = F.pad(given_NKHW, self._plan.sides, mode="replicate")
        shape = (self._plan.channels, *self._plan.padded_size)
        # On the CPU whatever the device: a seed means the same noise everywhere.
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]

        def noise() -> Tensor:
            drawn = [torch.randn(shape, generator=source) for source in sources]
            return torch.stack(drawn).to(self._compute.device)

        x_NCHW = self._denoise(noise)
        (top, left), (height, width) = self._plan.margin, self._plan.patch_size
        return x_NCHW[:, :, top : top + height, left : left + width]

    @abstractmethod
    def _denoise(self, noise: Callable[[], Tensor]) -> Tensor:
        """Padded images, from the seeds' noise: each call gives the next standard normal NCHW."""
