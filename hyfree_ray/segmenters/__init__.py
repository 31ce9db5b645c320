"""Segmenters: architectures inside nnU-Net. Looking one up by name does not import torch."""

from hyfree_ray.core.registry import Registry
from hyfree_ray.segmenters.record import Segmenter

NNUNET = "nnunet"
"""nnU-Net's own U-Net."""

SEGMENTERS: Registry[Segmenter] = Registry(
    "segmenter",
    "hyfree_ray.segmenters",
    Segmenter,  # type: ignore[type-abstract]
    {
        NNUNET: f"{__name__}.nnunet.architecture:U_NET",
        "swin": f"{__name__}.swin.architecture:SWIN",
    },
)
