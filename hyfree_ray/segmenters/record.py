"""An architecture inside nnU-Net, which stays planner, preprocessor and trainer.

Shapes: N images, C channels, H height, W width, F features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Segmenter(ABC):
    """A network that nnU-Net's trainer trains: how it is built, optimised and read."""

    name: str
    deep_supervision: bool = False
    """Whether in training it returns logits at each of the plan's resolutions, finest first."""
    rate: float = 0.01
    """Learning rate after warm-up; nnU-Net's."""

    @abstractmethod
    def build(
        self, plans: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        """Build the network with fresh weights, from images_NCHW to logits of `outputs` channels.

        Args:
            plans: nnU-Net's `plans.json`; see `UNetPlan.from_plans` for what it says of the
                network.
            channels: of the images.
            outputs: one a label (background included), or one a region.
            deep_supervision: whether it returns logits at all resolutions.
        """

    @abstractmethod
    def features(self, network: nn.Module, images_NCHW: Tensor) -> Tensor:
        """Compute features_NF that tell normalised images apart, the coarsest that it has."""

    @abstractmethod
    def output_layers(self, network: nn.Module) -> Iterable[Any]:
        """List the layers whose weight and bias have the outputs along their first axis."""

    def set_deep_supervision(self, network: nn.Module, enabled: bool) -> None:  # noqa: ARG002
        """Let the network return logits at all resolutions, or at the finest alone."""
        if enabled:
            raise NotImplementedError(f"{self.name} does not say how deep supervision is set")

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Make the optimiser: nnU-Net's (Isensee et al. 2021)."""
        import torch

        return torch.optim.SGD(
            network.parameters(), self.rate, weight_decay=3e-5, momentum=0.99, nesterov=True
        )

    def schedule(self, optimiser: torch.optim.Optimizer, epochs: int, warmup_epochs: int) -> Any:
        """Make the learning rate's schedule, of which `step(epoch)` sets the rate of an epoch."""
        from hyfree_ray.segmenters.nnunet.schedule import WarmupPolyLR

        return WarmupPolyLR(optimiser, self.rate, epochs, warmup_epochs)
