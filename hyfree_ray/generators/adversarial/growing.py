"""Networks that grow level by level, and their training. N images, C channels, H, W.

Karras et al. 2018 (arXiv 1710.10196): training begins with small images; a finer level is faded in,
the image of the coarser one, enlarged, fading out; real images are blended alike. Levels count from
the finest, 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyfree_ray.generators.adversarial import ops
from hyfree_ray.generators.adversarial.layers import Convolution, Linear, minibatch_spread
from hyfree_ray.generators.adversarial.learner import AdversarialLearner
from hyfree_ray.generators.adversarial.plan import GrowingPlan
from hyfree_ray.generators.plan import Size
from hyfree_ray.generators.protocol import Compute


def enlarge(x_NCHW: Tensor, size: Size) -> Tensor:
    """Nearest neighbours."""
    return x_NCHW if x_NCHW.shape[2:] == size else F.interpolate(x_NCHW, size)


def shrink(x_NCHW: Tensor, stride: Size) -> Tensor:
    """Mean of the pixels that become one."""
    return x_NCHW if stride == (1, 1) else F.avg_pool2d(x_NCHW, stride)


def soften(x_NCHW: Tensor, stride: Size) -> Tensor:
    """Low-pass filter for a change of size by `stride`: [1, 2, 1] / 4 for 2, zeros beyond the edge.

    As two means over the stride's width, which differentiate twice at no more than their cost.
    """
    if stride == (1, 1):
        return x_NCHW
    rows, columns = (side - 1 for side in stride)
    x_NCHW = F.pad(x_NCHW, (columns, columns, rows, rows))
    return F.avg_pool2d(F.avg_pool2d(x_NCHW, stride, 1), stride, 1)


class Growing(nn.Module):
    """A network of which the levels finer than `depth` are not used yet."""

    depth: Tensor
    """The finest level; 2.25 is level 2, faded in by three quarters."""

    def __init__(self, plan: GrowingPlan) -> None:
        super().__init__()
        self._plan = plan
        self.register_buffer("depth", torch.tensor(float(plan.first_level)))

    @property
    def finest(self) -> int:
        """The finest level so far."""
        return math.floor(float(self.depth))

    @property
    def coarser_share(self) -> float:
        """How much the level above the finest still counts."""
        return float(self.depth) - self.finest

    def grow(self, depth: float) -> None:
        """Use the levels down to a depth."""
        self.depth.fill_(depth)


class GrowingPainter(Growing):
    """A generator's levels, each with a way to the image."""

    def __init__(self, plan: GrowingPlan) -> None:
        super().__init__(plan)
        self.to_images = nn.ModuleList(
            Convolution(features, plan.channels, (1, 1), gain=1.0)
            for features in plan.level_channels
        )

    def paint(self, x_NCHW: Tensor, block: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Images of the finest level's size, float32.

        Args:
            x_NCHW: features of the coarsest level.
            block: a level and the features of the coarser one to the level's features.
        """
        finest, share = self.finest, self.coarser_share
        coarser_NCHW = x_NCHW
        for level in reversed(range(finest, len(self._plan.strides))):
            coarser_NCHW, x_NCHW = x_NCHW, block(level, x_NCHW)
        image_NCHW: Tensor = self.to_images[finest](x_NCHW)
        if share > 0:
            before_NCHW = self.to_images[finest + 1](coarser_NCHW)
            before_NCHW = enlarge(before_NCHW, self._plan.level_sizes[finest])
            image_NCHW = torch.lerp(image_NCHW, before_NCHW, share)
        return image_NCHW.to(torch.promote_types(image_NCHW.dtype, torch.float32))

    def whole(self, image_NCHW: Tensor) -> Tensor:
        """Patch-sized images of images of the finest level so far."""
        (top, left), (height, width) = self._plan.margin, self._plan.patch_size
        image_NCHW = enlarge(image_NCHW, self._plan.padded_size)
        return image_NCHW[:, :, top : top + height, left : left + width]


class GrowingDiscriminator(Growing):
    """Images of the finest level's size to one logit each (Karras et al. 2018, table 2)."""

    def __init__(self, plan: GrowingPlan, dtype: torch.dtype, *, softened: bool) -> None:
        """Draw fresh weights.

        Args:
            plan: what is to be built.
            dtype: of the activations.
            softened: whether features are low-pass filtered before they are pooled.
        """
        super().__init__(plan)
        self._dtype, self._softened = dtype, softened
        channels, kernels = plan.level_channels, plan.kernel_sizes
        self.enters = nn.ModuleList(_FromImage(plan.channels, features) for features in channels)
        self.firsts = nn.ModuleList(
            Convolution(channels[i], channels[i], kernels[i]) for i in range(len(plan.strides))
        )
        self.seconds = nn.ModuleList(
            Convolution(channels[i], channels[i + 1], kernels[i]) for i in range(len(plan.strides))
        )
        last = channels[-1]
        self.last = Convolution(last + 1, last, kernels[-1])
        gain = ops.ACTIVATION_GAIN
        self.hidden = Linear(last * math.prod(plan.base_size), last, activation=True, gain=gain)
        self.logit = Linear(last, 1)

    def _block(self, level: int, x_NCHW: Tensor) -> Tensor:
        x_NCHW = ops.activate(self.firsts[level](x_NCHW))
        x_NCHW = ops.activate(self.seconds[level](x_NCHW))
        stride = self._plan.strides[level]
        return shrink(soften(x_NCHW, stride) if self._softened else x_NCHW, stride)

    def forward(self, images_NCHW: Tensor, batches: int = 1) -> Tensor:
        """Logits_N.

        Args:
            images_NCHW: one batch, or several of one length after one another.
            batches: how many; no group of the spread has images of two.
        """
        images_NCHW = images_NCHW.to(self._dtype)
        finest, share = self.finest, self.coarser_share
        x_NCHW = self.enters[finest](images_NCHW)
        for level in range(finest, len(self._plan.strides)):
            x_NCHW = self._block(level, x_NCHW)
            if level == finest and share > 0:
                small_NCHW = shrink(images_NCHW, self._plan.strides[level])
                x_NCHW = torch.lerp(x_NCHW, self.enters[level + 1](small_NCHW), share)
        x_NCHW = torch.cat([minibatch_spread(one_NCHW) for one_NCHW in x_NCHW.chunk(batches)])
        x_NCHW = ops.activate(self.last(x_NCHW))
        features_NZ = x_NCHW.flatten(1).to(self.hidden.weight.dtype)
        logits_N: Tensor = self.logit(self.hidden(features_NZ)).squeeze(1)
        return logits_N


class _FromImage(nn.Module):
    """A level's features of an image of its size."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, channels))
        self.bias = nn.Parameter(torch.zeros(features))
        self._gain = ops.ACTIVATION_GAIN / math.sqrt(channels)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        weight = (self.weight * self._gain).to(image_NCHW.dtype)
        return ops.from_image(image_NCHW, weight, self.bias.to(image_NCHW.dtype))


class GrowingLearner(AdversarialLearner):
    """Both players in training, and in growth: at each new level the optimisers begin anew."""

    discriminator: GrowingDiscriminator

    def __init__(
        self,
        plan: GrowingPlan,
        generator: Any,
        discriminator: GrowingDiscriminator,
        compute: Compute,
    ) -> None:
        self.batch_size = plan.batch_size
        self._growth = plan
        super().__init__(plan, generator, discriminator, compute)

    def prepare(self, images_NCHW: Tensor) -> Tensor:
        """Padded with the edge's values: what is pooled must not have a frame."""
        return F.pad(images_NCHW, self._growth.sides, mode="replicate")

    def step(self, images_NCHW: Tensor, step: int, random: torch.Generator) -> dict[str, Tensor]:
        """Generator, discriminator, average, as deep as the step asks for."""
        self._grow(step)
        fake_NCHW = self._fakes(random)
        real_NCHW = self._seen(images_NCHW)
        losses = {
            "generator": self._generator_step(fake_NCHW, random),
            "discriminator": self._discriminator_step(real_NCHW, fake_NCHW.detach(), random),
        }
        self._average.update((step + 1) * self.batch_size, self.batch_size)
        return losses

    def _grow(self, step: int) -> None:
        """Be as deep as a step asks for."""
        depth = self._growth.depth(step * self.batch_size)
        before = self._growth.depth(max(0, step - 1) * self.batch_size)
        self.generator.grow(depth)
        self.discriminator.grow(depth)
        if math.floor(depth) != math.floor(before):
            self._generator_adam, self._discriminator_adam = self._adams()

    def _seen(self, images_NCHW: Tensor) -> Tensor:
        """Real images in the finest level's size, blended as the generator's are."""
        finest, strides = self.discriminator.finest, self._growth.strides
        for stride in strides[:finest]:
            images_NCHW = shrink(images_NCHW, stride)
        if (share := self.discriminator.coarser_share) > 0:
            small_NCHW = shrink(images_NCHW, strides[finest])
            size = self._growth.level_sizes[finest]
            images_NCHW = torch.lerp(images_NCHW, enlarge(small_NCHW, size), share)
        return images_NCHW
