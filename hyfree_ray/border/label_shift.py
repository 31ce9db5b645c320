"""A test of whether a release's labels are shifted against its images, from the release alone.

Where a label ends, an image tends to get brighter, or darker, and it does so throughout a release.
Summed with their signs over all images, edges that happen to be near cancel out and those of the
labelled structure remain. So labels and images correlate most where the labels are right; labels
that were moved, by mistake or to harm the pool, correlate more with their images at another
position.

This finds a release whose labels were all moved alike. It cannot judge a structure without
contrast, and reports that.

Shapes: N images, C channels, H height, W width, S shifts to either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_IMAGES = 200
"""Images examined, evenly spread over a release."""

REACH = 4
"""Ratio of the shorter side to the longest shift that is tried."""

TOLERANCE = 2.0
"""Pixels: the width of an edge."""

PROMINENCE = 1.5
"""Factor by which a position's correlation must exceed that of all others to stand out."""

CONSISTENCY = 4.0
"""Standard errors over the release's images by which another position has to be better."""


@dataclass(frozen=True, kw_only=True)
class LabelShift:
    """The position at which the labels of a release would fit best."""

    label: int | None
    """The label that shows it; None: none has enough contrast."""
    down: int
    """Pixels by which the structure lies below its label."""
    right: int
    better: float
    """By how much that position is better than the labels' own, in standard errors."""

    @property
    def flagged(self) -> bool:
        """Whether the labels are shifted against their images."""
        far = float(np.hypot(self.down, self.right)) > TOLERANCE
        return self.label is not None and far and self.better > CONSISTENCY

    def describe(self) -> str:
        """Describe a flagged shift."""
        ways = [
            f"{abs(pixels)} pixels {forwards if pixels > 0 else back}"
            for pixels, forwards, back in (
                (self.down, "down", "up"),
                (self.right, "right", "left"),
            )
            if pixels
        ]
        return f"its labels look shifted: they fit its images best when moved {' and '.join(ways)}"


def label_shift(
    images_NCHW: npt.NDArray[np.integer], labels_NHW: npt.NDArray[np.uint8]
) -> LabelShift:
    """Find where a release's labels fit its images best.

    Args:
        images_NCHW: as they are stored.
        labels_NHW: their labels; 0 is the background.
    """
    chosen_N = np.linspace(0, len(images_NCHW) - 1, min(MAX_IMAGES, len(images_NCHW))).astype(int)
    labels_NHW = labels_NHW[chosen_N]
    slopes_2CNHW = _slopes(_standard(images_NCHW[chosen_N]).swapaxes(0, 1))
    best, strongest = LabelShift(label=None, down=0, right=0, better=0.0), 0.0
    for label in np.unique(labels_NHW[labels_NHW > 0]).tolist():
        inside_NHW = (labels_NHW == label).astype(np.float32)
        for slopes_2NHW in slopes_2CNHW.swapaxes(0, 1):
            found, strength = _fit_label(int(label), _slopes(inside_NHW), slopes_2NHW)
            if strength > strongest:
                best, strongest = found, strength
    return best


def _standard(images_NCHW: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Normalise each channel of each image to mean 0 and deviation 1."""
    values = images_NCHW.astype(np.float32)
    centred = values - values.mean(axis=(2, 3), keepdims=True)
    return np.asarray(centred / np.maximum(centred.std(axis=(2, 3), keepdims=True), 1e-6))


def _slopes(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return differences to the pixel below and to the one on the right, stacked in front."""
    down, right = np.zeros_like(values), np.zeros_like(values)
    down[..., :-1, :] = np.diff(values, axis=-2)
    right[..., :-1] = np.diff(values, axis=-1)
    return np.stack([down, right])


def _fit_label(
    label: int, edges_2NHW: npt.NDArray[np.float32], slopes_2NHW: npt.NDArray[np.float32]
) -> tuple[LabelShift, float]:
    """Return where one label fits one channel best, and how strongly they correlate there."""
    length_N = np.abs(edges_2NHW).sum(axis=(0, 2, 3))
    present_N = length_N > 0
    if not present_N.any():  # the label fills every image that has it
        return LabelShift(label=None, down=0, right=0, better=0.0), 0.0
    reach = min(edges_2NHW.shape[2:]) // REACH
    common_NSS = _correlation(edges_2NHW[:, present_N], slopes_2NHW[:, present_N], reach)
    common_NSS /= length_N[present_N, None, None]
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


def _correlation(
    edges_2NHW: npt.NDArray[np.float32], slopes_2NHW: npt.NDArray[np.float32], reach: int
) -> npt.NDArray[np.float64]:
    """Return common_NSS: sums of products of edges and slopes, for slopes moved by each shift."""
    size = tuple(side + reach for side in edges_2NHW.shape[2:])
    down_NHW, right_NHW = (
        np.conj(np.fft.rfft2(edges_NHW, size)) * np.fft.rfft2(slopes_NHW, size)
        for edges_NHW, slopes_NHW in zip(edges_2NHW, slopes_2NHW, strict=True)
    )
    common_NHW = np.fft.irfft2(down_NHW + right_NHW, size)
    steps = np.arange(-reach, reach + 1)
    return np.asarray(common_NHW[:, steps[:, None], steps[None, :]])
