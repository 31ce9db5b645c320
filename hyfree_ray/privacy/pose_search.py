"""The first look for copies: which training images, and in which pose, may a sample be a copy of?

Every sample is correlated with every training image in every pose: mirrored or not, in steps of 90
degrees, turned by a few degrees, zoomed, and shifted, as a whole and by its parts, because a copy
may show half a patient only. Poses are relative to the image's size. What is found here is a
short list of candidates; `patch_matching` compares those closely.

Shared anatomy correlates, too: what most training images have in common is suppressed as in
whitening (2602.13066 compares whitened features).

Shapes: N samples, M training images, K candidates, h height and w width on the grid, D pixels of a
region, S shifts, R components.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from hyfree_ray.privacy.texture import Band, resized, texture, warped

ANGLES = (-8, 0, 8)
"""Degrees: 10 and more are within reach of the comparison that follows."""

ZOOMS = (0.9, 1.0, 1.12, 1.26)
"""A copy that was cropped by a fifth is larger by a quarter."""

COMPARED = 48
"""Pixels of the longer side on the grid on which candidates are compared."""

REACH = 4
"""Pixels of the grid by which a pose is shifted either way: a sixth of the image."""

SHIFTS = (2 * REACH + 1) ** 2

COMPONENTS = 24
"""Number of shared components that are suppressed."""

FINEST = 0.9
"""Pixels of a grid for each pixel of an image, at most."""

FULL_SIDE = 64
"""Pixels of the longer side that images have at most: no grid is finer."""

KNOWN_BATCH = 64
QUERY_BATCH = 256
"""Images compared at a time, to bound memory."""

MAX_KEPT = 256
"""Training images up to which their maps are retained in all poses: 1.4 MiB each."""

BAND = Band(fine=0.6, coarse=2.0, contrast=3.0)


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of an image that is looked for on its own."""

    side: int
    """Pixels of the grid along the image's longer side."""
    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    candidates: int = 2
    """Number of training images that are retained for it."""

    def slices(self, shape: tuple[int, int], margin: int = 0) -> tuple[slice, slice]:
        """Return its rows and columns on a grid of that shape, with the shifts' margin beyond."""
        starts = (round(self.top * shape[0]), round(self.left * shape[1]))
        lengths = (round(self.height * shape[0]), round(self.width * shape[1]))
        rows, columns = (
            slice(start, start + length + 2 * margin)
            for start, length in zip(starts, lengths, strict=True)
        )
        return rows, columns


REGIONS = (
    Region(side=24, candidates=5),
    Region(side=36, width=0.35),
    Region(side=36, width=0.35, left=0.65),
    Region(side=36, height=0.35),
    Region(side=36, height=0.35, top=0.65),
    Region(side=36, top=0.25, left=0.25, height=0.5, width=0.5, candidates=4),
)
"""Strips at the edges, because two of them at least are whole wherever a quarter is cut out."""

