"""A small U-Net with the plan's strides, kernels and widths, told the time.

Weights are kept in float32 and cast to the activations' type where they are used; with
channels_last activations the convolutions run on the processor's bfloat16 units.
Shapes: N images, C channels, H, W, E embedding, A numbers of an augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyfree_ray.generators.denoising.augment import NUMBERS
from hyfree_ray.generators.denoising.plan import DenoiserPlan
from hyfree_ray.generators.plan import Size

_FREQUENCIES = 32
_GROUP = 8
"""Channels normalised together."""
_HEADS = 4
"""Of an attention (Akbar et al. 2024, arXiv 2306.02986)."""


class _Conv(nn.Module):
    """A convolution in the type of its input; `gain` 0 starts it as the zero function."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Size,
        stride: Size = (1, 1),
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        scale = gain / math.sqrt(inputs * kernel[0] * kernel[1])
        weight = torch.randn(outputs, inputs, *kernel) * scale
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._stride = stride
        self._padding = (kernel[0] // 2, kernel[1] // 2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        weight, bias = self.weight.to(x_NCHW.dtype), self.bias.to(x_NCHW.dtype)
        return F.conv2d(x_NCHW, weight, bias, self._stride, self._padding)


def _normalise(x_NCHW: Tensor) -> Tensor:
    """Group normalisation (Wu & He 2018, arXiv 1803.08494) without weights of its own.

    On a CPU in float32: in bfloat16, where it sums in float32 too, it takes six times as long.
    """
    wide_NCHW = x_NCHW.float() if x_NCHW.device.type == "cpu" else x_NCHW
    return F.group_norm(wide_NCHW, max(1, x_NCHW.shape[1] // _GROUP)).to(x_NCHW.dtype)


def _enlarge(x_NCHW: Tensor, size: Size) -> Tensor:
    """Nearest neighbours, by a whole factor along each axis.

    Compiled, as a broadcast: torch 2.13's compiler loses the other form's gradient in bfloat16.
    """
    if not torch.compiler.is_compiling():
        return F.interpolate(x_NCHW, size)
    count, channels, height, width = x_NCHW.shape
    rows, columns = size[0] // height, size[1] // width
    wide_NCHSWS = x_NCHW[:, :, :, None, :, None].expand(-1, -1, -1, rows, -1, columns)
    return wide_NCHSWS.reshape(count, channels, *size)


class _Block(nn.Module):
    """A residual block whose second normalisation is scaled and shifted by the time.

    As in Dhariwal & Nichol 2021 (arXiv 2105.05233, section 3, "adaptive group normalisation").
    """

    def __init__(self, features: int, kernel: Size) -> None:
        super().__init__()
        self.first = _Conv(features, features, kernel)
        self.second = _Conv(features, features, kernel, gain=0.0)

    def forward(self, x_NCHW: Tensor, scale_NC11: Tensor, shift_NC11: Tensor) -> Tensor:
        h_NCHW = self.first(F.silu(_normalise(x_NCHW)))
        h_NCHW = torch.addcmul(shift_NC11, _normalise(h_NCHW), scale_NC11)
        return x_NCHW + self.second(F.silu(h_NCHW))


class _Place(nn.Module):
    """Adds to each place what is learnt of it: to a convolution all places are alike, and in a
    patient they are not."""

    def __init__(self, features: int, size: Size) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.zeros(features, *size))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.map.to(x_NCHW.dtype)


class _Attention(nn.Module):
    """Each place looks at all others of its level, by several heads (Vaswani et al. 2017).

    Added to its input and zero at first, behind a normalisation (Dhariwal & Nichol 2021).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.seen = _Conv(features, 3 * features, (1, 1))
        self.said = _Conv(features, features, (1, 1), gain=0.0)
        self._heads = math.gcd(_HEADS, features)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        seen_NCHW = self.seen(_normalise(x_NCHW))
        # (N, heads, H W, features of a head) of queries, keys and values.
        looks = (
            part.flatten(2).unflatten(1, (self._heads, -1)).transpose(2, 3)
            for part in seen_NCHW.chunk(3, 1)
        )
        found = F.scaled_dot_product_attention(*looks).transpose(2, 3)
        said_NCHW = found.reshape(x_NCHW.shape).contiguous(memory_format=torch.channels_last)
        out_NCHW: Tensor = x_NCHW + self.said(said_NCHW)
        return out_NCHW


class UNet(nn.Module):
    """Padded images to padded images, told a time in [0, 1] and how the images were augmented.

    A skip is added, not concatenated: the block after it costs half as much.
    """

    centre: Tensor
    """Mean of the training images (C, H, W)."""
    spread: Tensor
    """Standard deviation of their pixels around it."""

    def __init__(
        self,
        plan: DenoiserPlan,
        dtype: torch.dtype = torch.float32,
        *,
        blocks: int = 1,
        attention: Sequence[int] = (),
    ) -> None:
        """Draw fresh weights.

        Args:
            plan: what is to be built.
            dtype: of the activations.
            blocks: residual blocks of a level on the way down, and as many on the way up.
            attention: levels whose places look at each other behind the blocks.
        """
        super().__init__()
        self.dtype = dtype
        self.register_buffer("centre", torch.zeros(plan.channels, *plan.padded_size))
        self.register_buffer("spread", torch.ones(()))
        features, kernels, strides = plan.features, plan.feature_kernels, plan.feature_strides
        self._unshuffle = plan.unshuffle[0]
        self._strides = strides
        folded = plan.channels * math.prod(plan.unshuffle)
        levels = range(len(features))
        seen = plan.seen_channels * math.prod(plan.unshuffle)
        self.enter = _Conv(seen, features[0], kernels[0])
        each = [level for level in levels for _ in range(blocks)]
        self._blocks = blocks
        self.down_blocks = nn.ModuleList(_Block(features[i], kernels[i]) for i in each)
        sizes = plan.level_sizes[-len(features) :]
        self.places = nn.ModuleList(map(_Place, features, sizes))
        self.downs = nn.ModuleList(
            _Conv(features[i], features[i + 1], kernels[i + 1], strides[i]) for i in levels[:-1]
        )
        self.middle = _Block(features[-1], kernels[-1])
        self.ups = nn.ModuleList(_Conv(features[i + 1], features[i], (1, 1)) for i in levels[:-1])
        self.up_blocks = nn.ModuleList(_Block(features[i], kernels[i]) for i in each)
        self.leave = _Conv(features[0], folded, kernels[0], gain=0.0)
        embedding = 4 * features[0]
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        # Without a bias: to be told nothing is to be told zeros.
        self.told = nn.Linear(NUMBERS, embedding, bias=False)
        nn.init.normal_(self.told.weight, std=1 / math.sqrt(NUMBERS))
        widths = [features[i] for i in (*each, levels[-1], *reversed(each))]
        self._cuts = list(accumulate(2 * width for width in widths))
        # All blocks' scales and shifts in one product.
        self.modulate = nn.Linear(embedding, self._cuts[-1])
        nn.init.zeros_(self.modulate.weight)
        self.attentions = nn.ModuleDict(
            {f"{way}-{i}": _Attention(features[i]) for way in ("down", "up") for i in attention}
        )

    def _modulations(
        self, time_N: Tensor, told_NA: Tensor | None, dtype: torch.dtype
    ) -> list[tuple[Tensor, Tensor]]:
        """Scale and shift, each NC11, of every block in the order of their use."""
        octaves = torch.arange(_FREQUENCIES, device=time_N.device) * (10 / _FREQUENCIES)
        angles = time_N[:, None].float() * torch.exp2(octaves) * (math.pi / 2)
        wave_NE = torch.cat([angles.sin(), angles.cos()], 1)
        hidden_NE = self.embed[0](wave_NE)
        if told_NA is not None:
            hidden_NE = hidden_NE + self.told(told_NA)
        joint_NE = self.modulate(F.silu(self.embed[2](F.silu(hidden_NE)))).to(dtype)
        pieces = joint_NE[:, :, None, None].tensor_split(self._cuts[:-1], 1)
        halves = (piece.chunk(2, 1) for piece in pieces)
        return [(1 + scale, shift) for scale, shift in halves]

    def _through(
        self,
        way: str,
        level: int,
        h_NCHW: Tensor,
        modulations: Iterator[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """A level's blocks on the way "down" or "up", and its attention."""
        blocks = self.down_blocks if way == "down" else self.up_blocks
        for number in range(self._blocks):
            h_NCHW = blocks[level * self._blocks + number](h_NCHW, *next(modulations))
        if (name := f"{way}-{level}") in self.attentions:
            h_NCHW = self.attentions[name](h_NCHW)
        return h_NCHW

    def transform(self, x_NCHW: Tensor, time_N: Tensor, told_NA: Tensor | None) -> Tensor:
        """Padded images (float32) to as many numbers, float32; a fresh network gives zeros.

        Args:
            x_NCHW: of about unit variance, with what is given of a mask as further channels.
            time_N: float32 in [0, 1].
            told_NA: how the images were augmented; None: not at all.
        """
        x_NCHW = x_NCHW.to(self.dtype)
        modulations = iter(self._modulations(time_N, told_NA, x_NCHW.dtype))
        h_NCHW = F.pixel_unshuffle(x_NCHW, self._unshuffle)
        # Once more behind it: with one channel the layouts look alike, and the slow one is chosen.
        h_NCHW = self.enter(h_NCHW.contiguous(memory_format=torch.channels_last))
        h_NCHW = h_NCHW.contiguous(memory_format=torch.channels_last)
        h_NCHW = self.places[0](h_NCHW)
        skips = []
        for level in range(len(self.places)):
            h_NCHW = self._through("down", level, h_NCHW, modulations)
            if level < len(self.downs):
                skips.append(h_NCHW)
                h_NCHW = self.places[level + 1](self.downs[level](h_NCHW))
        h_NCHW = self.middle(h_NCHW, *next(modulations))
        for level in reversed(range(len(self.places))):
            if level < len(self.ups):
                small_NCHW = self.ups[level](h_NCHW)
                skip_NCHW = skips.pop()
                height, width = skip_NCHW.shape[2:]
                h_NCHW = skip_NCHW + _enlarge(small_NCHW, (height, width))
            h_NCHW = self._through("up", level, h_NCHW, modulations)
        out_NCHW = self.leave(F.silu(_normalise(h_NCHW)))
        return F.pixel_shuffle(out_NCHW, self._unshuffle).float()
