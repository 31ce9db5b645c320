"""The network's shape, from nnU-Net's plan; neither torch nor transformers is imported.

Full size is Akbar et al.'s (2024, arXiv 2306.02986): UPerNet (Xiao et al. 2018, arXiv 1807.10221)
with Swin-B (Liu et al. 2021, arXiv 2103.14030), which a plan of 32 first features has. A narrower
plan has a narrower network, and one with fewer strides fewer stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyfree_ray.segmenters.unet_plan import UNetPlan

EMBEDDING = 128
"""Swin-B's; the widest."""
FULL_FEATURES = 32
"""First features of nnU-Net's own plans, which have the full width."""
HEAD_FEATURES = 32
"""Of an attention head, in all of Swin's sizes."""
LEAST_EMBEDDING = 16
TOKEN = 4
"""Pixels of a token along each axis."""
WINDOW = 7
"""Tokens along each axis that attend to each other."""
STAGES = 4
BLOCKS = 2
"""Of each stage but the third."""
THIRD_FULL, THIRD_NARROW = 18, 6
"""Blocks of the third stage: Swin-B's, and Swin-T's in whatever is narrower."""
DROP_PATH = 0.3
"""At full width; less in proportion where it is narrower."""
POOLED = (1, 2, 3, 6)
"""Cells along each axis of UPerNet's pyramid pooling."""
MLP = 4
"""Width of a block's inner layer, in embeddings."""


@dataclass(frozen=True, kw_only=True)
class SwinShape:
    """What the network is built from."""

    embedding: int
    """Channels of the first stage; they double at each of the next."""
    depths: tuple[int, ...]
    """Blocks of each stage."""
    heads: tuple[int, ...]
    window: int
    hidden: int
    """Channels of UPerNet's layers."""
    drop_path: float

    @classmethod
    def of(cls, plan: UNetPlan) -> SwinShape:
        """Derive the shape.

        Whatever a plan says, the network is no wider or deeper than at full size. Strides are the
        same along both axes (4, then 2 a stage), as many as the plan's larger ones: an axis that
        the plan strides less is padded, see `network.UPerNetSwin`.
        """
        features = min(plan.features_per_stage[0], FULL_FEATURES)
        wanted = max(LEAST_EMBEDDING, features * EMBEDDING // FULL_FEATURES)
        heads = max(1, wanted // HEAD_FEATURES)
        embedding = wanted // heads * heads
        stride = max(math.prod(axis) for axis in zip(*plan.strides, strict=True))
        stages = min(STAGES, max(1, int(math.log2(stride / TOKEN)) + 1)) if stride > TOKEN else 1
        third = THIRD_FULL if embedding == EMBEDDING else THIRD_NARROW
        finest = tuple(-(-side // TOKEN) for side in plan.patch_size)
        return cls(
            embedding=embedding,
            depths=(BLOCKS, BLOCKS, third, BLOCKS)[:stages],
            heads=tuple(heads << stage for stage in range(stages)),
            window=min(WINDOW, *finest),
            hidden=embedding * 4,
            drop_path=DROP_PATH * embedding / EMBEDDING,
        )

    @property
    def stride(self) -> int:
        """Pixels of a token of the coarsest stage, along each axis."""
        return TOKEN << (len(self.depths) - 1)

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Round a size in pixels up to what every stage divides."""
        height, width = (-(-side // self.stride) * self.stride for side in size)
        return height, width

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embedding << stage for stage in range(len(self.depths)))

    def parameters(self, channels: int, outputs: int) -> int:
        """Count the weights, those of normalisations included."""
        first, last, hidden = self.embedding, self.widths[-1], self.hidden
        count = first * channels * TOKEN**2 + 3 * first  # projection, its bias and norm
        for width, depth, heads in zip(self.widths, self.depths, self.heads, strict=True):
            attention = 4 * (width + 1) * width + (2 * self.window - 1) ** 2 * heads
            inner = 2 * MLP * width * width + (MLP + 1) * width
            count += depth * (attention + inner + 4 * width) + 2 * width  # the stage's output norm
        for width in self.widths[:-1]:  # merging of 2x2 tokens
            count += 4 * width * 2 * width + 2 * 4 * width
        count += 2 * last  # the last norm
        # UPerNet: convolutions without bias, each with a batch norm.
        count += len(POOLED) * (last + 2) * hidden
        count += (9 * (last + len(POOLED) * hidden) + 2) * hidden
        count += sum((width + 2) * hidden + (9 * hidden + 2) * hidden for width in self.widths[:-1])
        count += (9 * len(self.depths) * hidden + 2) * hidden
        return count + (hidden + 1) * outputs

    def activations(self, size: tuple[int, int]) -> int:
        """Count the numbers that linear layers, attention and the head return for an image."""
        height, width = self.padded(size)
        rows, columns, count, laterals = height // TOKEN, width // TOKEN, 0, 0
        finest = rows * columns
        for channels, depth, heads in zip(self.widths, self.depths, self.heads, strict=True):
            windows = -(-rows // self.window) * -(-columns // self.window)
            tokens = windows * self.window**2
            count += depth * tokens * ((5 + MLP) * channels + heads * self.window**2)
            laterals += 2 * rows * columns
            rows, columns = rows // 2, columns // 2
        return count + self.hidden * (laterals + (len(self.depths) + 1) * finest)
