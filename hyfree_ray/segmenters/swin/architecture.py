"""UPerNet-Swin as an architecture inside nnU-Net; torch is not imported until it is built."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hyfree_ray.segmenters.record import Optimiser, Segmenter, Sizes
from hyfree_ray.segmenters.swin.shape import EMBEDDING, SwinShape
from hyfree_ray.segmenters.unet_plan import UNetPlan

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FULL_RATE = 6e-5
"""Akbar et al.'s."""
NARROW_RATE = 1e-3
"""Of narrower networks, which are trained for minutes, from random weights."""
WEIGHT_DECAY = 0.01
WARMUP_EPOCHS = 6
"""1,500 steps of Akbar et al.'s in nnU-Net's epochs of 250, where that is at most a tenth."""


class Swin(Segmenter):
    """Akbar et al.'s Swin, without their auxiliary head and ImageNet's weights."""

    name = "swin"
    library = "transformers"

    def build(
        self, plans: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        from hyfree_ray.segmenters.swin.network import UPerNetSwin

        shape = SwinShape.of(UNetPlan.from_plans(plans, channels=channels))
        return UPerNetSwin(channels, outputs, deep_supervision, **asdict(shape))

    def sizes(self, plan: UNetPlan, outputs: int) -> Sizes:
        shape = SwinShape.of(plan)
        return Sizes(
            weights=shape.parameters(plan.channels, outputs),
            activations=shape.activations(plan.patch_size),
        )

    def described(self, plans: Mapping[str, Any], channels: int) -> dict[str, Any]:
        """Name the network for nnU-Net, which finds it where hyfree-ray[swin] is installed."""
        shape = SwinShape.of(UNetPlan.from_plans(plans, channels=channels))
        return {
            "network_class_name": "hyfree_ray.segmenters.swin.network.UPerNetSwin",
            "arch_kwargs": asdict(shape),
            "_kw_requires_import": [],
        }

    def features(self, network: Any, images_NCHW: Tensor) -> Tensor:
        return network.features(images_NCHW)

    def output_layers(self, network: Any) -> Iterable[Any]:
        return [network.upernet.decode_head.classifier]

    def optimiser(self, network: Any, kind: Optimiser) -> torch.optim.Optimizer:  # noqa: ARG002
        """Make AdamW as Akbar et al.'s (betas .9 and .999), whatever the budget's optimiser is."""
        import torch

        rate = FULL_RATE if network.shape.embedding == EMBEDDING else NARROW_RATE
        return torch.optim.AdamW(network.parameters(), rate, weight_decay=WEIGHT_DECAY)

    def schedule(self, optimiser: torch.optim.Optimizer, epochs: int, warmup_epochs: int) -> Any:
        """Make nnU-Net's decay after a warm-up, without which attention diverges."""
        from hyfree_ray.segmenters.nnunet.schedule import WarmupPolyLR

        warmup = max(warmup_epochs, min(WARMUP_EPOCHS, math.ceil(epochs / 10)))
        return WarmupPolyLR(optimiser, optimiser.defaults["lr"], epochs, warmup)


SWIN = Swin()
