"""Three detectors of copies: by features, by pixels, by structure.

Each compares with every training image as it is, mirrored, and shifted by up to `SHIFT` pixels,
because generators reproduce images slightly out of place. The distance that counts as near is
calibrated on the site's own patients (see `memorization`), not here.

Shapes: N and M images, C channels, H height, W width, F features, V variants, B blocks, P pixels, Q
= P + 2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

SHIFT = 3
"""Pixels by which copies are shifted."""

GRID = 32
"""Pixels of the longer side on the working grid of the pixel measures."""

BLOCK = 8
"""Side of the windows in which structure is compared, on the working grid."""

QUERY_BATCH = 64
"""Images compared at a time, to bound memory."""

Embed = Callable[[np.ndarray], np.ndarray]
"""images_NCHW in [-1, 1] to features_NF of length 1."""

Shifts = tuple[tuple[int, int], ...]

FEATURE_SHIFTS: Shifts = ((0, 0), (-SHIFT, 0), (SHIFT, 0), (0, -SHIFT), (0, SHIFT))
"""Shifts (down, right) for features, which hardly change over a pixel."""


def pixel_shifts(height: int, width: int) -> Shifts:
    """Return shifts for pixel measures: each up to `SHIFT` is within half a grid pixel of one of
    them."""
    stride = max(1, max(height, width) // GRID // 2)
    one_way = {0, *range(SHIFT, 0, -stride)}
    reach = sorted(one_way | {-step for step in one_way})
    return tuple(sorted(itertools.product(reach, repeat=2), key=any))  # (0, 0) comes first


def variants(images_NCHW: np.ndarray, steps: Shifts) -> Iterator[np.ndarray]:
    """Yield the images, mirrored on either axis and on both, each shifted by each of `steps`.

    Yields:
        4 x len(steps) arrays of the input's shape; the first is the input where the first step
        is (0, 0). Shifts repeat the edge.
    """
    pad = ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT))
    height, width = images_NCHW.shape[2:]
    for rows, columns in itertools.product((1, -1), repeat=2):
        mirrored = images_NCHW[..., ::rows, ::columns]
        padded = np.pad(mirrored, pad, mode="edge")
        for down, right in steps:
            top, left = SHIFT - down, SHIFT - right
            yield np.ascontiguousarray(padded[..., top : top + height, left : left + width])


class Measure(Protocol):
    """A distance between images: 0 for the same image, whatever its unit."""

    @property
    def name(self) -> str:
        """Name on the card."""

    def steps(self, height: int, width: int) -> Shifts:
        """Return the shifts in which training images of this size are compared."""

    def describe(self, images_NCHW: np.ndarray) -> torch.Tensor:
        """Return descriptions to compare, one row per image, of images in [-1, 1]."""

    def distances(self, query_N: torch.Tensor, known_M: torch.Tensor) -> torch.Tensor:
        """Return distances_NM between two sets of descriptions."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Euclidean distance between an embedder's features, as in Chebykin et al. 2024."""

    embed: Embed
    name: str = "features"

    def steps(self, height: int, width: int) -> Shifts:  # noqa: ARG002
        """Return the same shifts for any size."""
        return FEATURE_SHIFTS

    def describe(self, images_NCHW: np.ndarray) -> torch.Tensor:
        """Return features_NF."""
        return torch.from_numpy(np.ascontiguousarray(self.embed(images_NCHW), np.float32))

    def distances(self, query_N: torch.Tensor, known_M: torch.Tensor) -> torch.Tensor:
        """Return Euclidean distances_NM, 0 to 2."""
        return (2 - 2 * query_N @ known_M.T).clamp_min(0).sqrt()


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """1 - Pearson's correlation of pixels: blind to an image's brightness and contrast."""

    name: str = "correlation"

    def steps(self, height: int, width: int) -> Shifts:
        """Return shifts as dense as the grid can resolve."""
        return pixel_shifts(height, width)

    def describe(self, images_NCHW: np.ndarray) -> torch.Tensor:
        """Return pixels_NP, each row of mean 0 in every channel and of length 1."""
        grid_NCHW = on_grid(images_NCHW)
        centred = grid_NCHW - grid_NCHW.mean(dim=(2, 3), keepdim=True)
        return torch.nn.functional.normalize(centred.flatten(1), dim=1)

    def distances(self, query_N: torch.Tensor, known_M: torch.Tensor) -> torch.Tensor:
        """Return 1 - correlation_NM, 0 to 2."""
        return (1 - query_N @ known_M.T).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class Structure:
    """1 - SSIM (Wang et al. 2004, equation 13) over blocks, with brightness and contrast equalised.

    Every part of an image has the same weight, whereas the strongest contrasts dominate a
    correlation.
    """

    name: str = "structure"

    def steps(self, height: int, width: int) -> Shifts:
        """Return shifts as dense as the grid can resolve."""
        return pixel_shifts(height, width)

    def describe(self, images_NCHW: np.ndarray) -> torch.Tensor:
        """Return blocks_NBQ of images whose channels have mean 0 and deviation 1: for each block
        its P pixels minus their mean, that mean, and their variance."""
        grid_NCHW = on_grid(images_NCHW)
        deviation, mean = torch.std_mean(grid_NCHW, dim=(2, 3), keepdim=True)
        standard = (grid_NCHW - mean) / deviation.clamp_min(1e-6)
        blocks = standard.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
        pixels_NBP = blocks.flatten(4).flatten(1, 3)
        spread_NB1, mean_NB1 = torch.var_mean(pixels_NBP, dim=2, correction=0, keepdim=True)
        return torch.cat((pixels_NBP - mean_NB1, mean_NB1, spread_NB1), dim=2)

    def distances(self, query_N: torch.Tensor, known_M: torch.Tensor) -> torch.Tensor:
        """Return 1 - SSIM_NM, 0 to 2."""
        # Four deviations stand for the range of values that the paper's constants refer to.
        flat_mean, flat_contrast = (torch.full((1, 1, 1), (k * 4) ** 2) for k in (0.01, 0.03))
        parts = [BLOCK**2, 1, 1]
        of_query, mean_BN1, spread_BN1 = torch.split(query_N.transpose(0, 1), parts, dim=2)
        of_known, mean_BM1, spread_BM1 = torch.split(known_M.transpose(0, 1), parts, dim=2)
        # This runs for every variant, and passes over N x M arrays dominate its time: a sum that
        # is part of a matrix product takes none, and (a + b)(c + d) is a product of rank 4.
        above_BNM = torch.baddbmm(
            flat_contrast, of_query, of_known.transpose(1, 2), alpha=2 / BLOCK**2
        )
        above_BNM.mul_(torch.baddbmm(flat_mean, mean_BN1, mean_BM1.transpose(1, 2), alpha=2))
        a, b = mean_BN1**2 + flat_mean, mean_BM1**2
        c, d = spread_BN1 + flat_contrast, spread_BM1
        left_BN4 = torch.cat((a * c, a, c, torch.ones_like(a)), dim=2)
        right_BM4 = torch.cat((torch.ones_like(b), d, b, b * d), dim=2)
        above_BNM.div_(torch.bmm(left_BN4, right_BM4.transpose(1, 2)))
        return (1 - above_BNM.mean(dim=0)).clamp_min(0)


