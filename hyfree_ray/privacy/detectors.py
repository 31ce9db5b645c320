"""Detectors of copies: by features, and by textures that are laid over each other.

A detector measures several distances from a sample to the training images. Some are absolute; some
are relative: over the distance to the nearest image of any *other* patient. A rare patient lies far
from all others, and what is a copy of that patient may lie further away than two typical patients
do from each other; relative to its surroundings it is as near as any copy. The distance that counts
as near is calibrated on the site's own patients (see `memorization`), not here.

Shapes: N samples, M training images, K candidates, D distances, F features, P patches, C channels,
H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from hyfree_ray.privacy.patch_matching import Matches, match
from hyfree_ray.privacy.pose_search import (
    FULL_SIDE,
    QUERY_BATCH,
    REGIONS,
    WHOLE,
    PoseSearch,
    Region,
)
from hyfree_ray.privacy.texture import channel_weights, one_channel

Embed = Callable[[np.ndarray], np.ndarray]
"""images_NCHW in [-1, 1] to features_NF of length 1."""

FAR = 2.0
"""The distance of what cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The nearest training image of each sample, by each of a detector's distances."""

    distance_ND: np.ndarray
    index_ND: np.ndarray


class Detector(Protocol):
    """Distances to the training images that it was fitted to."""

    @property
    def names(self) -> tuple[str, ...]:
        """The distances' names on the card."""

    def nearest(self, images_NCHW: np.ndarray, patients_N: np.ndarray | None = None) -> Nearest:
        """Find the nearest training images of samples in [-1, 1].

        Args:
            images_NCHW: of the training images' size.
            patients_N: a patient for each sample, whose training images are left out.
        """


class Measure(Protocol):
    """What a detector is made from."""

    def fit(self, images_MCHW: np.ndarray, patients_M: np.ndarray) -> Detector:
        """Describe the training images, in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Euclidean distance between an embedder's features, as in Chebykin et al. 2024.

    Training images are also compared mirrored, on either axis and on both.
    """

    embed: Embed

    def fit(self, images_MCHW: np.ndarray, patients_M: np.ndarray) -> FeatureDetector:
        """Embed the training images, each in four forms."""
        forms_V = [images_MCHW[..., ::down, ::across] for down in (1, -1) for across in (1, -1)]
        return FeatureDetector(
            embed=self.embed,
            known_VMF=np.stack([self.embed(np.ascontiguousarray(form)) for form in forms_V]),
            patients_M=patients_M,
        )


@dataclass(frozen=True, kw_only=True)
class FeatureDetector:
    """Features of the training images to compare with."""

    embed: Embed
    known_VMF: np.ndarray
    patients_M: np.ndarray
    names: tuple[str, ...] = ("features", "features, relative")

    def nearest(self, images_NCHW: np.ndarray, patients_N: np.ndarray | None = None) -> Nearest:
        """Find the nearest by features and by features relative to other patients."""
        query_NF = self.embed(images_NCHW)
        distance, index = [], []
        for start in range(0, len(query_NF), QUERY_BATCH):
            part = slice(start, start + QUERY_BATCH)
            square_NM = np.min(
                [2 - 2 * query_NF[part] @ known_MF.T for known_MF in self.known_VMF], axis=0
            )
            distance_NM = np.sqrt(np.maximum(square_NM, 0))
            if patients_N is not None:
                distance_NM[patients_N[part, None] == self.patients_M] = FAR
            both_ND, at_N = absolute_and_relative(distance_NM, self.patients_M)
            distance.append(both_ND)
            index.append(np.stack((at_N, at_N), axis=1))
        return Nearest(distance_ND=np.concatenate(distance), index_ND=np.concatenate(index))


