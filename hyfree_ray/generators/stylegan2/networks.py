"""StyleGAN2's networks in the shape of nnU-Net's plan.

Karras et al. 2020 (arXiv 1912.04958), figure 7: a generator with skips to the image and a
residual discriminator. Levels, strides, kernels and channels are the plan's. N images, C channels,
H, W, Z latent, L layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyfree_ray.generators.adversarial import ops
from hyfree_ray.generators.adversarial.layers import (
    Linear,
    Mapping,
    fresh_kernel,
    minibatch_spread,
)
from hyfree_ray.generators.adversarial.plan import AdversarialPlan
from hyfree_ray.generators.plan import Size
from hyfree_ray.generators.stylegan2.plan import MAPPING_LAYERS, StyleGan2Plan


class _StyledConvolution(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU (Karras et al. 2020, figure 2d)."""

    def __init__(
        self, inputs: int, outputs: int, latent: int, kernel: Size, stride: Size, size: Size
    ) -> None:
        super().__init__()
        self.affine = Linear(latent, inputs, bias=1.0)
        self.weight = fresh_kernel(outputs, inputs, kernel)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._stride = stride
        self.size = size

    def forward(self, x_NCHW: Tensor, w_NZ: Tensor, noise_N1HW: Tensor) -> Tensor:
        style_NC = self.affine(w_NZ)
        # Demodulation makes the weight's own scale irrelevant.
        x_NCHW, factor = ops.modulated_convolution(x_NCHW, self.weight, style_NC, self._stride)
        gain, dtype = ops.ACTIVATION_GAIN, x_NCHW.dtype
        bias = (self.bias * gain).to(dtype)[:, None, None]
        noise_N1HW = (noise_N1HW * (self.noise_strength * gain)).to(dtype)
        x_NCHW = torch.addcmul(bias, x_NCHW, (factor * gain).to(dtype))
        return ops.activate(x_NCHW.add_(noise_N1HW))


class _ToImage(nn.Module):
    """A level's contribution to the image, from its features."""

    def __init__(self, inputs: int, channels: int, latent: int) -> None:
        super().__init__()
        self.affine = Linear(latent, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs))
        self.bias = nn.Parameter(torch.zeros(channels))
        self._gain = 1 / math.sqrt(inputs)

    def forward(self, x_NCHW: Tensor, w_NZ: Tensor) -> Tensor:
        image_NCHW = ops.to_image(x_NCHW, self.weight, self.affine(w_NZ) * self._gain)
        return image_NCHW + self.bias[:, None, None]


class Synthesis(nn.Module):
    """w to an image: one styled convolution at the base, two at each finer level."""

    def __init__(self, plan: StyleGan2Plan, dtype: torch.dtype) -> None:
        super().__init__()
        self._plan, self._dtype = plan, dtype
        channels, latent, given = plan.level_channels, plan.latent_size, plan.given_channels
        sizes, kernels = plan.level_sizes, plan.kernel_sizes
        self.constant = nn.Parameter(torch.randn(channels[-1], *sizes[-1]))
        self.convolutions = nn.ModuleList(
            [
                _StyledConvolution(
                    channels[-1] + given, channels[-1], latent, kernels[-1], (1, 1), sizes[-1]
                )
            ]
        )
        self.to_images = nn.ModuleList([_ToImage(channels[-1], plan.channels, latent)])
        for level in reversed(range(len(plan.strides))):
            inputs, outputs = channels[level + 1], channels[level]
            kernel, size, stride = kernels[level], sizes[level], plan.strides[level]
            self.convolutions.append(
                _StyledConvolution(inputs + given, outputs, latent, kernel, stride, size)
            )
            self.convolutions.append(
                _StyledConvolution(outputs + given, outputs, latent, kernel, (1, 1), size)
            )
            self.to_images.append(_ToImage(outputs, plan.channels, latent))

    @property
    def noise_sizes(self) -> list[Size]:
        """Size of each convolution's noise."""
        return [convolution.size for convolution in self.convolutions]

    @property
    def layers(self) -> int:
        """How many w the synthesis takes: one a convolution, one for the last image."""
        return len(self.convolutions) + 1

    def forward(
        self, w_NLZ: Tensor, noises: list[Tensor], given_NKHW: Tensor | None = None
    ) -> Tensor:
        """Images_NCHW of the patch size, float32.

        Args:
            w_NLZ: one for each of `layers`.
            noises: N1HW in the sizes of `noise_sizes`, standard normal.
            given_NKHW: the mask that the image is for, of the patch size; None: the plan has none.
                At the size of each level it joins the features before each modulated convolution,
                so that both its place and its weight follow w.
        """
        given = self._at_levels(given_NKHW)
        base = self.constant.to(self._dtype).expand(len(w_NLZ), -1, -1, -1)
        x_NCHW = base.contiguous(memory_format=torch.channels_last)
        w = w_NLZ.unbind(1)
        x_NCHW = self.convolutions[0](_joined(x_NCHW, given[-1]), w[0], noises[0])
        image_NCHW = self.to_images[0](x_NCHW, w[1])
        for step, stride in enumerate(reversed(self._plan.strides)):
            for layer, level in ((2 * step + 1, -1 - step), (2 * step + 2, -2 - step)):
                x_NCHW = _joined(x_NCHW, given[level])
                x_NCHW = self.convolutions[layer](x_NCHW, w[layer], noises[layer])
            finer_NCHW = self.to_images[step + 1](x_NCHW, w[2 * step + 3])
            image_NCHW = ops.upsample(image_NCHW, stride) + finer_NCHW
        (top, left), (height, width) = self._plan.margin, self._plan.patch_size
        return image_NCHW[:, :, top : top + height, left : left + width]

    def _at_levels(self, given_NKHW: Tensor | None) -> list[Tensor | None]:
        """A mask at each level's size, from the finest to the base, averaged over its pixels."""
        if given_NKHW is None:
            return [None] * len(self._plan.level_sizes)
        padded_NKHW = F.pad(given_NKHW, self._plan.sides, mode="replicate").to(self._dtype)
        return [F.adaptive_avg_pool2d(padded_NKHW, size) for size in self._plan.level_sizes]


