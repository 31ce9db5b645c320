"""The operations of StyleGAN2, written for speed. N images, C channels, H, W, I in, O out.

Three identities do most of it: scaling weights per sample is scaling inputs and outputs; a blur
is linear, so its gain can be paid later; leaky ReLU is positively homogeneous, so a gain after it
can be paid before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hyfree_ray.generators.plan import Size

SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2)
"""Keeps the variance of a leaky ReLU's output at that of its input (Karras et al. 2018)."""
_EPSILON = 1e-8


def binomial(stride: int) -> list[float]:
    """The low-pass filter for a change of size by `stride`, of sum 1.

    Three box filters of the stride's width; for 2 it is [1, 3, 3, 1] / 8 (Karras et al. 2020,
    arXiv 1912.04958, appendix B: "bilinear filtering").
    """
    taps = [1.0]
    for _ in range(3):
        longer = [0.0] * (len(taps) + stride - 1)
        for place, tap in enumerate(taps):
            for shift in range(stride):
                longer[place + shift] += tap / stride
        taps = longer
    return taps


@lru_cache(maxsize=256)
def _filter(channels: int, stride: Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The filter of both axes, once a channel: C1HW."""
    with torch.inference_mode(False):
        rows = torch.tensor(binomial(stride[0]), device=device)
        columns = torch.tensor(binomial(stride[1]), device=device)
        return (rows[:, None] * columns).to(dtype).expand(channels, 1, -1, -1).contiguous()


class _Blur(torch.autograd.Function):
    """The low-pass filter, whose derivatives of any order are the filter again.

    Its taps are symmetric and constant. A depthwise convolution does not know that: a gradient of
    its gradient goes through the channels one by one, for the taps' sake.
    """

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, stride: Size, padding: Size) -> Tensor:
        ctx.stride, ctx.padding = stride, padding
        taps = _filter(x_NCHW.shape[1], stride, x_NCHW.dtype, x_NCHW.device)
        # A gradient may come in the other layout, in which this takes four times as long.
        x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x_NCHW, taps, padding=padding, groups=x_NCHW.shape[1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (slope_NCHW,) = slopes
        # What is around the input, and less than nothing where it was padded by over the taps.
        around = [3 * (s - 1) - pixels for s, pixels in zip(ctx.stride, ctx.padding, strict=True)]
        top, left = (max(0, -pixels) for pixels in around)
        height, width = slope_NCHW.shape[2:]
        slope_NCHW = slope_NCHW[:, :, top : height - top, left : width - left]
        return blur(slope_NCHW, ctx.stride, [max(0, pixels) for pixels in around]), None, None


def blur(x_NCHW: Tensor, stride: Size, padding: Sequence[int]) -> Tensor:
    """Low-pass filter, zeros beyond the edge, one depthwise convolution."""
    if stride == (1, 1):
        return x_NCHW
    out_NCHW: Tensor = _Blur.apply(x_NCHW, stride, tuple(padding))
    return out_NCHW


def downsample(x_NCHW: Tensor, stride: Size) -> Tensor:
    """Low-pass filter and keep every `stride`-th pixel.

    In two steps, because the gradient of a depthwise convolution with a stride is ten times as
    slow on a CPU as without.
    """
    if stride == (1, 1):
        return x_NCHW
    smooth_NCHW = blur(x_NCHW, stride, (stride[0] - 1, stride[1] - 1))
    return smooth_NCHW[:, :, :: stride[0], :: stride[1]].contiguous(
        memory_format=torch.channels_last
    )


def upsample(x_NCHW: Tensor, stride: Size) -> Tensor:
    """Put zeros between pixels and low-pass filter; a constant stays itself away from edges."""
    if stride == (1, 1):
        return x_NCHW
    taps = _filter(x_NCHW.shape[1], stride, x_NCHW.dtype, x_NCHW.device) * math.prod(stride)
    padding = (stride[0] - 1, stride[1] - 1)
    return F.conv_transpose2d(x_NCHW, taps, None, stride, padding, groups=x_NCHW.shape[1])


def activate(x_NCHW: Tensor) -> Tensor:
    """Leaky ReLU, in the place of its input; its gain is in the caller's weights."""
    return F.leaky_relu(x_NCHW, SLOPE, inplace=True)


def down_convolution(x_NCHW: Tensor, weight_OIHW: Tensor, bias_O: Tensor, stride: Size) -> Tensor:
    """Low-pass filter, then a strided convolution (Karras et al. 2020, figure 7)."""
    kernel = weight_OIHW.shape[2:]
    around = [(2 * s + k - 3) // 2 for s, k in zip(stride, kernel, strict=True)]
    if stride == (1, 1):
        return F.conv2d(x_NCHW, weight_OIHW, bias_O, padding=tuple(around))
    return F.conv2d(blur(x_NCHW, stride, around), weight_OIHW, bias_O, stride)


def _up_convolution(x_NCHW: Tensor, weight_OIHW: Tensor, stride: Size) -> Tensor:
    """Transposed convolution, then a low-pass filter that is short of its gain prod(stride)."""
    kernel = weight_OIHW.shape[2:]
    if stride == (1, 1):
        return F.conv2d(x_NCHW, weight_OIHW, padding=(kernel[0] // 2, kernel[1] // 2))
    missing = [(4 * s - k - 3) // 2 for s, k in zip(stride, kernel, strict=True)]
    # A kernel wider than the filter leaves pixels to cut, which the transposed form can do.
    cut = tuple(max(0, -pixels) for pixels in missing)
    x_NCHW = F.conv_transpose2d(x_NCHW, weight_OIHW.flip(2, 3).transpose(0, 1), None, stride, cut)
    return blur(x_NCHW, stride, [max(0, pixels) for pixels in missing])


def modulated_convolution(
    x_NCHW: Tensor, weight_OIHW: Tensor, style_NI: Tensor, stride: Size
) -> tuple[Tensor, Tensor]:
    """Weight modulation and demodulation (Karras et al. 2020, equations 1 and 3).

    w'_oik = s_i w_oik and w''_oik = w'_oik / sqrt(sum_ik w'_oik^2 + eps), written as an ordinary
    convolution of s x, whose outputs are then to be divided by the norm.

    Args:
        weight_OIHW: float32.
        style_NI: float32.
        stride: upsampling.

    Returns:
        The convolution's output, and the factor_NO11 (float32) by which it must be multiplied.
    """
    energy_IO = weight_OIHW.square().sum((2, 3)).T
    factor_NO = torch.rsqrt(style_NI.square() @ energy_IO + _EPSILON) * math.prod(stride)
    scaled_NCHW = x_NCHW * style_NI.to(x_NCHW.dtype)[:, :, None, None]
    out_NCHW = _up_convolution(scaled_NCHW, weight_OIHW.to(x_NCHW.dtype), stride)
    return out_NCHW, factor_NO[:, :, None, None]


def to_image(x_NCHW: Tensor, weight_OI: Tensor, style_NI: Tensor) -> Tensor:
    """Modulated 1x1 convolution without demodulation, to few channels: NOHW in the style's type.

    Few outputs make a product of each pixel's features cheaper than scaling all features.
    """
    weight_NIO = (weight_OI * style_NI[:, None, :]).transpose(1, 2).to(x_NCHW.dtype)
    pixels_NPI = x_NCHW.permute(0, 2, 3, 1).flatten(1, 2)
    out_NPO = torch.bmm(pixels_NPI, weight_NIO).to(style_NI.dtype)
    return out_NPO.transpose(1, 2).unflatten(2, x_NCHW.shape[2:])


def from_image(image_NCHW: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """1x1 convolution from few channels: NOHW, channels_last.

    As a product, because with one channel the two memory layouts look alike and a convolution
    would choose the slow one for all that follows.
    """
    out_NHWO = F.linear(image_NCHW.permute(0, 2, 3, 1), weight_OI, bias_O)
    return out_NHWO.permute(0, 3, 1, 2)
