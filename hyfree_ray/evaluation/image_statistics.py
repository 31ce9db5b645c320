"""Statistics of images that need no network: how far two sets of images are apart.

Each distance is 0 for equal sets. None is on a scale of its own: what it is between two halves of
the real images is what it has to be compared with (`realism.py`).

Shapes: N, M images, C channels, H height, W width, F features, P projections.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Images = npt.NDArray[np.float32]
"""images_NCHW in [-1, 1]."""
Features = npt.NDArray[np.float64]

QUANTILES = 32
"""Levels at which two distributions are compared."""
BINS = 16
"""Rings of the radial spectrum, from the image's mean to one cycle in two pixels."""
PATCH, PATCHES, PROJECTIONS, SCALES = 5, 1500, 48, (1, 2, 4)
"""Side of a patch, patches of a set and scale, directions, and pixels averaged along an axis."""
_LEAST_POWER = 1e-8  # of a flat image
_LEAST_GRADIENT = 1e-3


def wasserstein(one_NF: Features, other_MF: Features) -> float:
    """Return the mean over features of the Wasserstein-1 distance between their distributions.

    Both are taken at the middles of `QUANTILES` equal parts, so sets need not be equally large.
    """
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return float(np.abs(np.quantile(one_NF, at, axis=0) - np.quantile(other_MF, at, axis=0)).mean())


def spectrum(images_NCHW: Images) -> Features:
    """Return the logarithm (base 10) of each image's power in rings of equal frequency.

    Fine detail that is lacking, and noise, both show; rings are of cycles a pixel, so that an
    image need not be square.
    """
    height, width = images_NCHW.shape[2:]
    window_HW = np.outer(np.hanning(height), np.hanning(width))
    power_NCHW = np.abs(np.fft.rfft2(images_NCHW * window_HW)) ** 2 / (height * width)
    frequency_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    ring_HW = np.minimum((frequency_HW / 0.5 * BINS).astype(int), BINS)  # corners lie beyond
    present = [ring for ring in range(BINS) if (ring_HW == ring).any()]
    power = [power_NCHW[..., ring_HW == ring].mean(axis=-1) for ring in present]
    return np.log10(np.concatenate(power, axis=1) + _LEAST_POWER)


def gradients(images_NCHW: Images) -> Features:
    """Return the logarithm (base 10) of each image's median, high and highest gradients."""
    down, right = np.gradient(images_NCHW.astype(np.float64), axis=(2, 3))
    found = np.quantile(np.hypot(down, right), (0.5, 0.9, 0.99), axis=(2, 3))
    return np.log10(np.concatenate(list(found), axis=1) + _LEAST_GRADIENT)


def channel_correlations(images_NCHW: Images) -> Features:
    """Return the correlation of each pair of an image's channels; no columns for one channel."""
    values_NCP = images_NCHW.reshape(*images_NCHW.shape[:2], -1).astype(np.float64)
    values_NCP = values_NCP - values_NCP.mean(axis=2, keepdims=True)
    values_NCP /= np.maximum(np.linalg.norm(values_NCP, axis=2, keepdims=True), 1e-9)
    correlation_NCC = values_NCP @ values_NCP.swapaxes(1, 2)
    above, right = np.triu_indices(images_NCHW.shape[1], k=1)
    return np.asarray(correlation_NCC[:, above, right])


def patch_distance(one_NCHW: Images, other_MCHW: Images) -> float:
    """Return the sliced Wasserstein distance of patches, the mean over scales.

    After Rabin et al. 2011 (random directions) and Karras et al. 2018 (patches at several
    scales). Places and directions are the same at each call.
    """
    channels = one_NCHW.shape[1]
    distances = []
    for scale in SCALES:
        if min(one_NCHW.shape[2:]) // scale < PATCH:
            continue
        rng = np.random.default_rng(scale)
        directions_FP = rng.normal(size=(channels * PATCH**2, PROJECTIONS))
        directions_FP /= np.linalg.norm(directions_FP, axis=0)
        one, other = (
            _patches(_pooled(images_NCHW, scale), np.random.default_rng(scale)) @ directions_FP
            for images_NCHW in (one_NCHW, other_MCHW)
        )
        distances.append(wasserstein(one, other))
    return float(np.mean(distances))


def _pooled(images_NCHW: Images, scale: int) -> Images:
    """Average squares of pixels; what is left over at the far edges is cut off."""
    height, width = (side // scale for side in images_NCHW.shape[2:])
    cut = images_NCHW[..., : height * scale, : width * scale]
    squares = cut.reshape(*images_NCHW.shape[:2], height, scale, width, scale)
    pooled: Images = squares.mean(axis=(3, 5))
    return pooled


def _patches(images_NCHW: Images, rng: np.random.Generator) -> Features:
    """Draw patches, equally many of each image, as rows."""
    count, _, height, width = images_NCHW.shape
    each = -(-PATCHES // count)
    image_P = np.repeat(np.arange(count), each)
    down_P = rng.integers(0, height - PATCH + 1, len(image_P))
    right_P = rng.integers(0, width - PATCH + 1, len(image_P))
    side = np.arange(PATCH)
    rows = down_P[:, None, None] + side[:, None]
    columns = right_P[:, None, None] + side[None, :]
    drawn = images_NCHW[image_P[:, None, None], :, rows, columns]
    return drawn.reshape(len(image_P), -1).astype(np.float64)


def _by_image(features: Callable[[Images], Features]) -> Callable[[Images, Images], float]:
    return lambda one, other: wasserstein(features(one), features(other))


STATISTICS: dict[str, Callable[[Images, Images], float]] = {
    "spectrum": _by_image(spectrum),
    "patches": patch_distance,
    "channels": _by_image(channel_correlations),
    "gradients": _by_image(gradients),
}
"""Distances between two sets of images, by name; `channels` needs more than one."""


def statistics_of(channels: int) -> dict[str, Callable[[Images, Images], float]]:
    """Return the distances that images of so many channels have."""
    return {name: found for name, found in STATISTICS.items() if name != "channels" or channels > 1}


def component_sizes(mask_NHW: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Return the pixels of each connected component, image by image."""
    sizes = []
    for mask_HW in mask_NHW:
        numbered_HW, count = ndimage.label(mask_HW)
        sizes.append(np.bincount(numbered_HW.ravel(), minlength=count + 1)[1:].tolist())
    return sizes
