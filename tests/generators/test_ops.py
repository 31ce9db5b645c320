from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, signal
from torch.nn import functional as F
from torch.profiler import profile

from hyfree_ray.generators.adversarial import ops

STRIDES = [(2, 2), (2, 1), (1, 2), (3, 2)]


def _filter(stride):
    return np.outer(ops.binomial(stride[0]), ops.binomial(stride[1]))


def test_the_filter_of_stride_two_is_the_papers():
    np.testing.assert_allclose(ops.binomial(2), np.array([1, 3, 3, 1]) / 8)
    np.testing.assert_allclose(ops.binomial(1), [1])
    assert sum(ops.binomial(3)) == pytest.approx(1)


@pytest.mark.parametrize("stride", STRIDES)
def test_upsampling_is_scipys_polyphase_resampling(stride):
    image = np.random.default_rng(0).normal(size=(1, 2, 7, 5))
    ours = ops.upsample(torch.from_numpy(image), stride).numpy()
    assert ours.shape[2:] == (7 * stride[0], 5 * stride[1])
    for channel in range(2):
        full = image[0, channel]
        for axis in (0, 1):
            taps = np.array(ops.binomial(stride[axis])) * stride[axis]
            full = np.apply_along_axis(
                lambda x, s=stride[axis], t=taps: signal.upfirdn(t, x, s), axis, full
            )
        # upfirdn returns all of the filter's reach: cut to the centre.
        top, left = (stride[0] - 1, stride[1] - 1)
        expected = full[top : top + 7 * stride[0], left : left + 5 * stride[1]]
        np.testing.assert_allclose(ours[0, channel], expected, atol=1e-6)


