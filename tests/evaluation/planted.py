"""Sets of images that are wrong in known ways, and real ones, of a small toy anatomy.

Two co-registered channels, 40 x 48 pixels: a body with a bright lesion in one channel that is dark
in the other. Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

SIZE = (40, 48)
LABELS = {"background": 0, "body": 1, "lesion": 2}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Images in [-1, 1] with their labels, two of each patient."""

    images_NCHW: npt.NDArray[np.float32]
    labels_NHW: npt.NDArray[np.uint8]

    @property
    def patients_N(self) -> npt.NDArray[np.int64]:
        return np.arange(len(self.images_NCHW)) // 2


def real(count: int, seed: int) -> Planted:
    """Draw images of new patients; half of them lie higher and are darker (another scanner)."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[: SIZE[0], : SIZE[1]]
    images, labels = [], []
    for number in range(count):
        scanner = number % 4 < 2
        top, left = (18 if scanner else 22) + rng.normal(), 24 + rng.normal()
        body = ((down - top) / 14) ** 2 + ((right - left) / (17 + rng.normal())) ** 2 < 1
        y, x = top + rng.uniform(-6, 6), left + rng.uniform(-8, 8)
        lesion = ((down - y) ** 2 + (right - x) ** 2 < rng.uniform(3, 5) ** 2) & body
        bright = (0.4 if scanner else 0.0) + rng.normal(0, 0.05)
        first = np.where(lesion, 0.8, np.where(body, bright, -0.9))
        second = np.where(lesion, -0.6, np.where(body, 0.3 - bright, -0.9))
        image = gaussian_filter(np.stack([first, second]), (0, 0.7, 0.7))
        images.append(image + rng.normal(0, 0.05, image.shape))
        labels.append(np.where(lesion, 2, body.astype(np.uint8)))
    return Planted(
        images_NCHW=np.clip(images, -1, 1).astype(np.float32),
        labels_NHW=np.array(labels, np.uint8),
    )


def flawed(count: int) -> dict[str, Planted]:
    """Return sets of that many images by what is wrong with them."""
    fresh = real(count, seed=2)
    images_NCHW, labels_NHW = fresh.images_NCHW, fresh.labels_NHW
    rng = np.random.default_rng(3)
    noise = np.clip(
        rng.normal(images_NCHW.mean(), images_NCHW.std(), images_NCHW.shape), -1, 1
    ).astype(np.float32)
    shuffled = images_NCHW.copy()
    shuffled[:, 0] = shuffled[rng.permutation(count), 0]
    one_scanner = np.arange(count) % 4 < 2
    healthy = np.where(labels_NHW == 2, 1, labels_NHW).astype(np.uint8)
    return {
        "real": fresh,
        "mode dropped": Planted(
            images_NCHW=images_NCHW[one_scanner], labels_NHW=labels_NHW[one_scanner]
        ),
        "lesions removed": Planted(images_NCHW=images_NCHW, labels_NHW=healthy),
        "channel shuffled": Planted(images_NCHW=shuffled, labels_NHW=labels_NHW),
        "blurred": Planted(
            images_NCHW=gaussian_filter(images_NCHW, (0, 0, 1.5, 1.5)), labels_NHW=labels_NHW
        ),
        "noise, labelled well": Planted(images_NCHW=noise, labels_NHW=labels_NHW),
        "noise": Planted(images_NCHW=noise, labels_NHW=speckle(count)),
    }


def speckle(count: int) -> npt.NDArray[np.uint8]:
    """Labels of an untrained network: specks all over."""
    drawn = np.random.default_rng(4).random((count, *SIZE))
    return np.where(drawn > 0.98, 2, np.where(drawn > 0.7, 1, 0)).astype(np.uint8)
