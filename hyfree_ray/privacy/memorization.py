"""The memorisation filter: a synthetic image nearer to a real one than patients are to each other.

Chebykin et al. 2024, appendix: a sample counts as memorised when its nearest training image is
closer than the 5th percentile of the distances between images of different patients. There, the
threshold comes from half the patients against the other half but is used against all of them,
which misfires with few patients; here it is calibrated as it is used: every training image
against the images of all *other* patients, mirrored and shifted copies included.

Shapes: N images, C channels, H height, W width, F features, V variants of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

SHIFT = 3
"""Pixels by which copies are shifted: generators reproduce images a little out of place."""

Embed = Callable[[np.ndarray], np.ndarray]
"""images_NCHW to features_NF of length 1."""


def variants(images_NCHW: np.ndarray) -> Iterator[np.ndarray]:
    """The images, mirrored on either axis, each of these also shifted by `SHIFT` pixels four ways.

    Yields:
        15 arrays of the input's shape; the first is the input. Shifts repeat the edge.
    """
    for mirrored in (images_NCHW, images_NCHW[..., ::-1], images_NCHW[..., ::-1, :]):
        yield np.ascontiguousarray(mirrored)
        padded = np.pad(mirrored, ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="edge")
        height, width = mirrored.shape[2:]
        for top, left in ((0, SHIFT), (2 * SHIFT, SHIFT), (SHIFT, 0), (SHIFT, 2 * SHIFT)):
            yield np.ascontiguousarray(padded[..., top : top + height, left : left + width])


@dataclass(frozen=True, kw_only=True)
class MemorisationFilter:
    """A site's filter: its training images' features and the distance that counts as a copy."""

    features_VNF: np.ndarray
    """Features of each variant of each training image."""
    threshold: float
    """Euclidean distance between features of length 1."""

    @classmethod
    def calibrate(
        cls,
        images_NCHW: np.ndarray,
        patients_N: np.ndarray,
        embed: Embed,
        *,
        percentile: float,
    ) -> MemorisationFilter:
        """Set the threshold so that `percentile` % of the real images would be rejected.

        Args:
            images_NCHW: the site's training images.
            patients_N: whose image each is; at least two patients.
            embed: the embedder.
            percentile: 5 in the paper.
        """
        assert len(set(patients_N.tolist())) > 1, "one patient has no other to be compared with"
        features_VNF = np.stack([embed(variant) for variant in variants(images_NCHW)])
        distances_NN = _nearest_variant(features_VNF[0], features_VNF)
        same = patients_N[:, None] == patients_N[None, :]
        nearest_N = np.where(same, np.inf, distances_NN).min(axis=1)
        return cls(
            features_VNF=features_VNF,
            threshold=float(np.percentile(nearest_N, percentile)),
        )

    def nearest(self, features_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance to, and index of, the nearest training image (in any variant)."""
        distances_NN = _nearest_variant(features_NF, self.features_VNF)
        index_N = distances_NN.argmin(axis=1)
        return distances_NN[np.arange(len(index_N)), index_N], index_N

    def memorised(self, features_NF: np.ndarray) -> np.ndarray:
        """True for images that are nearer to a training image than the threshold."""
        return self.nearest(features_NF)[0] < self.threshold


def _nearest_variant(query_NF: np.ndarray, features_VMF: np.ndarray) -> np.ndarray:
    """distances_NM: over the variants of each of M images, the smallest distance."""
    variants_V, images_M, width_F = features_VMF.shape
    flat = features_VMF.reshape(variants_V * images_M, width_F)
    squared = 2 - 2 * query_NF @ flat.T
    distances_NM: np.ndarray = np.sqrt(
        np.maximum(squared, 0).reshape(len(query_NF), variants_V, images_M).min(axis=1)
    )
    return distances_NM
