"""Memorisation as Akbar et al. measure it: the highest correlation with any training image.

Pearson's correlation of all pixels and channels of a synthetic image with each training image's, of
which the highest counts (Akbar, Wang and Eklund 2023, arXiv 2305.07644). A background that all
images share lifts every such number, so that it is also taken inside the training image's
foreground, and both stand beside what real images of different patients have with each other.

Nothing is decided by it: `detectors` decides, by thresholds that are calibrated, and in shifts.

Shapes: N and M images, C channels, H height, W width, P = C H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

QUERY_BATCH = 256
"""Images compared at a time, to bound memory."""

MIN_VARIANCE = 1e-6
"""Mean square deviation below which pixels are constant and correlate with nothing."""


@dataclass(frozen=True, kw_only=True)
class Highest:
    """The highest correlation of each of N images."""

    full_N: np.ndarray
    """On the full grid."""
    foreground_N: np.ndarray
    """Inside the foreground of the image compared with, which need not be the same one."""


def foreground_of(images_NCHW: np.ndarray) -> np.ndarray:
    """Return foreground_NHW: pixels whose mean over the channels exceeds Otsu's threshold, one for
    all images; all pixels where images are constant."""
    from skimage.filters import threshold_otsu

    mean_NHW = images_NCHW.mean(axis=1)
    if mean_NHW.min() == mean_NHW.max():
        return np.ones(mean_NHW.shape, bool)
    threshold: float = threshold_otsu(mean_NHW)  # type: ignore[no-untyped-call]
    foreground_NHW: np.ndarray = mean_NHW > threshold
    return foreground_NHW


def highest_correlations(
    images_NCHW: np.ndarray,
    known_MCHW: np.ndarray,
    *,
    excluded_NM: np.ndarray | None = None,
) -> Highest:
    """Find the highest correlation of each image with any of the known ones.

    Args:
        images_NCHW: the images in question.
        known_MCHW: the images that they are compared with, at least one; their foreground counts.
        excluded_NM: pairs that are not compared, as images of the same patient. An image with no
            pair left has NaN.
    """
    inside_MHW = foreground_of(known_MCHW)
    inside_MP = _rows(np.repeat(inside_MHW[:, None], known_MCHW.shape[1], axis=1))
    known_MP = _rows(known_MCHW)
    masks = (torch.ones_like(inside_MP), inside_MP)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, len(images_NCHW), QUERY_BATCH):
        batch = slice(start, start + QUERY_BATCH)
        query_NP = _rows(images_NCHW[batch])
        for part, mask_MP in zip(parts, masks, strict=True):
            found_NM = correlations(query_NP, known_MP, mask_MP).numpy()
            if excluded_NM is not None:
                found_NM = np.where(excluded_NM[batch], -np.inf, found_NM)
            highest_N = found_NM.max(axis=1)
            part.append(np.where(np.isinf(highest_N), np.nan, highest_N))
    full, foreground = (np.concatenate(part) if part else np.empty(0) for part in parts)
    return Highest(full_N=full, foreground_N=foreground)


def correlations(
    query_NP: torch.Tensor, known_MP: torch.Tensor, mask_MP: torch.Tensor
) -> torch.Tensor:
    """Return Pearson's correlation_NM of each pair over the pixels of the known image's mask.

    Sums over masks are matrix products: sum_p m x y - (sum_p m x)(sum_p m y) / sum_p m, over the
    two deviations. 0 where either is constant there.
    """
    count_M = mask_MP.sum(dim=1).clamp_min(1)
    inside_MP = known_MP * mask_MP
    mean_M = inside_MP.sum(dim=1) / count_M
    mean_NM = query_NP @ mask_MP.T / count_M
    spread_M = (inside_MP**2).sum(dim=1) / count_M - mean_M**2
    spread_NM = query_NP**2 @ mask_MP.T / count_M - mean_NM**2
    shared_NM = query_NP @ inside_MP.T / count_M - mean_NM * mean_M
    flat_NM = (spread_NM <= MIN_VARIANCE) | (spread_M <= MIN_VARIANCE)
    scale_NM = (spread_NM.clamp_min(MIN_VARIANCE) * spread_M.clamp_min(MIN_VARIANCE)).sqrt()
    found_NM: torch.Tensor = (shared_NM / scale_NM).clamp(-1, 1).masked_fill(flat_NM, 0)
    return found_NM


def _rows(images_NCHW: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NCHW, np.float32)).flatten(1)
