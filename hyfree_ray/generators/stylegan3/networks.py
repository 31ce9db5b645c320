"""StyleGAN3-T's generator in the shape of nnU-Net's plan.

Karras et al. 2021 (arXiv 2106.12423), figure 4b and appendix. N images, C channels, H, W, Z latent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyfree_ray.generators.adversarial import ops
from hyfree_ray.generators.adversarial.layers import Linear, Mapping, fresh_kernel
from hyfree_ray.generators.plan import Size
from hyfree_ray.generators.stylegan3 import filters
from hyfree_ray.generators.stylegan3.plan import MAPPING_LAYERS, Layer, StyleGan3Plan

MAGNITUDE_DECAY = 0.999
"""What is left of a layer's mean square after a step."""
_IMAGE_SCALE = 0.25
_EPSILON = 1e-8


class FourierFeatures(nn.Module):
    """Waves that are shifted and turned as w says: the input (appendix F).

    Places count in sides; a turn is about the middle, and keeps shapes where sides differ.
    """

    frequencies: Tensor
    phases: Tensor
    _unit: Tensor
    """Each side in longer sides."""

    def __init__(self, layer: Layer, latent: int, patch: Size) -> None:
        super().__init__()
        self._layer = layer
        count = layer.channels
        # A turn is a turn where both axes have one unit: the longer side.
        self.register_buffer("_unit", torch.tensor(patch) / max(patch))
        self.register_buffer("frequencies", filters.disc(count, min(layer.cutoff)))
        self.register_buffer("phases", torch.rand(count) - 0.5)
        self.affine = Linear(latent, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.mix = nn.Parameter(torch.randn(count, count))

    def forward(self, w_NZ: Tensor, moved_2: Tensor | None = None) -> Tensor:
        """Features_NCHW, float32.

        Args:
            w_NZ: latents.
            moved_2: by how many sides all is moved besides, down and right.
        """
        turned_N4 = self.affine(w_NZ)
        turned_N4 = turned_N4 / turned_N4[:, :2].norm(dim=1, keepdim=True)
        moved_N2 = turned_N4[:, 2:] if moved_2 is None else turned_N4[:, 2:] + moved_2
        waves_NCHW = self.waves(turned_N4[:, :2], moved_N2)
        mix = self.mix / math.sqrt(len(self.mix))
        return torch.einsum("oc,nchw->nohw", mix, waves_NCHW)

    def waves(self, turn_N2: Tensor, moved_N2: Tensor) -> Tensor:
        """Sines_NCHW before they are mixed, faded out towards half of the rate.

        Args:
            turn_N2: cosine and sine of the turn.
            moved_N2: down and right, in sides.
        """
        cos, sin = turn_N2[:, :1, None], turn_N2[:, 1:, None]
        first, second = (self.frequencies / self._unit).T[:, None, :, None].unbind(0)
        # A wave that is turned has its frequency turned, (N, C, 2).
        turned_NC2 = torch.cat([cos * first - sin * second, sin * first + cos * second], 2)
        turned_NC2 = turned_NC2 * self._unit
        phase_NC = self.phases - (turned_NC2 * moved_N2[:, None]).sum(2)
        where_HW2 = filters.places(self._layer.size, self._layer.rate).to(turned_NC2.device)
        angle = torch.einsum("hwk,nck->nchw", where_HW2, turned_NC2) + phase_NC[:, :, None, None]
        kept, half = min(self._layer.cutoff), min(self._layer.rate) / 2
        over_NC = (turned_NC2.norm(dim=2) - kept) / max(half - kept, _EPSILON)
        return torch.sin(2 * math.pi * angle) * (1 - over_NC).clamp(0, 1)[:, :, None, None]


class Balanced(nn.Module):
    """Divides by the root of the running mean square of what comes in (appendix D)."""

    energy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("energy", torch.ones(()))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The factor, float32; the mean moves while training."""
        if self.training:
            present = x_NCHW.detach().square().mean(dtype=self.energy.dtype)
            self.energy.lerp_(present, 1 - MAGNITUDE_DECAY)
        return torch.rsqrt(self.energy)


class _Convolution(nn.Module):
    """Modulated convolution, bias, filtered leaky ReLU (figure 4b)."""

    def __init__(self, before: Layer, after: Layer, latent: int) -> None:
        super().__init__()
        self._before, self._after = before, after
        self.balance = Balanced()
        self.affine = Linear(latent, before.channels, bias=1.0)
        self.weight = fresh_kernel(after.channels, before.channels, after.kernel)
        self.bias = nn.Parameter(torch.zeros(after.channels))

    def forward(self, x_NCHW: Tensor, w_NZ: Tensor) -> Tensor:
        balance, dtype = self.balance(x_NCHW), x_NCHW.dtype
        weight = self.weight * torch.rsqrt(
            self.weight.square().mean((1, 2, 3), keepdim=True) + _EPSILON
        )
        style_NI = self.affine(w_NZ)
        style_NI = style_NI * torch.rsqrt(style_NI.square().mean() + _EPSILON)
        energy_IO = weight.square().sum((2, 3)).T
        factor_NO = torch.rsqrt(style_NI.square() @ energy_IO + _EPSILON) * balance
        # Beyond the edge as far as the kernel sees it: what is there is cut later.
        around = [side - 1 for side in self._after.kernel]
        scaled_NCHW = x_NCHW * style_NI.to(dtype)[:, :, None, None]
        x_NCHW = F.conv2d(scaled_NCHW, weight.to(dtype), padding=around)
        x_NCHW = x_NCHW * factor_NO.to(dtype)[:, :, None, None]
        x_NCHW = x_NCHW + self.bias.to(dtype)[:, None, None]
        return filters.filtered_activation(x_NCHW, self._before, self._after)


class Synthesis(nn.Module):
    """w to an image: Fourier features, convolutions, and one to the image without a filter."""

    def __init__(self, plan: StyleGan3Plan, dtype: torch.dtype) -> None:
        super().__init__()
        self._plan, self._dtype = plan, dtype
        layers = [plan.layer(number) for number in range(plan.layers)]
        latent = plan.latent_size
        self.enter = FourierFeatures(layers[0], latent, plan.padded_size)
        self.convolutions = nn.ModuleList(
            _Convolution(before, after, latent)
            for before, after in zip([layers[0], *layers], layers, strict=False)
        )
        last = layers[-1].channels
        self.balance = Balanced()
        self.affine = Linear(latent, last, bias=1.0)
        self.weight = nn.Parameter(torch.randn(plan.channels, last))
        self.bias = nn.Parameter(torch.zeros(plan.channels))

    def sides_of(self, pixels: Size) -> Tensor:
        """Pixels down and right as shares of the sides."""
        return torch.tensor(pixels) / torch.tensor(self._plan.padded_size)

    def forward(self, w_NZ: Tensor, moved_2: Tensor | None = None) -> Tensor:
        """Images_NCHW of the patch size, float32.

        Args:
            w_NZ: latents.
            moved_2: by how many sides what is drawn is moved, down and right; None: not at all.
        """
        x_NCHW = self.enter(w_NZ, moved_2).to(self._dtype)
        for convolution in self.convolutions:
            x_NCHW = convolution(x_NCHW, w_NZ)
        balance = self.balance(x_NCHW)
        style_NI = self.affine(w_NZ) * (balance / math.sqrt(x_NCHW.shape[1]))
        image_NCHW = ops.to_image(x_NCHW, self.weight, style_NI) + self.bias[:, None, None]
        (top, left), (height, width) = self._plan.margin, self._plan.patch_size
        return _IMAGE_SCALE * image_NCHW[:, :, top : top + height, left : left + width]


class Generator(nn.Module):
    """Mapping and synthesis."""

    def __init__(self, plan: StyleGan3Plan, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.latent_size = plan.latent_size
        self.mapping = Mapping(plan.latent_size, MAPPING_LAYERS)
        self.synthesis = Synthesis(plan, dtype)

    @property
    def noise_sizes(self) -> list[Size]:
        """It takes no noise but the latent."""
        return []

    def forward(self, z_NZ: Tensor, noises: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Images_NCHW of latents."""
        images_NCHW: Tensor = self.synthesis(self.mapping(z_NZ))
        return images_NCHW
