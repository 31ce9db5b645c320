"""How well what is drawn moves as one: EQ-T (Karras et al. 2021, arXiv 2106.12423, app. E.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hyfree_ray.generators.stylegan3.networks import Generator


def _overlap(images_NCHW: Tensor, move: tuple[int, int]) -> Tensor:
    """What is still in sight of images after they have moved down and right."""
    (down, right), height, width = move, images_NCHW.shape[2], images_NCHW.shape[3]
    rows = slice(max(0, -down), height - max(0, down))
    columns = slice(max(0, -right), width - max(0, right))
    return images_NCHW[:, :, rows, columns]


@torch.no_grad()
def translation_equivariance(
    generator: Generator, *, images: int, moves: Sequence[tuple[int, int]], seed: int = 0
) -> float:
    """Return EQ-T in decibels: the peak over what images differ by whose input or pixels moved.

    The peak is the range of the images themselves, which fresh networks do not fill [-1, 1] with.

    Args:
        generator: not in training.
        images: how many are drawn.
        moves: pixels down and right; the paper's: up to an eighth of a side.
        seed: of the latents.
    """
    random = torch.Generator().manual_seed(seed)
    synthesis = generator.synthesis
    w_NZ = generator.mapping(torch.randn(images, generator.latent_size, generator=random))
    still_NCHW: Tensor = synthesis(w_NZ)
    peak = float(still_NCHW.max() - still_NCHW.min())
    errors = []
    for move in moves:
        moved_NCHW = synthesis(w_NZ, synthesis.sides_of(move))
        back = (-move[0], -move[1])
        errors.append((_overlap(moved_NCHW, back) - _overlap(still_NCHW, move)).square().mean())
    return 10 * math.log10(peak**2 / float(torch.stack(errors).mean()))
