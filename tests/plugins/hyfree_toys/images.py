"""A generator of images: blurred noise with each pixel's mean and spread. No torch on import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.record import Generator, GeneratorConfig
from hyfree_ray.segmenters.unet_plan import UNetPlan


class ToyConfig(GeneratorConfig):
    cells: int = Field(default=6, ge=2)
    """Cells of noise along height and along width."""


@dataclass(frozen=True, kw_only=True)
class ToyPlan(GeneratorPlan):
    cells: int


def derive(unet: UNetPlan, config: ToyConfig) -> ToyPlan:
    shape = GeneratorPlan.of(unet)
    step = f"{config.cells} x {config.cells} cells of noise, enlarged to the patch"
    return ToyPlan(**shape.with_steps(step), cells=config.cells)


class ToyLearner:
    """Learns the mean and the mean square of each pixel."""

    batch_size = 8
    compiled = False

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}

    def prepare(self, images_NCHW: Any) -> Any:
        return images_NCHW

    def step(self, images_NCHW: Any, step: int, random: Any) -> dict[str, Any]:
        for name, value in (("mean", images_NCHW), ("square", images_NCHW**2)):
            before = self.sums.get(name, 0.0)
            self.sums[name] = before + (value.mean(0) - before) / (step + 1)
        return {"loss": images_NCHW.std()}

    def state_dict(self) -> dict[str, Any]:
        return self.sums

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = dict(state)

    def averaged(self) -> dict[str, Any]:
        return self.sums


def smooth_noise(seeds: Sequence[int], channels: int, cells: int, size: tuple[int, int]) -> Any:
    """Noise_NCHW of about unit variance, from the seeds alone."""
    import torch

    noise = [
        torch.randn(channels, cells, cells, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.nn.functional.interpolate(torch.stack(noise), size, mode="bicubic")


class ToySampler:
    def __init__(self, plan: ToyPlan, weights: dict[str, Any]) -> None:
        self.plan, self.mean_CHW = plan, weights["mean"]
        self.spread_CHW = (weights["square"] - weights["mean"] ** 2).clamp(min=0).sqrt()

    def __call__(self, seeds: Sequence[int]) -> Any:
        noise = smooth_noise(seeds, self.plan.channels, self.plan.cells, self.plan.patch_size)
        return self.mean_CHW + 1.5 * self.spread_CHW * noise


class ToyBackend:
    def learner(self, plan: ToyPlan, compute: Any, *, images_shown: int) -> ToyLearner:
        return ToyLearner()

    def sampler(self, plan: ToyPlan, compute: Any, weights: dict[str, Any]) -> ToySampler:
        return ToySampler(plan, weights)


BACKEND = ToyBackend()

TOY = Generator(
    name="toy",
    config=ToyConfig,
    plan=ToyPlan,
    derive=derive,
    backend=f"{__name__}:BACKEND",
    budgets={"smoke": ToyConfig(cells=5)},
)