WHOLE = REGIONS[:1]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Training images that samples may be copies of, each in a pose, in the samples' order.

    Every sample has equally many. Place p of sample n is place `linear` p + `shift` of its image;
    places are measured in pixels of a grid of `COMPARED` pixels.
    """

    sample_K: torch.Tensor
    known_K: torch.Tensor
    linear_K22: torch.Tensor
    shift_K2: torch.Tensor


def poses(height: int, width: int) -> torch.Tensor:
    """Return linear_V22 of every pose but its shift.

    Images that are not square are also turned by 90 degrees and stretched to their former shape.
    """
    found = [
        _pose(mirrored, quarter, angle, zoom)
        for mirrored, quarter, angle, zoom in itertools.product((1, -1), range(4), ANGLES, ZOOMS)
    ]
    if not 0.95 < height / width < 1.05:
        stretch = np.diag([height / width, width / height])
        found += [
            _pose(mirrored, quarter, 0, zoom) @ stretch
            for mirrored, quarter, zoom in itertools.product((1, -1), (1, 3), ZOOMS[1:3])
        ]
    return torch.from_numpy(np.stack(found).astype(np.float32))


def _pose(mirrored: int, quarter: int, angle: float, zoom: float) -> np.ndarray:
    turn = math.radians(angle + 90 * quarter)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear: np.ndarray = np.diag([mirrored, 1]) @ rotation / zoom
    return linear


@dataclass(frozen=True, kw_only=True)
class Posed:
    """Some training images in one pose."""

    maps_Mhw: torch.Tensor
    """Wider by `REACH` on all sides."""
    length_RE: torch.Tensor
    """By region and shift, after suppression of shared components."""


class PoseSearch:
    """The training images of a site, to be searched.

    Args:
        images_M1hw: one channel, the longer side `FULL_SIDE` pixels.
        finest: pixels of the longer side that images had: no finer grid tells more.
        regions: what is looked for.
        precision: "bf16" or "fp32", of the correlations by which candidates are chosen; these are
            compared closely in fp32 whatever it is.
        seed: seed of the poses from which shared components are estimated.
    """

    def __init__(
        self,
        images_M1hw: torch.Tensor,
        *,
        finest: int,
        regions: Sequence[Region] = REGIONS,
        precision: str = "fp32",
        seed: int = 0,
    ) -> None:
        self.images_M1hw = images_M1hw
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._kept: dict[tuple[int, int], list[Posed]] = {}
        self.linear_V22 = poses(*images_M1hw.shape[2:])
        self.regions = _by_side(regions, finest)
        self.shared = {
            region: shared
            for side, regions in self.regions
            for region, shared in zip(regions, self._shared(side, regions, seed), strict=True)
        }

    def __call__(self, samples_N1hw: torch.Tensor, excluded_NM: torch.Tensor | None) -> Candidates:
        """Return each sample's candidates, with places on the grid on which they are compared.

        Args:
            samples_N1hw: as the training images.
            excluded_NM: whether a training image is no candidate for a sample.
        """
        found = [
            self._candidates(region, best_NM, at_NM, excluded_NM)
            for side, regions in self.regions
            for region, best_NM, at_NM in self._best(side, regions, samples_N1hw)
        ]
        sample_K, known_K, linear_K22, shift_K2 = (
            torch.cat(parts, dim=1).flatten(0, 1) for parts in zip(*found, strict=True)
        )
        return Candidates(
            sample_K=sample_K, known_K=known_K, linear_K22=linear_K22, shift_K2=shift_K2
        )

    def _candidates(
        self,
        region: Region,
        best_NM: torch.Tensor,
        at_NM: torch.Tensor,
        excluded_NM: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return sample_NK, known_NK, linear_NK22 and shift_NK2 of a region's candidates."""
        if excluded_NM is not None:
            best_NM = best_NM.masked_fill(excluded_NM, -1)
        known_NK = best_NM.topk(min(region.candidates, best_NM.shape[1]), dim=1).indices
        at_NK = at_NM.gather(1, known_NK)
        linear_NK22 = self.linear_V22[at_NK // SHIFTS]
        moved_NK = at_NK % SHIFTS
        row_NK, column_NK = moved_NK // (2 * REACH + 1), moved_NK % (2 * REACH + 1)
        offset_NK2 = torch.stack((column_NK, row_NK), dim=2).float() - REACH
        shift_NK2 = torch.einsum("nkij,nkj->nki", linear_NK22, offset_NK2)
        shift_NK2 = shift_NK2 * (COMPARED / region.side)
        sample_NK = torch.arange(len(best_NM))[:, None].expand_as(known_NK)
        return sample_NK, known_NK, linear_NK22, shift_NK2

    def _best(
        self, side: int, regions: Sequence[Region], samples_N1hw: torch.Tensor
    ) -> Iterator[tuple[Region, torch.Tensor, torch.Tensor]]:
        """Yield, by region, the highest correlation_NM over all poses, either way, and where."""
        maps_Nhw = texture(resized(samples_N1hw, side), BAND)
        shape = (maps_Nhw.shape[1], maps_Nhw.shape[2])
        query_RND = []
        for region in regions:
            rows, columns = region.slices(shape)
            query_ND = self.shared[region].query(maps_Nhw[:, rows, columns])
            query_RND.append(query_ND.to(self.dtype))
        size = (len(regions), len(samples_N1hw), len(self.images_M1hw))
        best_RNM, at_RNM = torch.full(size, -1.0), torch.zeros(size, dtype=torch.int32)
        for start in range(0, len(self.images_M1hw), KNOWN_BATCH):
            known = slice(start, start + KNOWN_BATCH)
            for pose, posed in enumerate(self._described(side, regions, start, shape)):
                for index, region in enumerate(regions):
                    known_ED = _shifted(posed.maps_Mhw, region, shape)
                    corr_NE = (query_RND[index] @ known_ED.T).abs_().div_(posed.length_RE[index])
                    value_NM, shift_NM = corr_NE.view(len(corr_NE), -1, SHIFTS).max(dim=2)
                    value_NM = value_NM.float()
                    better_NM = value_NM > best_RNM[index, :, known]
                    best_RNM[index, :, known][better_NM] = value_NM[better_NM]
                    at_NM = (pose * SHIFTS + shift_NM).int()
                    at_RNM[index, :, known][better_NM] = at_NM[better_NM]
        yield from zip(regions, best_RNM, at_RNM.long(), strict=True)

    def _described(
        self, side: int, regions: Sequence[Region], start: int, shape: tuple[int, int]
    ) -> Iterator[Posed]:
        """Yield some training images in each pose; those of a small site are made once."""
        if (side, start) in self._kept:
            yield from self._kept[side, start]
            return
        known, kept = slice(start, start + KNOWN_BATCH), []
        for maps_Mhw in self._posed(side, known, self.linear_V22):
            length_RE = [
                self.shared[region].length(_shifted(maps_Mhw, region, shape)) for region in regions
            ]
            posed = Posed(
                maps_Mhw=maps_Mhw.to(self.dtype), length_RE=torch.stack(length_RE).to(self.dtype)
            )
            if len(self.images_M1hw) <= MAX_KEPT:
                kept.append(posed)
            yield posed
        if kept:
            self._kept[side, start] = kept

    def _posed(self, side: int, known: slice, linear_V22: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield some training images in each pose: maps_Mhw, wider by `REACH` on all sides."""
        grid_M1hw = resized(self.images_M1hw[known], side)
        count, _, height, width = grid_M1hw.shape
        wider = (height + 2 * REACH, width + 2 * REACH)
        for linear_22 in linear_V22:
            linear_M22, shift_M2 = linear_22.expand(count, 2, 2), torch.zeros(count, 2)
            yield texture(warped(grid_M1hw, linear_M22, shift_M2, wider), BAND)

    def _shared(self, side: int, regions: Sequence[Region], seed: int) -> list[SharedTexture]:
        """Estimate what regions of the training images have in common over all poses."""
        generator = torch.Generator().manual_seed(seed)
        some_V22 = self.linear_V22[torch.randperm(len(self.linear_V22), generator=generator)[:16]]
        # Every so many images, not the first: sites list them by patient.
        known = slice(None, None, max(1, len(self.images_M1hw) // KNOWN_BATCH))
        parts: list[list[torch.Tensor]] = [[] for _ in regions]
        for maps_Mhw in self._posed(side, known, some_V22):
            shape = (maps_Mhw.shape[1] - 2 * REACH, maps_Mhw.shape[2] - 2 * REACH)
            for part, region in zip(parts, regions, strict=True):
                known_ED = _shifted(maps_Mhw, region, shape)
                chosen = torch.randint(len(known_ED), (256,), generator=generator)
                part.append(functional.normalize(known_ED[chosen], dim=1))
        return [SharedTexture.fit(torch.cat(part)) for part in parts]


def _by_side(regions: Sequence[Region], finest: int) -> list[tuple[int, list[Region]]]:
    """Return the regions of each grid: its maps are made once for all of them."""
    coarsest = min(region.side for region in regions)
    limit = max(coarsest, round(FINEST * finest))
    limited = [replace(region, side=min(region.side, limit)) for region in regions]
    sides = dict.fromkeys(region.side for region in limited)
    return [(side, [one for one in limited if one.side == side]) for side in sides]


def _shifted(maps_Mhw: torch.Tensor, region: Region, shape: tuple[int, int]) -> torch.Tensor:
    """Return a region's pixels_ED in every shift; E counts images times shifts.

    Args:
        maps_Mhw: wider than `shape` by `REACH` on all sides.
        region: on a grid of that shape.
        shape: (height, width).
    """
    lengths = [part.stop - part.start for part in region.slices(shape)]
    rows, columns = region.slices(shape, REACH)
    cut_Mhw = maps_Mhw[:, rows, columns]
    return cut_Mhw.unfold(1, lengths[0], 1).unfold(2, lengths[1], 1).flatten(3).flatten(0, 2)


@dataclass(frozen=True, kw_only=True)
class SharedTexture:
    """The components that most maps have in common, to be suppressed in correlations."""

    components_RD: torch.Tensor
    suppressed_R: torch.Tensor
    """Share of each component's energy that is taken away."""

    @classmethod
    def fit(cls, maps_ED: torch.Tensor) -> SharedTexture:
        """Reduce the strongest `COMPONENTS` to the energy of the next one."""
        values_D, vectors_DD = torch.linalg.eigh(maps_ED.T @ maps_ED)
        count = min(COMPONENTS, len(values_D) - 1)
        values_D, vectors_DD = values_D.flip(0), vectors_DD.flip(1)
        return cls(
            components_RD=vectors_DD[:, :count].T.contiguous(),
            suppressed_R=1 - values_D[count] / values_D[:count].clamp_min(1e-12),
        )

    def length(self, maps_ED: torch.Tensor) -> torch.Tensor:
        """Return length_E of the maps after suppression."""
        shared_ER = maps_ED @ self.components_RD.T
        energy_E = (maps_ED * maps_ED).sum(dim=1) - (shared_ER * shared_ER) @ self.suppressed_R
        return energy_E.clamp_min(1e-9).sqrt()

    def query(self, maps_Nhw: torch.Tensor) -> torch.Tensor:
        """Return query_ND whose product with a map, over the map's length, is a correlation."""
        maps_ND = maps_Nhw.flatten(1)
        shared_NR = (maps_ND @ self.components_RD.T) * self.suppressed_R
        return (maps_ND - shared_NR @ self.components_RD) / self.length(maps_ND)[:, None]
