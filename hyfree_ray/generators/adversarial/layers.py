"""Layers of adversarial networks. N images, C channels, H, W, Z latent.

Weights are float32 of unit variance and scaled where they are used (equalised learning rate, Karras
et al. 2018, arXiv 1710.10196, section 4.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyfree_ray.generators.adversarial import ops
from hyfree_ray.generators.plan import Size

_MAPPING_RATE = 0.01
"""The mapping network learns this much slower (Karras et al. 2019, arXiv 1812.04948, app. C)."""
_GROUP = 4
"""Images whose spread the discriminator sees together."""
_EPSILON = 1e-8


def unit(x_NZ: Tensor) -> Tensor:
    """Divide by the root mean square over channels, axis 1 (Karras et al. 2018, section 4.2)."""
    wide = torch.promote_types(x_NZ.dtype, torch.float32)
    energy = x_NZ.square().mean(1, keepdim=True, dtype=wide)
    return x_NZ * torch.rsqrt(energy + _EPSILON).to(x_NZ.dtype)


class Linear(nn.Module):
    """A fully connected layer, float32; `activation` adds a leaky ReLU and its gain."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: float = 0.0,
        rate: float = 1.0,
        activation: bool = False,
        gain: float | None = None,
    ) -> None:
        """Draw fresh weights.

        Args:
            inputs: numbers of an image.
            outputs: numbers of an image.
            bias: at first.
            rate: the layer learns by this times the optimiser's rate.
            activation: whether a leaky ReLU follows, whose gain is paid here.
            gain: of the weights alone; None: the activation's, of weights and bias.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        paid = ops.ACTIVATION_GAIN if activation else 1.0
        self._weight_gain = (paid if gain is None else gain) * rate / math.sqrt(inputs)
        self._bias_gain = (paid if gain is None else 1.0) * rate
        self._activation = activation

    def forward(self, x_NZ: Tensor) -> Tensor:
        x_NZ = torch.addmm(
            self.bias, x_NZ, self.weight.T, beta=self._bias_gain, alpha=self._weight_gain
        )
        return ops.activate(x_NZ) if self._activation else x_NZ


class Mapping(nn.Module):
    """z to w: fully connected layers on the normalised latent."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(Linear(size, size, rate=_MAPPING_RATE, activation=True) for _ in range(layers))
        )

    def forward(self, z_NZ: Tensor) -> Tensor:
        out: Tensor = self.layers(unit(z_NZ))
        return out


def fresh_kernel(outputs: int, inputs: int, kernel: Size) -> nn.Parameter:
    """Standard normal weights, outputs first, channels_last."""
    weight = torch.randn(outputs, inputs, *kernel)
    return nn.Parameter(weight.contiguous(memory_format=torch.channels_last))


class Convolution(nn.Module):
    """A convolution that keeps the size, in the type of its input (Karras et al. 2018).

    Its weights are N(0, 1), times gain / sqrt(inputs of an output) where they are used.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Size,
        gain: float = ops.ACTIVATION_GAIN,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = fresh_kernel(outputs, inputs, kernel)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self._gain = gain / math.sqrt(inputs * math.prod(kernel))
        self._padding = (kernel[0] // 2, kernel[1] // 2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        weight = (self.weight * self._gain).to(x_NCHW.dtype)
        bias = None if self.bias is None else self.bias.to(x_NCHW.dtype)
        return F.conv2d(x_NCHW, weight, bias, padding=self._padding)


def minibatch_spread(x_NCHW: Tensor) -> Tensor:
    """Append one channel: the mean standard deviation within groups of the batch.

    Karras et al. 2018 (arXiv 1710.10196, section 3). Group g holds images g, g + N/4, ...
    """
    count, channels, height, width = x_NCHW.shape
    group = math.gcd(_GROUP, count)
    grouped = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    grouped = grouped.reshape(group, count // group, channels, height, width)
    spread = (grouped.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    column = spread.repeat(group).to(x_NCHW.dtype)[:, None, None, None]
    return torch.cat([x_NCHW, column.expand(-1, 1, height, width)], 1)
