"""Texture maps: what of an image stays when it is relit, inverted, moved, turned or zoomed.

A map holds what is finer than the anatomy that all patients share and coarser than noise, at equal
contrast everywhere. Two patients' maps hardly correlate; those of an image and its copy do, once
one is laid over the other.

Shapes: N images, C channels, H height, W width of an image; h height, w width on a grid. Places are
offsets (x, y) in pixels from the centre.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Band:
    """The band of spatial frequencies that a map keeps, in pixels of its grid."""

    fine: float
    """Standard deviation of the blur that removes noise; 0: none."""
    coarse: float
    """Standard deviation of the blur that is subtracted."""
    contrast: float
    """Standard deviation of the window in which contrast is equalised."""
    flat: float = 0.05
    """Share of an image's mean energy below which a region counts as flat and is not amplified."""


def one_channel(images_NCHW: np.ndarray, weights_C: np.ndarray, side: int) -> torch.Tensor:
    """Return images_N1hw: the weighted mean of the channels, `side` pixels along the longer side.

    Args:
        images_NCHW: in [-1, 1].
        weights_C: see `channel_weights`.
        side: the images' proportions are kept.
    """
    images = torch.from_numpy(np.ascontiguousarray(images_NCHW, np.float32))
    weights = torch.from_numpy(weights_C.astype(np.float32))
    mixed_N1HW = torch.einsum("nchw,c->nhw", images, weights)[:, None]
    return resized(mixed_N1HW, side)


def channel_weights(images_NCHW: np.ndarray) -> np.ndarray:
    """Return weights_C by which channels add up: the first principal component of their pixels.

    Channels of opposite contrast get opposite signs, so that they do not cancel out.
    """
    channels = images_NCHW.shape[1]
    if channels == 1:
        return np.ones(1)
    pixels_CP = images_NCHW.swapaxes(0, 1).reshape(channels, -1)
    weights_C = np.linalg.eigh(np.atleast_2d(np.cov(pixels_CP)))[1][:, -1]
    sign = np.sign(weights_C[np.abs(weights_C).argmax()])
    signed_C: np.ndarray = sign * weights_C / np.abs(weights_C).sum()
    return signed_C


def grid_shape(height: int, width: int, side: int) -> tuple[int, int]:
    """Return (h, w) with `side` pixels along the longer side, at least 8 along the other."""
    scale = side / max(height, width)
    return max(8, round(height * scale)), max(8, round(width * scale))


def resized(images_N1HW: torch.Tensor, side: int) -> torch.Tensor:
    """Resize the images in their proportions."""
    size = grid_shape(images_N1HW.shape[2], images_N1HW.shape[3], side)
    return functional.interpolate(images_N1HW, size=size, mode="bilinear", antialias=True)


def texture(images_N1hw: torch.Tensor, band: Band) -> torch.Tensor:
    """Return maps_Nhw: band-passed images whose contrast is equalised locally (mean energy 1)."""
    fine = blurred(images_N1hw, band.fine) if band.fine else images_N1hw
    passed = fine - blurred(images_N1hw, band.coarse)
    energy = blurred(passed * passed, band.contrast)
    floor = band.flat * energy.mean(dim=(1, 2, 3), keepdim=True) + 1e-8
    return (passed / (energy + floor).sqrt())[:, 0]


def blurred(images_N1hw: torch.Tensor, deviation: float) -> torch.Tensor:
    """Blur by a Gaussian, repeating the edge."""
    height, width = images_N1hw.shape[2:]
    return _blur(height, deviation) @ images_N1hw @ _blur(width, deviation).T


@functools.lru_cache(maxsize=64)
def _blur(length: int, deviation: float) -> torch.Tensor:
    """Return the matrix that blurs a line: on a CPU, far quicker than to convolve one channel."""
    reach = max(1, int(3 * deviation + 0.5))
    steps = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (steps / deviation) ** 2)
    to = torch.arange(length)
    source = (to[:, None] + steps).clamp(0, length - 1)
    weights = (kernel / kernel.sum()).expand(length, -1)
    return torch.zeros(length, length).scatter_add_(1, source, weights)


def warped(
    images_N1hw: torch.Tensor,
    linear_N22: torch.Tensor,
    shift_N2: torch.Tensor,
    shape: tuple[int, int],
) -> torch.Tensor:
    """Sample the images so that place p of the result is their place `linear` p + `shift`.

    Args:
        images_N1hw: beyond their edge, it is repeated.
        linear_N22: acts on (x, y).
        shift_N2: (x, y) in pixels.
        shape: of the result, (height, width).
    """
    height, width = images_N1hw.shape[2:]
    places_hw2 = torch.stack(
        torch.meshgrid(centred(shape[1]), centred(shape[0]), indexing="xy"), dim=-1
    )
    source = torch.einsum("nij,hwj->nhwi", linear_N22, places_hw2) + shift_N2[:, None, None]
    source = source / torch.tensor([width / 2, height / 2])
    return functional.grid_sample(
        images_N1hw, source, mode="bilinear", padding_mode="border", align_corners=False
    )


def centred(length: int) -> torch.Tensor:
    """Return the places of `length` pixels, from their centre."""
    return torch.arange(length, dtype=torch.float32) - (length - 1) / 2
