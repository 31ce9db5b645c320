"""StyleGAN's generator in the shape of nnU-Net's plan.

Karras et al. 2019 (arXiv 1812.04948), figure 1b. N images, C channels, H, W, Z latent, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyfree_ray.generators.adversarial import ops
from hyfree_ray.generators.adversarial.growing import GrowingPainter, enlarge, soften
from hyfree_ray.generators.adversarial.layers import Convolution, Linear, Mapping
from hyfree_ray.generators.plan import Size
from hyfree_ray.generators.stylegan1.plan import MAPPING_LAYERS, TRUNCATED_LAYERS, StyleGan1Plan

_EPSILON = 1e-8


def adapt(x_NCHW: Tensor, scale_NC: Tensor, shift_NC: Tensor) -> Tensor:
    """Adaptive instance normalisation (Karras et al. 2019, equation 1)."""
    variance, mean = torch.var_mean(x_NCHW, (2, 3), correction=0, keepdim=True)
    factor = scale_NC[:, :, None, None] * torch.rsqrt(variance + _EPSILON)
    return torch.addcmul(shift_NC[:, :, None, None] - mean * factor, x_NCHW, factor)


class _Styled(nn.Module):
    """Noise, bias, leaky ReLU and a style, behind a convolution or the constant; float32.

    In bfloat16 what little noise there is beside a constant would be lost, and rounding enlarged
    in its place: features are divided by their spread, however small.
    """

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.style = Linear(latent, 2 * features)

    def forward(self, x_NCHW: Tensor, w_NZ: Tensor, noise_N1HW: Tensor) -> Tensor:
        strength, bias = (one[:, None, None] for one in (self.noise_strength, self.bias))
        x_NCHW = x_NCHW + (noise_N1HW * strength + bias)
        scale_NC, shift_NC = self.style(w_NZ).chunk(2, 1)
        return adapt(ops.activate(x_NCHW), scale_NC + 1, shift_NC)


class Synthesis(GrowingPainter):
    """w to an image: two styled layers a level, the first of all on a constant."""

    def __init__(self, plan: StyleGan1Plan, dtype: torch.dtype) -> None:
        super().__init__(plan)
        self._dtype = dtype
        channels, kernels, latent = plan.level_channels, plan.kernel_sizes, plan.latent_size
        self.constant = nn.Parameter(torch.ones(channels[-1], *plan.base_size))
        levels = range(len(channels))
        self.firsts = nn.ModuleList(
            Convolution(channels[i + 1], channels[i], kernels[i], bias=False) for i in levels[:-1]
        )
        self.seconds = nn.ModuleList(
            Convolution(channels[i], channels[i], kernels[i], bias=False) for i in levels
        )
        self.styles = nn.ModuleList(_Styled(channels[i], latent) for i in levels for _ in range(2))

    @property
    def noise_sizes(self) -> list[Size]:
        """Size of each layer's noise, from the coarsest level to the finest so far."""
        sizes = reversed(self._plan.level_sizes[self.finest :])
        return [size for size in sizes for _ in range(2)]

    @property
    def layers(self) -> int:
        """How many w the synthesis takes, as deep as it is."""
        return len(self.noise_sizes)

    def _styled(
        self, level: int, x_NCHW: Tensor, w: tuple[Tensor, ...], noises: list[Tensor]
    ) -> Tensor:
        """A level behind its first convolution."""
        layer = 2 * (len(self._plan.strides) - level)
        x_NCHW = self.styles[2 * level](x_NCHW, w[layer], noises[layer])
        x_NCHW = self.seconds[level](x_NCHW.to(self._dtype))
        x_NCHW = self.styles[2 * level + 1](x_NCHW, w[layer + 1], noises[layer + 1])
        return x_NCHW.to(self._dtype)

    def forward(self, w_NLZ: Tensor, noises: list[Tensor]) -> Tensor:
        """Images of the finest level's size, float32.

        Args:
            w_NLZ: one w for each of `layers`.
            noises: N1HW in the sizes of `noise_sizes`, standard normal.
        """
        w = w_NLZ.unbind(1)
        base = self.constant.expand(len(w_NLZ), -1, -1, -1)
        x_NCHW = base.contiguous(memory_format=torch.channels_last)
        x_NCHW = self._styled(len(self._plan.strides), x_NCHW, w, noises)

        def block(level: int, coarser_NCHW: Tensor) -> Tensor:
            larger_NCHW = enlarge(coarser_NCHW, self._plan.level_sizes[level])
            smooth_NCHW = soften(self.firsts[level](larger_NCHW), self._plan.strides[level])
            return self._styled(level, smooth_NCHW, w, noises)

        return self.paint(x_NCHW, block)


class Generator(nn.Module):
    """Mapping and synthesis."""

    mean_w: Tensor
    """Running mean of w, which styles are truncated towards."""

    def __init__(self, plan: StyleGan1Plan, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._truncation = plan.truncation
        self.mapping = Mapping(plan.latent_size, MAPPING_LAYERS)
        self.synthesis = Synthesis(plan, dtype)
        self.register_buffer("mean_w", torch.zeros(plan.latent_size))

    @property
    def noise_sizes(self) -> list[Size]:
        """Size of each layer's noise, as deep as it is."""
        return self.synthesis.noise_sizes

    def grow(self, depth: float) -> None:
        """Use the levels down to a depth."""
        self.synthesis.grow(depth)

    def truncate(self, w_NLZ: Tensor) -> Tensor:
        """Draw the first layers' styles towards their mean (Karras et al. 2019, appendix B)."""
        psi = torch.ones(w_NLZ.shape[1], device=w_NLZ.device)
        psi[:TRUNCATED_LAYERS] = self._truncation
        return torch.lerp(self.mean_w, w_NLZ, psi[:, None])

    def forward(self, z_NZ: Tensor, noises: list[Tensor]) -> Tensor:
        """Patch-sized images of latents, one w for all layers, truncated."""
        w_NLZ = self.mapping(z_NZ)[:, None].expand(-1, self.synthesis.layers, -1)
        return self.synthesis.whole(self.synthesis(self.truncate(w_NLZ), noises))
