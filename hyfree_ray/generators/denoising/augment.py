"""Augmentations that the network is told of, so that it need not draw them. N images, A numbers.

Karras et al. 2022 (EDM, arXiv 2206.00364, appendix F.2): where few images are shown often, a
network learns them by heart later if each comes moved, turned, enlarged or brighter, and draws none
of that if it is told by how much: when images are drawn, it is told nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NUMBERS = 6
"""What is told of an image: mirrored, moved down and right, enlarged, turned, brighter."""

SHARE = 0.2
"""Of the images that each kind of alteration (mirroring, moving, enlarging and turning, brightness)
is applied to."""
_MOVE, _ENLARGE, _TURN, _BRIGHTEN = 0.05, 0.1, 0.15, 0.12
"""Standard deviations: shares of the side, logarithm, radians, logarithm."""


def augment(images_NCHW: Tensor, random: torch.Generator, masks: int = 0) -> tuple[Tensor, Tensor]:
    """Alter some of the images, each kind independently of the others.

    Args:
        images_NCHW: in [-1, 1], where -1 is air.
        random: all randomness comes from it.
        masks: of the channels, the last ones, which stand for labels and get no brighter.

    Returns:
        The images, and what to tell the network of each: `NUMBERS` of about unit size, 0 where
        nothing was done.
    """
    count, device = len(images_NCHW), images_NCHW.device
    chosen_4N = torch.rand(4, count, generator=random, device=device) < SHARE
    draw_AN = torch.randn(NUMBERS, count, generator=random, device=device)
    kind_A = torch.tensor([0, 1, 1, 2, 2, 3], device=device)
    told_AN = draw_AN * chosen_4N[kind_A]
    told_AN[0] = chosen_4N[0] * 1.0
    moved_NCHW = F.grid_sample(
        images_NCHW,
        F.affine_grid(_maps(told_AN, images_NCHW), list(images_NCHW.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    # Those that stay where they are keep their very pixels.
    still_N = (told_AN[:5] == 0).all(0)
    placed_NCHW = torch.where(still_N[:, None, None, None], images_NCHW, moved_NCHW)
    gain_N = torch.exp(_BRIGHTEN * told_AN[5])
    brighter_NCHW = (placed_NCHW + 1) * gain_N[:, None, None, None] - 1
    if masks:
        brighter_NCHW[:, -masks:] = placed_NCHW[:, -masks:]
    return brighter_NCHW, told_AN.T.contiguous()


def _maps(told_AN: Tensor, images_NCHW: Tensor) -> Tensor:
    """Affine maps (N, 2, 3) from a pixel's place to where it comes from, for `affine_grid`."""
    mirrored_N, down_N, right_N, larger_N, turned_N, _ = told_AN
    height, width = images_NCHW.shape[2:]
    shape = height / width  # places are shares of each side: a turn must not shear
    size_N = torch.exp(-_ENLARGE * larger_N)
    cos_N = size_N * torch.cos(_TURN * turned_N)
    sin_N = size_N * torch.sin(_TURN * turned_N)
    sign_N = 1 - 2 * mirrored_N
    rows = (
        torch.stack([sign_N * cos_N, -sin_N * shape, 2 * _MOVE * right_N], 1),
        torch.stack([sign_N * sin_N / shape, cos_N, 2 * _MOVE * down_N], 1),
    )
    return torch.stack(rows, 1)
