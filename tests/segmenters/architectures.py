"""A small network without skips or deep supervision, in the place of nnU-Net's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyfree_ray.segmenters.record import Optimiser, Segmenter


class Tiny(Segmenter):
    name = "tiny"

    def build(
        self, plans: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        assert not deep_supervision
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(8, outputs, 1)
        )

    def features(self, network: nn.Module, images_NCHW: Tensor) -> Tensor:
        return network[0](images_NCHW).amax(dim=(2, 3))

    def output_layers(self, network: nn.Module) -> Iterable[Any]:
        return [network[-1]]

    def optimiser(self, network: nn.Module, kind: Optimiser) -> torch.optim.Optimizer:
        return torch.optim.AdamW(network.parameters(), 0.01)


TINY = Tiny()