def _joined(x_NCHW: Tensor, given_NKHW: Tensor | None) -> Tensor:
    if given_NKHW is None:
        return x_NCHW
    both_NCHW = torch.cat([x_NCHW, given_NKHW], 1)
    return both_NCHW.contiguous(memory_format=torch.channels_last)


class Generator(nn.Module):
    """Mapping and synthesis."""

    def __init__(self, plan: StyleGan2Plan, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.mapping = Mapping(plan.latent_size, MAPPING_LAYERS)
        self.synthesis = Synthesis(plan, dtype)

    @property
    def noise_sizes(self) -> list[Size]:
        """Size of each convolution's noise."""
        return self.synthesis.noise_sizes

    def forward(
        self, z_NZ: Tensor, noises: list[Tensor], given_NKHW: Tensor | None = None
    ) -> Tensor:
        """Images_NCHW of latents, one w for all layers."""
        w_NLZ = self.mapping(z_NZ)[:, None].expand(-1, self.synthesis.layers, -1)
        images_NCHW: Tensor = self.synthesis(w_NLZ, noises, given_NKHW)
        return images_NCHW


class _Residual(nn.Module):
    """A discriminator block: two convolutions, the second strided, and a strided 1x1 skip."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Size, strided_kernel: Size, stride: Size
    ) -> None:
        super().__init__()
        self.first = fresh_kernel(inputs, inputs, kernel)
        self.first_bias = nn.Parameter(torch.zeros(inputs))
        self.second = fresh_kernel(outputs, inputs, strided_kernel)
        self.second_bias = nn.Parameter(torch.zeros(outputs))
        self.skip = fresh_kernel(outputs, inputs, (1, 1))
        gain = ops.ACTIVATION_GAIN
        self._first_gain = gain / math.sqrt(inputs * math.prod(kernel))
        # Both branches carry the sum's 1 / sqrt(2), which cancels the activation's sqrt(2).
        self._second_gain = 1 / math.sqrt(inputs * math.prod(strided_kernel))
        self._skip_gain = 1 / math.sqrt(2 * inputs)
        self._stride = stride

    def forward(self, x_NCHW: Tensor) -> Tensor:
        dtype = x_NCHW.dtype
        first = (self.first * self._first_gain).to(dtype)
        first_bias = (self.first_bias * ops.ACTIVATION_GAIN).to(dtype)
        second, second_bias = (self.second * self._second_gain).to(dtype), self.second_bias
        h_NCHW = ops.activate(ops.down_convolution(x_NCHW, first, first_bias, (1, 1)))
        h_NCHW = ops.activate(
            ops.down_convolution(h_NCHW, second, second_bias.to(dtype), self._stride)
        )
        skip = (self.skip * self._skip_gain).to(dtype)
        return h_NCHW + F.conv2d(ops.downsample(x_NCHW, self._stride), skip)


class Discriminator(nn.Module):
    """Images to one logit each: residual blocks, minibatch spread, two linear layers.

    What an image was drawn for is seen with it, as further channels.
    """

    def __init__(self, plan: AdversarialPlan, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._dtype = dtype
        channels, kernels = plan.level_channels, plan.kernel_sizes
        self._sides = plan.sides
        self.enter = nn.Parameter(torch.randn(channels[0], plan.seen_channels))
        self.enter_bias = nn.Parameter(torch.zeros(channels[0]))
        self._enter_gain = ops.ACTIVATION_GAIN / math.sqrt(plan.seen_channels)
        self.blocks = nn.Sequential(
            *(
                _Residual(channels[i], channels[i + 1], kernels[i], kernels[i + 1], stride)
                for i, stride in enumerate(plan.strides)
            )
        )
        last, kernel = channels[-1], kernels[-1]
        self.last = fresh_kernel(last, last + 1, kernel)
        self.last_bias = nn.Parameter(torch.zeros(last))
        self._last_gain = ops.ACTIVATION_GAIN / math.sqrt((last + 1) * math.prod(kernel))
        self.hidden = Linear(last * math.prod(plan.base_size), last, activation=True)
        self.logit = Linear(last, 1)

    def forward(self, images_NCHW: Tensor, batches: int = 1) -> Tensor:
        """Logits_N of patch-sized images; zeros fill the plan's margin.

        Args:
            images_NCHW: one batch, or several of one length after one another.
            batches: how many; no group of the spread has images of two.
        """
        x_NCHW = F.pad(images_NCHW, self._sides).to(self._dtype)
        enter = (self.enter * self._enter_gain).to(self._dtype)
        enter_bias = (self.enter_bias * ops.ACTIVATION_GAIN).to(self._dtype)
        x_NCHW = ops.from_image(x_NCHW, enter, enter_bias)
        x_NCHW = self.blocks(x_NCHW)
        x_NCHW = torch.cat([minibatch_spread(one_NCHW) for one_NCHW in x_NCHW.chunk(batches)])
        last = (self.last * self._last_gain).to(self._dtype)
        last_bias = (self.last_bias * ops.ACTIVATION_GAIN).to(self._dtype)
        x_NCHW = ops.activate(ops.down_convolution(x_NCHW, last, last_bias, (1, 1)))
        features_NZ = x_NCHW.flatten(1).to(self.hidden.weight.dtype)
        logits_N: Tensor = self.logit(self.hidden(features_NZ)).squeeze(1)
        return logits_N
