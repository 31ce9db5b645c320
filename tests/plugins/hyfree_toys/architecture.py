"""An architecture: three convolutions at full resolution, optimised by AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyfree_ray.segmenters.record import Optimiser, Segmenter


class ToyNet(Segmenter):
    name = "toy"

    def build(
        self, plans: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, 8, 5, padding=2),
            nn.InstanceNorm2d(8, affine=True),
            nn.LeakyReLU(),
            nn.Conv2d(8, 8, 5, padding=4, dilation=2),
            nn.LeakyReLU(),
            nn.Conv2d(8, outputs, 1),
        )

    def features(self, network: Any, images_NCHW: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(network[:5](images_NCHW), 4)
        return pooled.flatten(1)

    def output_layers(self, network: Any) -> Iterable[nn.Module]:
        return [network[5]]

    def optimiser(self, network: nn.Module, kind: Optimiser) -> torch.optim.Optimizer:
        return torch.optim.AdamW(network.parameters(), 0.01)


TOY = ToyNet()
