"""A generator of pairs that learns nothing but the mean image, and remembers what it was shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.protocol import Compute
from hyfree_ray.generators.record import Generator, GeneratorConfig
from hyfree_ray.segmenters.unet_plan import UNetPlan


def derive(unet: UNetPlan, config: GeneratorConfig) -> GeneratorPlan:
    return GeneratorPlan.of(unet)


class MeanLearner:
    batch_size = 4
    compiled = False

    def __init__(self, plan: GeneratorPlan) -> None:
        self.mean_CHW = torch.zeros(plan.channels + 1, *plan.patch_size)

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        assert images_NCHW.shape[1:] == self.mean_CHW.shape
        return images_NCHW

    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:
        self.mean_CHW += (images_NCHW.mean(0) - self.mean_CHW) / (step + 1)
        return {"spread": images_NCHW.std()}

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean_CHW}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean_CHW = state["mean"]

    def averaged(self) -> dict[str, Tensor]:
        return {"mean": self.mean_CHW}


class MeanSampler:
    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.mean_CHW = weights["mean"]

    def __call__(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The mean image with some noise, and a mask in which pixel (0, 0) tells the seed."""
        noise = [
            torch.randn(self.mean_CHW.shape, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        drawn_NCHW = self.mean_CHW + 0.1 * torch.stack(noise)
        masks_NHW = (drawn_NCHW[:, -1] > 0.5).long()
        masks_NHW[:, 0, 0] = torch.tensor([seed % 2 for seed in seeds])
        return drawn_NCHW[:, :-1], masks_NHW


class MeanBackend:
    def learner(self, plan: GeneratorPlan, compute: Compute, *, images_shown: int) -> MeanLearner:
        return MeanLearner(plan)

    def sampler(
        self, plan: GeneratorPlan, compute: Compute, weights: dict[str, Tensor]
    ) -> MeanSampler:
        return MeanSampler(weights)


BACKEND = MeanBackend()

MEAN_PAIRS = Generator(
    name="mean-pairs",
    config=GeneratorConfig,
    plan=GeneratorPlan,
    derive=derive,
    backend=f"{__name__}:BACKEND",
    emits="image and mask",
)
