"""The generator's view of a site's images: patch-sized, in [-1, 1], with a map back to units.

Shapes: N slices, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hyfree_ray.errors import HyfreeError

PERCENTILES = (0.05, 99.95)
"""The intensities that become -1 and 1, of all the site's training pixels of a channel."""


@dataclass(frozen=True, kw_only=True)
class GeneratorView:
    """A site's slices as its generator sees them.

    One affine map a site and channel, never one an image: an image's own brightness is part of
    what a generator has to learn, and units must come back the same for all.
    """

    images_NCHW: np.ndarray
    """float32 in [-1, 1], of the plan's patch size."""
    patients_N: np.ndarray
    """Index of the patient, int64."""
    training_N: np.ndarray
    """True for training slices, False for validation slices (held out from the generator)."""
    low_C: np.ndarray
    """Physical intensity of -1."""
    high_C: np.ndarray
    """Physical intensity of 1."""
    spacing: tuple[float, float]
    """Pixel spacing in mm (h, w) of a slice in the patch: the median over the slices."""

    def physical(self, images_NCHW: np.ndarray) -> np.ndarray:
        """[-1, 1] to the site's units, float32."""
        shape = (1, -1, 1, 1)
        low, high = self.low_C.reshape(shape), self.high_C.reshape(shape)
        physical_NCHW: np.ndarray = (images_NCHW + 1) / 2 * (high - low) + low
        return physical_NCHW.astype(np.float32)

    def save(self, path: Path) -> None:
        """Write an uncompressed .npz."""
        np.savez(
            path,
            images=self.images_NCHW,
            patients=self.patients_N,
            training=self.training_N,
            low=self.low_C,
            high=self.high_C,
            spacing=np.asarray(self.spacing),
        )

    @classmethod
    def load(cls, path: Path) -> GeneratorView:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls(
                images_NCHW=data["images"],
                patients_N=data["patients"],
                training_N=data["training"],
                low_C=data["low"],
                high_C=data["high"],
                spacing=(float(data["spacing"][0]), float(data["spacing"][1])),
            )


def fit_into_patch(
    image_CHW: np.ndarray, spacing: tuple[float, float], patch: tuple[int, int], target: float
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Resample a slice to square `target` mm pixels times what makes all of it fit the patch.

    nnU-Net resamples to the plan's spacing; a slice that is then larger than the patch is
    scaled down further, isotropically, so that the generator always sees whole images.

    Returns:
        The slice in the patch, centred; the mask_HW of the pixels that it covers; its spacing.
    """
    size = np.array(image_CHW.shape[1:]) * np.array(spacing) / target
    scale = min(1.0, patch[0] / size[0], patch[1] / size[1])
    height, width = (max(1, min(p, round(s * scale))) for p, s in zip(patch, size, strict=True))
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(image_CHW, dtype=np.float32))[None],
        size=(height, width),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0].numpy()
    top, left = (patch[0] - height) // 2, (patch[1] - width) // 2
    placed = np.zeros((len(resized), *patch), np.float32)
    placed[:, top : top + height, left : left + width] = resized
    covered = np.zeros(patch, bool)
    covered[top : top + height, left : left + width] = True
    return placed, covered, (target / scale, target / scale)


def build_view(
    slices: Sequence[tuple[np.ndarray, tuple[float, float]]],
    patients: Sequence[int],
    training: Sequence[bool],
    *,
    patch: tuple[int, int],
    target_spacing: tuple[float, float],
    site: str,
) -> GeneratorView:
    """Build the view from raw slices.

    Args:
        slices: image_CHW in physical units and its spacing (h, w) in mm, for each slice.
        patients: patient index of each slice.
        training: True where the slice is a training one.
        patch: the plan's patch size.
        target_spacing: the plan's spacing (h, w) in mm.
        site: named in errors.

    Raises:
        HyfreeError: a channel is constant over all training images.
    """
    # One number for both axes: an image is scaled isotropically, its proportions are anatomy.
    target = float(np.sqrt(target_spacing[0] * target_spacing[1]))
    placed = [fit_into_patch(image, spacing, patch, target) for image, spacing in slices]
    images_NCHW = np.stack([image for image, _, _ in placed])
    inside_NHW = np.stack([covered for _, covered, _ in placed])
    training_N = np.asarray(training, dtype=bool)
    pixels_CP = images_NCHW[training_N].transpose(1, 0, 2, 3)[:, inside_NHW[training_N]]
    low_C, high_C = np.percentile(pixels_CP, PERCENTILES, axis=1)
    if not (high_C > low_C).all():
        channel = int(np.argmin(high_C > low_C))
        raise HyfreeError(
            f"{site}: channel {channel} has the same value in all training images; "
            "check the export or leave the channel out of dataset.json"
        )
    shape = (1, -1, 1, 1)
    scaled = (images_NCHW - low_C.reshape(shape)) / (high_C - low_C).reshape(shape) * 2 - 1
    # The margin gets the lowest value: air, as beyond the edge of most scans.
    scaled = np.where(inside_NHW[:, None], scaled, -1.0)
    spacings = np.array([spacing for _, _, spacing in placed])
    height, width = np.median(spacings, axis=0)
    return GeneratorView(
        images_NCHW=np.clip(scaled, -1, 1).astype(np.float32),
        patients_N=np.asarray(patients, dtype=np.int64),
        training_N=training_N,
        low_C=low_C.astype(np.float32),
        high_C=high_C.astype(np.float32),
        spacing=(float(height), float(width)),
    )
