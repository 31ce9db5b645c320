"""UPerNet on a Swin transformer as nnU-Net calls a network: images in, logits out, any size.

Shapes: N images, C channels, H height, W width, O outputs, F features.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.segmenters.swin.shape import MLP, POOLED, TOKEN, SwinShape


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Let nothing import a module meanwhile, unless it has been imported already.

    transformers imports torchvision wherever it is installed, for images that it never reads here;
    timm, which nnU-Net needs, brings one that does not fit every torch.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


with _hidden("torchvision"):
    from transformers import SwinConfig, UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetForSemanticSegmentation


class UPerNetSwin(nn.Module):
    """The network, with random weights; arguments as nnU-Net gives them to an architecture.

    Strides are 4 and then 2 along both axes. An image whose sides they do not divide is padded by
    zeros below and on the right, as nnU-Net pads, and the logits are cropped. In training, logits
    of the image's own resolution alone are returned: UPerNet has no deep supervision.

    Args:
        input_channels: C.
        num_classes: O.
        deep_supervision: False.
        embedding, depths, heads, window, hidden, drop_path: see `SwinShape`.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        *,
        embedding: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        hidden: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        if deep_supervision:
            raise NotImplementedError("UPerNet has no deep supervision")
        self.shape = SwinShape(
            embedding=embedding,
            depths=tuple(depths),
            heads=tuple(heads),
            window=window,
            hidden=hidden,
            drop_path=drop_path,
        )
        # Both classes take more than their signatures say.
        backbone: dict[str, Any] = {
            "num_channels": input_channels,
            "patch_size": TOKEN,
            "embed_dim": embedding,
            "depths": list(depths),
            "num_heads": list(heads),
            "window_size": window,
            "mlp_ratio": float(MLP),
            "drop_path_rate": drop_path,
            "out_features": [f"stage{number + 1}" for number in range(len(depths))],
        }
        head: dict[str, Any] = {
            "hidden_size": hidden,
            "pool_scales": list(POOLED),
            "num_labels": num_classes,
            "use_auxiliary_head": False,
        }
        config = UperNetConfig(backbone_config=SwinConfig(**backbone), **head)
        self.upernet = UperNetForSemanticSegmentation(config)
        # No loss depends on it, which distributed training would wait for.
        self.upernet.backbone.swin.layernorm.requires_grad_(False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits_NOHW."""
        if self.training and len(images_NCHW) < 2:
            raise HyfreeError(
                "segmenter.batch-of-one",
                "segmenter swin: its batch norm cannot be trained with one image at a time; use "
                "fewer general_workers, or a larger budget.plan.batch_size",
            )
        height, width = images_NCHW.shape[2:]
        logits_NOHW: Tensor = self.upernet(self._padded(images_NCHW)).logits
        return logits_NOHW[:, :, :height, :width]

    def features(self, images_NCHW: Tensor) -> Tensor:
        """Return features_NF: those of the coarsest stage, averaged over the image."""
        coarsest_NFHW = self.upernet.backbone(self._padded(images_NCHW)).feature_maps[-1]
        return coarsest_NFHW.float().mean(dim=(2, 3))

    def _padded(self, images_NCHW: Tensor) -> Tensor:
        height, width = images_NCHW.shape[2:]
        tall, wide = self.shape.padded((height, width))
        return functional.pad(images_NCHW, (0, wide - width, 0, tall - height))
