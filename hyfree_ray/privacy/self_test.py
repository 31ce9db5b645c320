"""The filter's self-test: does it stop the site's own training images, altered, as samples?

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import affine_transform, rotate

from hyfree_ray.border.privacy_card import UNION
from hyfree_ray.privacy.detectors import SHIFT
from hyfree_ray.privacy.memorization import MemorisationFilter

MAX_IMAGES = 100
"""Maximum number of training images that are tried."""

Alter = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# The luminance table of ITU T.81 (JPEG), annex K: the divisors at quality 50.
_JPEG_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def shifted(images_NCHW: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shift the images by whole pixels, repeating their edge."""
    height, width = images_NCHW.shape[2:]
    reach = max(abs(down), abs(right))
    padded = np.pad(images_NCHW, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    top, left = reach - down, reach - right
    return padded[..., top : top + height, left : left + width]


def jpeg(images_NCHW: np.ndarray) -> np.ndarray:
    """Apply JPEG's loss at quality 50, per channel: quantised cosines of blocks of 8 x 8."""
    height, width = images_NCHW.shape[2:]
    pad = ((0, 0), (0, 0), (0, -height % 8), (0, -width % 8))
    padded = np.pad(images_NCHW * 127.5, pad, mode="edge")
    count, channels, tall, wide = padded.shape
    blocks = padded.reshape(count, channels, tall // 8, 8, wide // 8, 8)
    cosines = np.rint(dctn(blocks, axes=(3, 5), norm="ortho") / _JPEG_TABLE[:, None, :])
    restored = idctn(cosines * _JPEG_TABLE[:, None, :], axes=(3, 5), norm="ortho")
    altered: np.ndarray = restored.reshape(padded.shape)[..., :height, :width] / 127.5
    return altered


def jittered(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Randomly mirror, shift and change brightness and contrast of each image, and add noise."""
    parts = []
    for image_1CHW in np.split(images_NCHW, len(images_NCHW)):
        down, right = rng.integers(-SHIFT, SHIFT + 1, 2)
        mirrored = image_1CHW[..., ::-1] if rng.random() < 0.5 else image_1CHW
        contrast, brightness = rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1)
        parts.append(shifted(mirrored, int(down), int(right)) * contrast + brightness)
    moved = np.concatenate(parts)
    return moved + rng.normal(0, 0.02, moved.shape)


def blended(images_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend a fifth of another image into each."""
    others = (np.arange(len(images_NCHW)) + rng.integers(1, len(images_NCHW))) % len(images_NCHW)
    mixed: np.ndarray = 0.8 * images_NCHW + 0.2 * images_NCHW[others]
    return mixed


def rotated(images_NCHW: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate the images about their centre, repeating their edge."""
    turned: np.ndarray = rotate(
        images_NCHW, degrees, axes=(3, 2), reshape=False, order=1, mode="nearest"
    )
    return turned


def cropped(images_NCHW: np.ndarray, share: float) -> np.ndarray:
    """Crop that share of height and width and resize to the former size."""
    scale = 1 - share
    middle = (np.array(images_NCHW.shape[2:]) - 1) / 2
    larger: np.ndarray = affine_transform(
        images_NCHW,
        np.array([1, 1, scale, scale]),
        offset=(0, 0, *(middle * share)),
        order=1,
        mode="nearest",
    )
    return larger


ALTERATIONS: Mapping[str, Alter] = {
    "exact": lambda images, rng: images,
    "mirrored": lambda images, rng: images[..., ::-1],
    "mirrored upside down": lambda images, rng: images[..., ::-1, :],
    "turned by 180 degrees": lambda images, rng: images[..., ::-1, ::-1],
    "shifted by 2 pixels": lambda images, rng: shifted(images, 2, -2),
    "brightness +10 %": lambda images, rng: images + 0.2,
    "brightness -10 %": lambda images, rng: images - 0.2,
    "contrast +10 %": lambda images, rng: images * 1.1,
    "contrast -10 %": lambda images, rng: images * 0.9,
    "noise of 2 %": lambda images, rng: images + rng.normal(0, 0.04, images.shape),
    "JPEG quality 50": lambda images, rng: jpeg(images),
    "jittered": jittered,
    "blended 80:20": blended,
    "rotated by 5 degrees": lambda images, rng: rotated(images, 5),
    "cropped by 10 %": lambda images, rng: cropped(images, 0.1),
}
"""Images in [-1, 1], whose range is 2: +10 % is 0.2."""


def self_test(
    rule: MemorisationFilter, images_NCHW: np.ndarray, *, seed: int
) -> dict[str, dict[str, float]]:
    """Measure recall at the thresholds: alteration -> detector (and `UNION`) -> share that is
    stopped.

    Args:
        rule: the site's filter.
        images_NCHW: the training images that it knows, at least two.
        seed: seed of the random alterations and of the choice of images.
    """
    rng = np.random.default_rng(seed)
    tried = rng.permutation(len(images_NCHW))[:MAX_IMAGES]
    recall = {}
    for name, alter in ALTERATIONS.items():
        altered = np.clip(alter(images_NCHW[tried], rng), -1, 1).astype(np.float32)
        judged = rule.judge(altered)
        shares = dict(zip(rule.names, judged.copied_ND.mean(axis=0).tolist(), strict=True))
        recall[name] = shares | {UNION: float(judged.copied_N.mean())}
    return recall
