"""A generator of pairs: an ellipse of each label on noise, with its mask. No torch on import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyfree_toys.images import smooth_noise

from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.record import Generator, GeneratorConfig
from hyfree_ray.segmenters.unet_plan import UNetPlan


def derive(unet: UNetPlan, config: GeneratorConfig) -> GeneratorPlan:
    return GeneratorPlan.of(unet)


class PairsLearner:
    """Learns which labels there are, and how bright each is."""

    batch_size = 8
    compiled = False

    def __init__(self) -> None:
        self.brightness: dict[str, Any] = {}

    def prepare(self, images_NCHW: Any) -> Any:
        return images_NCHW

    def step(self, images_NCHW: Any, step: int, random: Any) -> dict[str, Any]:
        image_NHW, labels_NHW = images_NCHW[:, 0], images_NCHW[:, -1]
        for value in labels_NHW.unique().tolist():
            self.brightness[str(int(value))] = image_NHW[labels_NHW == value].mean()
        return {"loss": image_NHW.std()}

    def state_dict(self) -> dict[str, Any]:
        return self.brightness

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.brightness = dict(state)

    def averaged(self) -> dict[str, Any]:
        return self.brightness


class PairsSampler:
    def __init__(self, plan: GeneratorPlan, weights: dict[str, Any]) -> None:
        self.plan, self.brightness = plan, {int(name): one for name, one in weights.items()}

    def __call__(self, seeds: Sequence[int]) -> tuple[Any, Any]:
        import torch

        height, width = self.plan.patch_size
        masks_NHW = torch.zeros(len(seeds), height, width, dtype=torch.int64)
        rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
        for mask_HW, seed in zip(masks_NHW, seeds, strict=True):
            random = torch.Generator().manual_seed(seed)
            for value in sorted(self.brightness)[1:]:
                y, x, tall, wide = torch.rand(4, generator=random).tolist()
                inside = ((rows - y) / (0.1 + 0.3 * tall)) ** 2
                mask_HW[inside + ((columns - x) / (0.1 + 0.3 * wide)) ** 2 < 1] = value
        images_NCHW = 0.4 * smooth_noise(seeds, self.plan.channels, 6, (height, width))
        for value, brightness in self.brightness.items():
            images_NCHW += brightness * (masks_NHW == value)[:, None]
        return images_NCHW, masks_NHW


class PairsBackend:
    def learner(self, plan: GeneratorPlan, compute: Any, *, images_shown: int) -> PairsLearner:
        return PairsLearner()

    def sampler(self, plan: GeneratorPlan, compute: Any, weights: dict[str, Any]) -> PairsSampler:
        return PairsSampler(plan, weights)


BACKEND = PairsBackend()

TOY_PAIRS = Generator(
    name="toy-pairs",
    config=GeneratorConfig,
    plan=GeneratorPlan,
    derive=derive,
    backend=f"{__name__}:BACKEND",
    emits="image and mask",
)
