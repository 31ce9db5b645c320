"""A trained generator's loss of single images. N images, C channels, H, W."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hyfree_ray.generators import mask_encoding, trained
from hyfree_ray.generators.loop import read_weights
from hyfree_ray.generators.pairing import check_masks
from hyfree_ray.generators.protocol import LossySampler, compute_of

LOSS_BATCH = 64
"""Images whose losses are computed together."""


def losses(
    workdir: Path,
    snapshot: str,
    images_NCHW: np.ndarray,
    masks_NHW: np.ndarray | None,
    *,
    device: str,
) -> np.ndarray | None:
    """See `hyfree_ray.generators.losses`."""
    generator, _, plan = trained(workdir)
    if plan.given_channels:
        return None  # of an image for a mask, which is another loss
    encoding = mask_encoding(workdir)
    sampler = generator.load().sampler(
        plan, compute_of(device, "fp32"), read_weights(workdir, snapshot)
    )
    if not isinstance(sampler, LossySampler) or generator.learns_masks:
        return None
    if encoding is not None:
        images_NCHW = encoding.with_masks(images_NCHW, check_masks(images_NCHW, masks_NHW))
    images = torch.from_numpy(images_NCHW).to(device)
    with torch.no_grad():
        parts = [sampler.losses(part).cpu() for part in images.split(LOSS_BATCH)]
    return torch.cat(parts).numpy()
