"""nnU-Net's own architecture, from its plan; nnU-Net is not imported until it is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hyfree_ray.segmenters import NNUNET
from hyfree_ray.segmenters.record import Segmenter

if TYPE_CHECKING:
    from torch import Tensor, nn


class UNet(Segmenter):
    """The plain convolutional U-Net that the plan describes."""

    name = NNUNET
    deep_supervision = True

    def build(
        self, plans: Mapping[str, Any], channels: int, outputs: int, *, deep_supervision: bool
    ) -> nn.Module:
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        manager = PlansManager(dict(plans))
        return nnUNetTrainer.build_network_architecture(
            manager,
            manager.get_configuration("2d"),
            channels,
            outputs,
            enable_deep_supervision=deep_supervision,
        )

    def described(self, plans: Mapping[str, Any], channels: int) -> Mapping[str, Any]:  # noqa: ARG002
        return plans["configurations"]["2d"]["architecture"]

    def features(self, network: Any, images_NCHW: Tensor) -> Tensor:
        """Average the encoder's coarsest features over the image."""
        return network.encoder(images_NCHW)[-1].float().mean(dim=(2, 3))

    def output_layers(self, network: Any) -> Iterable[Any]:
        return network.decoder.seg_layers

    def set_deep_supervision(self, network: Any, enabled: bool) -> None:
        network.decoder.deep_supervision = enabled


U_NET = UNet()
