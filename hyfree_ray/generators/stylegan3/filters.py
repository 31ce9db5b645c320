"""The filters of StyleGAN3, an axis a matrix. N images, C channels, H, W, S samples in, T between.

Karras et al. 2021 (arXiv 2106.12423), appendix C: windowed sincs. To put zeros between samples,
filter, and take every n-th one is linear: as a product of matrices, each axis by itself, it takes
as long as a convolution on a CPU and differentiates as often as one likes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.signal import firwin
from torch import Tensor
from torch.nn import functional as F

from hyfree_ray.generators.adversarial import ops
from hyfree_ray.generators.plan import Size
from hyfree_ray.generators.stylegan3.plan import Layer

TAPS = 6
"""Of a filter, for each of the samples that become one or that one becomes."""
OVERSAMPLED = 2
"""The rate at which a leaky ReLU is evaluated, over the larger of input's and output's."""
CLAMP = 256.0


def low_pass(factor: int, cutoff: float, half_width: float, rate: float) -> np.ndarray:
    """Return a Kaiser-windowed sinc, of sum 1; nothing to do for a factor of 1.

    Args:
        factor: by how much the rate changes.
        cutoff: periods a side that are kept.
        half_width: half of the band in which the filter falls.
        rate: samples a side where it is applied.
    """
    if factor == 1:
        return np.ones(1)
    taps: np.ndarray = firwin(TAPS * factor, cutoff, width=2 * half_width, fs=rate)
    return taps


def resampling(
    before: Layer, after: Layer, axis: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices up, (T, S), and down, (samples after, T), around a non-linearity.

    Both grids have their middle in the middle of the image, but for half a sample between.

    Args:
        before: what comes in.
        after: what goes out.
        axis: 0 or 1.
        samples: S, those that come in along the axis.
    """
    between = OVERSAMPLED * max(before.rate[axis], after.rate[axis])
    up, down = between // before.rate[axis], between // after.rate[axis]
    rise = up * low_pass(up, before.cutoff[axis], before.half_width[axis], between)
    fall = low_pass(down, after.cutoff[axis], after.half_width[axis], between)
    kept = after.size[axis]
    length = (kept - 1) * down + len(fall)
    middle = (samples - 1) * up - (kept - 1) * down + len(rise) - len(fall)
    first = middle // 2
    up_TS = np.zeros((length, samples))
    for sample in range(samples):
        for tap, value in enumerate(rise):
            if 0 <= (row := sample * up + tap - first) < length:
                up_TS[row, sample] = value
    down_KT = np.zeros((kept, length))
    for row in range(kept):
        down_KT[row, row * down : row * down + len(fall)] = fall
    return up_TS, down_KT


@lru_cache(maxsize=256)
def _matrices(
    before: Layer,
    after: Layer,
    axis: int,
    samples: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        up_TS, down_KT = resampling(before, after, axis, samples)
        return (
            torch.from_numpy(up_TS).to(device, dtype),
            torch.from_numpy(down_KT).to(device, dtype),
        )


def filtered_activation(x_NCHW: Tensor, before: Layer, after: Layer) -> Tensor:
    """Leaky ReLU at a rate that holds what it makes, and back (Karras et al. 2021, section 3.1)."""
    rows, columns = x_NCHW.shape[2:]
    up_rows, down_rows = _matrices(before, after, 0, rows, x_NCHW.dtype, x_NCHW.device)
    up_columns, down_columns = _matrices(before, after, 1, columns, x_NCHW.dtype, x_NCHW.device)
    fine_NCHW = up_rows @ (x_NCHW @ up_columns.T)
    bent_NCHW = F.leaky_relu(fine_NCHW, ops.SLOPE) * ops.ACTIVATION_GAIN
    return down_rows @ (bent_NCHW.clamp(-CLAMP, CLAMP) @ down_columns.T)


def places(size: Size, rate: Size) -> Tensor:
    """Where samples are, in sides from the middle: (H, W, 2), rows first."""
    rows, columns = (
        (torch.arange(count) - (count - 1) / 2) / per_side
        for count, per_side in zip(size, rate, strict=True)
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)


def disc(count: int, radius: float) -> Tensor:
    """Points (count, 2) that are uniform in a disc, from torch's global generator."""
    angle = 2 * math.pi * torch.rand(count)
    return radius * torch.rand(count).sqrt()[:, None] * torch.stack([angle.sin(), angle.cos()], 1)