def absolute_and_relative(
    distance_NM: np.ndarray, patients_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the nearest image, and that over the distance to the nearest one of
    another patient (1 where there is no other), and the nearest image's index_N."""
    at_N = distance_NM.argmin(axis=1)
    nearest_N = distance_NM[np.arange(len(at_N)), at_N]
    other_NM = np.where(patients_M[at_N][:, None] == patients_M, FAR, distance_NM)
    other_N = other_NM.min(axis=1)
    relative_N = np.where(other_N < FAR, nearest_N / np.maximum(other_N, 1e-6), 1.0)
    return np.stack((nearest_N, relative_N), axis=1), at_N


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What is left between a sample and a training image once one is laid over the other.

    1 - correlation of textures, patch by patch, over that of the same patch with other patients'
    images: of the whole image, of its best contiguous half, and of the better half of its patches
    wherever they are, for a copy of half a patient is a copy. Channels are added up for that; where
    there are several, the whole of each is also looked for by itself: one sequence of a patient is
    a copy, whatever the others show.
    """

    precision: str = "fp32"
    """"bf16" or "fp32", of the search for candidates."""

    def fit(self, images_MCHW: np.ndarray, patients_M: np.ndarray) -> RegisteringDetector:
        """Keep the training images' brightness, `FULL_SIDE` pixels along the longer side."""
        finest, channels = max(images_MCHW.shape[2:]), images_MCHW.shape[1]
        together_C = channel_weights(images_MCHW)

        def of(weights_C: np.ndarray, regions: Sequence[Region]) -> Registered:
            known_M1hw = one_channel(images_MCHW, weights_C, FULL_SIDE)
            search = PoseSearch(
                known_M1hw, finest=finest, regions=regions, precision=self.precision
            )
            return Registered(search=search, weights_C=weights_C)

        return RegisteringDetector(
            together=of(together_C, REGIONS),
            apart=tuple(of(weights_C, WHOLE) for weights_C in np.eye(channels))
            if channels > 1
            else (),
            patients_M=patients_M,
        )


NAMES = ("whole", "half", "patches")
ONE_CHANNEL = "one channel"

OTHER_RANK = 2
"""A patch is compared with the second best match among other patients' images: one of these may
hold the same picture, or be the other part of a blend."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Training images of one channel that samples are laid over."""

    search: PoseSearch
    weights_C: np.ndarray
    """By which the channels of an image add up to that one."""

    def nearest(
        self, samples_NCHW: np.ndarray, excluded_NM: torch.Tensor | None, patients_M: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return distance_DN, in the order of `NAMES`, and index_DN of what lies there."""
        samples_N1hw = one_channel(samples_NCHW, self.weights_C, FULL_SIDE)
        found = self.search(samples_N1hw, excluded_NM)
        matches = match(samples_N1hw, self.search.images_M1hw, found)
        distance_DNK = part_distances(matches, patients_M[found.known_K], len(samples_N1hw))
        known_NK = found.known_K.view(len(samples_N1hw), -1)
        if excluded_NM is not None:
            distance_DNK = distance_DNK.masked_fill(excluded_NM.gather(1, known_NK), FAR)
        lowest_DN, at_DN = distance_DNK.min(dim=2)
        return lowest_DN, known_NK.gather(1, at_DN.T).T


@dataclass(frozen=True, kw_only=True)
class RegisteringDetector:
    """Training images that samples are laid over, all channels together and each by itself."""

    together: Registered
    apart: tuple[Registered, ...]
    """Empty where images have one channel."""
    patients_M: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Return `NAMES`, and one more where channels are looked for by themselves."""
        return (*NAMES, ONE_CHANNEL) if self.apart else NAMES

    def nearest(self, images_NCHW: np.ndarray, patients_N: np.ndarray | None = None) -> Nearest:
        """Find the nearest by each of `names`."""
        patients_M = torch.from_numpy(self.patients_M)
        distance, index = [], []
        for start in range(0, len(images_NCHW), QUERY_BATCH):
            part = slice(start, start + QUERY_BATCH)
            excluded_NM = None
            if patients_N is not None:
                excluded_NM = torch.from_numpy(patients_N[part, None] == self.patients_M)
            samples = (images_NCHW[part], excluded_NM, patients_M)
            distance_DN, index_DN = self.together.nearest(*samples)
            if self.apart:
                whole = [one.nearest(*samples) for one in self.apart]
                of_channel_CN, index_CN = (
                    torch.stack([x[0] for x in y]) for y in zip(*whole, strict=True)
                )
                lowest_1N, at_1N = of_channel_CN.min(dim=0, keepdim=True)
                distance_DN = torch.cat((distance_DN, lowest_1N))
                index_DN = torch.cat((index_DN, index_CN.gather(0, at_1N)))
            distance.append(distance_DN.T.numpy())
            index.append(index_DN.T.numpy())
        return Nearest(distance_ND=np.concatenate(distance), index_ND=np.concatenate(index))


def part_distances(matches: Matches, patients_K: torch.Tensor, samples: int) -> torch.Tensor:
    """Return distances_DNK of each sample's candidates, in the order of `NAMES`.

    1 is what a patient is expected at who was not trained on.
    """
    count, patches = matches.correlation_KP.shape
    shape = (matches.rows, patches // matches.rows)
    off_KP = 1 - matches.correlation_KP
    other_KP = _others(off_KP.view(samples, -1, patches), patients_K.view(samples, -1))
    weight_KP = matches.weight_KP
    found = [
        torch.stack(
            [
                _lowest(off_KP * weight_KP, other_KP * weight_KP, weight_KP, shape, one)
                for one in sizes
            ]
        )
        .min(dim=0)
        .values
        for sizes in ((shape,), _halves(shape))
    ]
    ratio_KP = (off_KP / other_KP).clamp(0.01, FAR).log()
    lowest_KP = ratio_KP.sort(dim=1).values[:, : patches // 2]
    found.append(lowest_KP.mean(dim=1).exp())
    return torch.stack(found).view(len(NAMES), samples, count // samples)


def _others(off_NKP: torch.Tensor, patients_NK: torch.Tensor) -> torch.Tensor:
    """Return, by candidate and patch, a low 1 - correlation among other patients' candidates."""
    rank = min(OTHER_RANK, off_NKP.shape[1])
    other = []
    for index in range(off_NKP.shape[1]):
        mine_NK = patients_NK == patients_NK[:, index : index + 1]
        theirs_NKP = off_NKP.masked_fill(mine_NK[:, :, None], 1.0)
        other.append(theirs_NKP.kthvalue(rank, dim=1).values)
    return torch.stack(other, dim=1).flatten(0, 1).clamp_min(0.005)


def _halves(shape: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return windows of patches that lie within half an image: patches at its seam are mixed."""
    rows, columns = shape
    return (rows, max(1, round(0.4 * columns))), (max(1, round(0.4 * rows)), columns)


def _lowest(
    above_KP: torch.Tensor,
    below_KP: torch.Tensor,
    weight_KP: torch.Tensor,
    shape: tuple[int, int],
    window: tuple[int, int],
) -> torch.Tensor:
    """Return the lowest ratio_K of sums over windows of patches that hold enough texture."""
    above, below, weight = (
        functional.avg_pool2d(values_KP.view(-1, 1, *shape), window, 1).flatten(1)
        for values_KP in (above_KP, below_KP, weight_KP)
    )
    enough = weight > 0.5 * weight_KP.mean(dim=1, keepdim=True)
    return torch.where(enough, above / below.clamp_min(1e-6), FAR).min(dim=1).values
