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


class _Downsample(torch.autograd.Function):
    """The low-pass filter at every `stride`-th pixel, whose derivative is `_Upsample`, and so on.

    As with `_Blur`, no gradient is taken by the taps.
    """

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, stride: Size) -> Tensor:
        ctx.stride, ctx.size = stride, x_NCHW.shape[2:]
        taps = _filter(x_NCHW.shape[1], stride, x_NCHW.dtype, x_NCHW.device)
        x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
        padding = [s - 1 for s in stride]
        return F.conv2d(x_NCHW, taps, None, stride, padding, groups=x_NCHW.shape[1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return _Upsample.apply(slopes[0], ctx.stride, ctx.size), None


class _Upsample(torch.autograd.Function):
    """Zeros between pixels, then the low-pass filter: `_Downsample` transposed.

    In two steps: a transposed depthwise convolution takes thirty times as long in bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, stride: Size, size: Size) -> Tensor:
        ctx.stride = stride
        count, channels = x_NCHW.shape[:2]
        height, width = (side - s + 1 for side, s in zip(size, stride, strict=True))
        spread_NCHW = x_NCHW.new_zeros(count, height, width, channels).permute(0, 3, 1, 2)
        spread_NCHW[:, :, :: stride[0], :: stride[1]] = x_NCHW
        taps = _filter(channels, stride, x_NCHW.dtype, x_NCHW.device)
        padding = [2 * (s - 1) for s in stride]
        return F.conv2d(spread_NCHW, taps, padding=padding, groups=channels)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        return _Downsample.apply(slopes[0], ctx.stride), None, None


def downsample(x_NCHW: Tensor, stride: Size) -> Tensor:
    """Low-pass filter and keep every `stride`-th pixel, channels_last."""
    if stride == (1, 1):
        return x_NCHW
    out_NCHW: Tensor = _Downsample.apply(x_NCHW, stride)
    return out_NCHW


@lru_cache(maxsize=256)
def _enlarging(side: int, stride: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What `upsample` does along an axis, as a matrix: (stride x side, side)."""
    with torch.inference_mode(False):
        pixels = torch.eye(side).reshape(side, 1, side)
        taps = stride * torch.tensor(binomial(stride)).reshape(1, 1, -1)
        columns = F.conv_transpose1d(pixels, taps, stride=stride, padding=stride - 1)
        return columns[:, 0].T.to(device, dtype).contiguous()


def upsample(x_NCHW: Tensor, stride: Size) -> Tensor:
    """Put zeros between pixels and low-pass filter; a constant stays itself away from edges.

    As two products of matrices: images have few channels, for which a convolution is slow.
    """
    for axis in (0, 1):
        if stride[axis] > 1:
            side = x_NCHW.shape[2 + axis]
            enlarge = _enlarging(side, stride[axis], x_NCHW.dtype, x_NCHW.device)
            x_NCHW = enlarge @ x_NCHW if axis == 0 else x_NCHW @ enlarge.T
    return x_NCHW


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


class _PixelProduct(torch.autograd.Function):
    """Pixels_NPI times weight_NOI: NPO, with gradients that keep a pixel's features together.

    A transposed product's gradient by the weight would walk through memory the other way: at 64x64
    pixels and 128 features it takes eight times as long.
    """

    @staticmethod
    def forward(ctx: Any, pixels_NPI: Tensor, weight_NOI: Tensor) -> Tensor:
        ctx.save_for_backward(pixels_NPI, weight_NOI)
        return torch.bmm(pixels_NPI, weight_NOI.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        pixels_NPI, weight_NOI = ctx.saved_tensors
        (slope_NPO,) = slopes
        return torch.bmm(slope_NPO, weight_NOI), torch.bmm(slope_NPO.transpose(1, 2), pixels_NPI)


def to_image(x_NCHW: Tensor, weight_OI: Tensor, style_NI: Tensor) -> Tensor:
    """Modulated 1x1 convolution without demodulation, to few channels: NOHW in the style's type.

    Few outputs make a product of each pixel's features cheaper than scaling all features.
    """
    weight_NOI = (weight_OI * style_NI[:, None, :]).to(x_NCHW.dtype)
    pixels_NPI = x_NCHW.permute(0, 2, 3, 1).flatten(1, 2)
    out_NPO: Tensor = _PixelProduct.apply(pixels_NPI, weight_NOI)
    return out_NPO.to(style_NI.dtype).transpose(1, 2).unflatten(2, x_NCHW.shape[2:])


def from_image(image_NCHW: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """1x1 convolution from few channels, activated: NOHW, channels_last.

    As a product, because with one channel the two memory layouts look alike and a convolution
    would choose the slow one for all that follows; activated before it is given its axes, because
    the gradient of what is changed in place through a view is copied to and fro.
    """
    pixels_NHWI = image_NCHW.permute(0, 2, 3, 1)
    out_PO = activate(F.linear(pixels_NHWI.flatten(0, 2), weight_OI, bias_O))
    return out_PO.unflatten(0, pixels_NHWI.shape[:3]).permute(0, 3, 1, 2)