@pytest.mark.parametrize("stride", STRIDES)
def test_downsampling_is_scipys_filter_at_every_strideth_pixel(stride):
    image = np.random.default_rng(1).normal(size=(1, 1, 12, 18))
    ours = ops.downsample(torch.from_numpy(image), stride).numpy()[0, 0]
    full = signal.convolve2d(image[0, 0], _filter(stride), mode="full")
    expected = full[2 * stride[0] - 2 :: stride[0], 2 * stride[1] - 2 :: stride[1]]
    expected = expected[: ours.shape[0], : ours.shape[1]]
    assert ours.shape == (12 // stride[0], 18 // stride[1])
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def _first_and_second_gradient(out, image, slope, change):
    (first,) = torch.autograd.grad((out * slope).sum(), image, create_graph=True)
    (second,) = torch.autograd.grad((first * change).sum(), slope)
    return first, second


@pytest.mark.parametrize("size", [(12, 18), (11, 13)])  # also where a stride does not divide it
@pytest.mark.parametrize("stride", STRIDES)
def test_the_gradients_of_downsampling_are_the_strided_depthwise_convolutions(stride, size):
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, *size, dtype=torch.double, generator=random, requires_grad=True)
    taps = torch.from_numpy(_filter(stride)).expand(3, 1, -1, -1)
    padding = tuple(s - 1 for s in stride)
    expected = F.conv2d(image, taps, None, stride, padding, groups=3)
    ours = ops.downsample(image, stride)
    torch.testing.assert_close(ours, expected, atol=1e-7, rtol=0)
    slope = torch.randn(expected.shape, dtype=torch.double, generator=random, requires_grad=True)
    change = torch.randn(image.shape, dtype=torch.double, generator=random)
    found = _first_and_second_gradient(ours, image, slope, change)
    wanted = _first_and_second_gradient(expected, image, slope, change)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_the_blur_is_scipys_correlation():
    image = np.random.default_rng(2).normal(size=(1, 1, 9, 11))
    ours = ops.blur(torch.from_numpy(image), (2, 2), (1, 1)).numpy()[0, 0]
    expected = ndimage.correlate(image[0, 0], _filter((2, 2)), mode="constant", origin=0)
    np.testing.assert_allclose(ours, expected[1:, 1:], atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("stride", STRIDES)
def test_the_blurs_gradients_are_the_depthwise_convolutions(stride, kernel):
    # As the discriminator pads it for a kernel; 7 is wider than a filter.
    padding = tuple((2 * s + kernel - 3) // 2 for s in stride)
    random = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 11, 14, dtype=torch.double, generator=random, requires_grad=True)
    taps = torch.from_numpy(_filter(stride)).expand(3, 1, -1, -1)
    expected = F.conv2d(image, taps, padding=padding, groups=3)
    ours = ops.blur(image, stride, padding)
    torch.testing.assert_close(ours, expected, atol=1e-7, rtol=0)
    slope = torch.randn(expected.shape, dtype=torch.double, generator=random, requires_grad=True)
    change = torch.randn(image.shape, dtype=torch.double, generator=random)
    found = _first_and_second_gradient(ours, image, slope, change)
    wanted = _first_and_second_gradient(expected, image, slope, change)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_gradient_of_the_blurs_gradient_does_not_go_through_the_channels_one_by_one():
    def convolutions(channels):
        image = torch.randn(2, channels, 8, 10, requires_grad=True)
        with profile() as seen:
            out = ops.blur(image, (2, 2), (2, 2)).square().sum()
            (slope,) = torch.autograd.grad(out, image, create_graph=True)
            slope.square().sum().backward()
        names = {"aten::convolution", "aten::convolution_backward"}
        return sum(event.count for event in seen.key_averages() if event.key in names)

    assert convolutions(16) == convolutions(4)


def _direct(x, weight, style, stride):
    """Equations 1 and 3 with a weight for each sample, one convolution each."""
    out = []
    for sample, scale in zip(x, style, strict=True):
        own = weight * scale[None, :, None, None]
        own = own * torch.rsqrt(own.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if stride == (1, 1):
            out.append(F.conv2d(sample[None], own, padding=[k // 2 for k in own.shape[2:]]))
            continue
        # Zeros between pixels, then the plain convolution, then the filter, all at full size.
        height, width = sample.shape[1:]
        wide = torch.zeros(1, len(sample), height * stride[0], width * stride[1], dtype=x.dtype)
        wide[:, :, :: stride[0], :: stride[1]] = sample
        reach = [(3 * s - 3, k - 1) for s, k in zip(stride, own.shape[2:], strict=True)]
        pads = [value for f, k in reversed(reach) for value in (f + k, f + k)]
        wide = F.conv2d(F.pad(wide, pads), own)
        taps = torch.from_numpy(_filter(stride)).to(x.dtype) * math.prod(stride)
        taps = taps.expand(len(own), 1, -1, -1)
        wide = F.conv2d(wide, taps, groups=len(own))
        # An impulse at pixel i has to land on the centre of cell i: is + (s - 1) / 2.
        first = [(2 * s + k - 3) // 2 for s, k in zip(stride, own.shape[2:], strict=True)]
        out.append(
            wide[:, :, first[0] :, first[1] :][:, :, : height * stride[0], : width * stride[1]]
        )
    return torch.cat(out)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (5, 1), (7, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1), (1, 2)])
def test_modulated_convolution_is_the_direct_form_per_sample(kernel, stride):
    random = torch.Generator().manual_seed(3)
    x = torch.randn(3, 6, 8, 5, generator=random)
    weight = torch.randn(4, 6, *kernel, generator=random)
    style = torch.randn(3, 6, generator=random)
    out, factor = ops.modulated_convolution(x, weight, style, stride)
    expected = _direct(x.double(), weight.double(), style.double(), stride)
    assert out.shape == expected.shape
    assert (out * factor - expected).abs().max() < 1e-5


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 3)])
def test_a_strided_convolution_filters_first(kernel, stride):
    random = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, 12, 8, generator=random, dtype=torch.float64)
    weight = torch.randn(5, 3, *kernel, generator=random, dtype=torch.float64)
    bias = torch.randn(5, generator=random, dtype=torch.float64)
    ours = ops.down_convolution(x, weight, bias, stride)
    assert ours.shape[2:] == (12 // stride[0], 8 // stride[1])
    taps = _filter(stride)
    filtered = np.stack(
        [[signal.convolve2d(channel, taps, mode="full") for channel in sample] for sample in x]
    )
    around = [k - 1 for k in kernel]
    wide = F.pad(torch.from_numpy(filtered), (around[1],) * 2 + (around[0],) * 2)
    expected = F.conv2d(wide, weight, bias)
    # Symmetric about the image: as much is cut on either side, up to the stride's own phase.
    first = [
        (expected.shape[2 + a] - ((x.shape[2 + a] // stride[a] - 1) * stride[a] + 1)) // 2
        for a in (0, 1)
    ]
    expected = expected[:, :, first[0] :: stride[0], first[1] :: stride[1]]
    expected = expected[:, :, : ours.shape[2], : ours.shape[3]]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_the_image_product_is_a_modulated_one_by_one_convolution():
    random = torch.Generator().manual_seed(5)
    x = torch.randn(3, 6, 4, 7, dtype=torch.double, generator=random, requires_grad=True)
    weight = torch.randn(2, 6, dtype=torch.double, generator=random, requires_grad=True)
    style = torch.randn(3, 6, dtype=torch.double, generator=random, requires_grad=True)
    expected = torch.einsum("nihw,oi,ni->nohw", x, weight, style)
    ours = ops.to_image(x, weight, style)
    torch.testing.assert_close(ours, expected)
    assert torch.autograd.gradcheck(ops.to_image, (x, weight, style))
    assert torch.autograd.gradgradcheck(ops.to_image, (x, weight, style))


def test_the_first_features_are_an_activated_one_by_one_convolution_in_channels_last():
    random = torch.Generator().manual_seed(6)
    image = torch.randn(3, 2, 4, 7, generator=random)
    weight, bias = torch.randn(6, 2, generator=random), torch.randn(6, generator=random)
    ours = ops.from_image(image, weight, bias)
    expected = F.leaky_relu(F.conv2d(image, weight[:, :, None, None], bias), ops.SLOPE)
    torch.testing.assert_close(ours, expected)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_copied_between_layouts_where_features_pass_into_the_discriminator():
    image = torch.randn(3, 1, 8, 12, requires_grad=True)
    weight, bias = (torch.randn(s, requires_grad=True) for s in ((6, 1), (6,)))
    with profile(record_shapes=True) as seen:
        ops.from_image(image, weight, bias).square().sum().backward()
    shapes = [event.input_shapes for event in seen.events() if event.name == "aten::clone"]
    assert [3, 8, 12, 6] not in [shape[0] for shape in shapes if shape]
    assert [3, 6, 8, 12] not in [shape[0] for shape in shapes if shape]
