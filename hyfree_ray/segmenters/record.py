"""An architecture inside nnU-Net, which stays planner, preprocessor and trainer.

Shapes: N images, C channels, H height, W width, F features.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hyfree_ray.border.foreign_plan import check_network
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.segmenters.unet_plan import UNetPlan

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


Optimiser = Literal["sgd", "adamw"]

SGD_RATE = 0.01
"""nnU-Net's."""
ADAMW_RATE = 0.003
"""Best of .001, .003 and .01 at 750 batches (docs/RESULTS.md)."""
WEIGHT_DECAY = 3e-5
"""nnU-Net's."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a network allocates."""

    weights: int
    activations: int
    """Numbers in all layers, for one patch."""


class Segmenter(ABC):
    """A network that nnU-Net's trainer trains: how it is built, optimised and read."""

    name: str
    deep_supervision: bool = False
    """Whether in training it returns logits at each of the plan's resolutions, finest first."""
    library: str = ""
    """Module that it is built from, where that is installed by the extra of its name alone."""

    def network(
        self, plans: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        """Build the network, where its library is here and it is no larger than it may be.

        Raises:
            HyfreeError: the library is not installed, or the plan makes too large a network.
        """
        self.check_installed()
        sizes = self.sizes(UNetPlan.from_plans(plans, channels=channels), outputs)
        if sizes is not None:
            check_network(sizes.weights, sizes.activations)
        return self.build(plans, channels, outputs, deep_supervision=deep_supervision)

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

    def check_installed(self) -> None:
        """Refuse an architecture whose library is not here; nothing is imported.

        Raises:
            HyfreeError: it is not installed.
        """
        if self.library and importlib.util.find_spec(self.library) is None:
            raise HyfreeError(
                "segmenter.not-installed",
                f"segmenter {self.name!r}: {self.library} is not installed; install "
                f"hyfree-ray[{self.name}], or leave --segmenter out",
            )

    def sizes(self, plan: UNetPlan, outputs: int) -> Sizes | None:  # noqa: ARG002
        """Count what `build` would allocate for a plan, which may be another party's.

        None: no more than nnU-Net's own network, which is counted whatever the architecture is.
        """
        return None

    def described(self, plans: Mapping[str, Any], channels: int) -> Mapping[str, Any] | None:  # noqa: ARG002
        """Return the `architecture` of an nnU-Net plan by which nnU-Net's own tools build it.

        None: they cannot.
        """
        return None

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

    def optimiser(self, network: nn.Module, kind: Optimiser) -> torch.optim.Optimizer:
        """Make the budget's optimiser; an architecture may insist on its own.

        SGD is nnU-Net's (Isensee et al. 2021): with a momentum of .99 it takes tens of thousands
        of batches. AdamW learns in hundreds of them what SGD has not begun to see by then.
        """
        import torch

        if kind == "adamw":
            return torch.optim.AdamW(network.parameters(), ADAMW_RATE, weight_decay=WEIGHT_DECAY)
        return torch.optim.SGD(
            network.parameters(), SGD_RATE, weight_decay=WEIGHT_DECAY, momentum=0.99, nesterov=True
        )

    def schedule(self, optimiser: torch.optim.Optimizer, epochs: int, warmup_epochs: int) -> Any:
        """Make the learning rate's schedule, of which `step(epoch)` sets the rate of an epoch."""
        from hyfree_ray.segmenters.nnunet.schedule import WarmupPolyLR

        return WarmupPolyLR(optimiser, optimiser.defaults["lr"], epochs, warmup_epochs)