def on_grid(images_NCHW: np.ndarray) -> torch.Tensor:
    """Resize the images to `GRID` pixels along the longer side, in their proportions."""
    height, width = images_NCHW.shape[2:]
    scale = GRID / max(height, width)
    # Whole blocks, so that no part of an image is left out.
    size = tuple(max(1, round(side * scale / BLOCK)) * BLOCK for side in (height, width))
    images = torch.from_numpy(np.ascontiguousarray(images_NCHW, np.float32))
    return torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A measure with the training images that it compares with."""

    measure: Measure
    known_V: tuple[torch.Tensor, ...]
    """Descriptions of each variant of all M training images."""

    @classmethod
    def fit(cls, measure: Measure, images_NCHW: np.ndarray) -> Detector:
        """Describe the training images in all variants."""
        steps = measure.steps(*images_NCHW.shape[2:])
        known_V = tuple(measure.describe(variant) for variant in variants(images_NCHW, steps))
        return cls(measure=measure, known_V=known_V)

    def distances(self, images_NCHW: np.ndarray) -> np.ndarray:
        """Return distances_NM to each training image, in its nearest variant."""
        parts = []
        for start in range(0, len(images_NCHW), QUERY_BATCH):
            query_N = self.measure.describe(images_NCHW[start : start + QUERY_BATCH])
            nearest_NM = self.measure.distances(query_N, self.known_V[0])
            for known_M in self.known_V[1:]:
                torch.minimum(nearest_NM, self.measure.distances(query_N, known_M), out=nearest_NM)
            parts.append(nearest_NM.numpy())
        return np.concatenate(parts)
