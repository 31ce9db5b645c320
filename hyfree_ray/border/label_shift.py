"""Whether a release's labels lie beside what they label: seen from the release alone.

Where a label ends, an image tends to get brighter, or to get darker, and this is so all over a
release. Added up over its images with their signs, edges that happen to lie near cancel and those
of the labelled structure remain. So what labels and images have in common is largest where the
labels lie right; labels that were moved, by mistake or to harm the pool, have more in common with
their images at another place.

It tells of a release whose labels were all moved alike. It cannot tell of a structure without
contrast, and says so.

Shapes: N images, C channels, H height, W width, S shifts to either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_IMAGES = 200
"""Looked at, evenly spread over a release."""

REACH = 4
"""The shorter side over the longest shift that is tried."""

TOLERANCE = 2.0
"""Pixels: an edge is as wide."""

PROMINENCE = 1.5
"""Times what is had in common anywhere else, from which on a place is one of its own."""

CONSISTENCY = 4.0
"""Standard errors over the release's images by which another place has to be better."""


@dataclass(frozen=True, kw_only=True)
class LabelShift:
    """Where the labels of a release would lie best."""

    label: int | None
    """The label that tells; None: none has enough contrast to tell."""
    down: int
    """Pixels by which the structure lies below its label."""
    right: int
    better: float
    """How much better that place is than where the labels are, in standard errors."""

    @property
    def flagged(self) -> bool:
        """The labels lie beside what they label."""
        far = float(np.hypot(self.down, self.right)) > TOLERANCE
        return self.label is not None and far and self.better > CONSISTENCY

    def in_words(self) -> str:
        """What a flag says."""
        ways = [
            f"{abs(pixels)} pixels further {forwards if pixels > 0 else back}"
            for pixels, forwards, back in (
                (self.down, "down", "up"),
                (self.right, "right", "left"),
            )
            if pixels
        ]
        return f"its labels look shifted: they would fit its images best {' and '.join(ways)}"


def label_shift(
    images_NCHW: npt.NDArray[np.integer], labels_NHW: npt.NDArray[np.uint8]
) -> LabelShift:
    """Find where a release's labels fit its images best.

    Args:
        images_NCHW: as they are stored.
        labels_NHW: their labels; 0 is the background.
    """
    chosen_N = np.linspace(0, len(images_NCHW) - 1, min(MOST_IMAGES, len(images_NCHW))).astype(int)
    labels_NHW = labels_NHW[chosen_N]
    slopes_2CNHW = _slopes(_standard(images_NCHW[chosen_N]).swapaxes(0, 1))
    best, strongest = LabelShift(label=None, down=0, right=0, better=0.0), 0.0
    for label in np.unique(labels_NHW[labels_NHW > 0]).tolist():
        inside_NHW = (labels_NHW == label).astype(np.float32)
        for slopes_2NHW in slopes_2CNHW.swapaxes(0, 1):
            found, strength = _of_label(int(label), _slopes(inside_NHW), slopes_2NHW)
            if strength > strongest:
                best, strongest = found, strength
    return best


def _standard(images_NCHW: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Each channel of each image with mean 0 and deviation 1."""
    values = images_NCHW.astype(np.float32)
    centred = values - values.mean(axis=(2, 3), keepdims=True)
    return np.asarray(centred / np.maximum(centred.std(axis=(2, 3), keepdims=True), 1e-6))


def _slopes(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Differences to the pixel below and to the one on the right, stacked in front."""
    down, right = np.zeros_like(values), np.zeros_like(values)
    down[..., :-1, :] = np.diff(values, axis=-2)
    right[..., :-1] = np.diff(values, axis=-1)
    return np.stack([down, right])


def _of_label(
    label: int, edges_2NHW: npt.NDArray[np.float32], slopes_2NHW: npt.NDArray[np.float32]
) -> tuple[LabelShift, float]:
    """Where one label fits one channel best, and how much they have in common there."""
    length_N = np.abs(edges_2NHW).sum(axis=(0, 2, 3))
    kept_N = length_N > 0
    if not kept_N.any():  # it covers all of the images that have it
        return LabelShift(label=None, down=0, right=0, better=0.0), 0.0
    reach = min(edges_2NHW.shape[2:]) // REACH
    common_NSS = _common(edges_2NHW[:, kept_N], slopes_2NHW[:, kept_N], reach)
    common_NSS /= length_N[kept_N, None, None]
    mean_SS = common_NSS.mean(axis=0)
    top, left = np.unravel_index(np.abs(mean_SS).argmax(), mean_SS.shape)
    sign, strength = np.sign(mean_SS[top, left]), float(abs(mean_SS[top, left]))
    rows, columns = np.ogrid[: len(mean_SS), : len(mean_SS)]
    elsewhere = np.abs(mean_SS[np.hypot(rows - top, columns - left) > 2 * TOLERANCE])
    clear = elsewhere.size > 0 and strength > PROMINENCE * float(elsewhere.max())
    gain_N = sign * (common_NSS[:, top, left] - common_NSS[:, reach, reach])
    error = float(gain_N.std()) / np.sqrt(len(gain_N))
    found = LabelShift(
        label=label if clear and len(gain_N) > 1 else None,
        down=int(top) - reach,
        right=int(left) - reach,
        better=float(gain_N.mean() / error) if error > 0 else 0.0,
    )
    return found, strength


def _common(
    edges_2NHW: npt.NDArray[np.float32], slopes_2NHW: npt.NDArray[np.float32], reach: int
) -> npt.NDArray[np.float64]:
    """common_NSS: the products of edges and slopes, added up, for slopes moved by each shift."""
    size = tuple(side + reach for side in edges_2NHW.shape[2:])
    down_NHW, right_NHW = (
        np.conj(np.fft.rfft2(edges_NHW, size)) * np.fft.rfft2(slopes_NHW, size)
        for edges_NHW, slopes_NHW in zip(edges_2NHW, slopes_2NHW, strict=True)
    )
    common_NHW = np.fft.irfft2(down_NHW + right_NHW, size)
    steps = np.arange(-reach, reach + 1)
    return np.asarray(common_NHW[:, steps[:, None], steps[None, :]])
