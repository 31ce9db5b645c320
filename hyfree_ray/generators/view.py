"""The generator's view of a site's images: patch-sized, in [-1, 1], with a map back to units.

Shapes: N slices, C channels, H height, W width.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import replacing

PERCENTILES = (0.05, 99.95)
"""The intensities that become -1 and 1, of all the site's training pixels of a channel."""


SHARE_OF_SPREAD = 0.05
"""A step of what is stored may be this share of the foreground's standard deviation."""


def stored_bits(low_C: np.ndarray, high_C: np.ndarray, spread_C: np.ndarray) -> int:
    """8 or 16: how finely a site's images are stored when they travel.

    8 bits are 255 steps over the whole range. That is plenty for X-rays, photographs and MR; over
    the range of CT a step is as wide as the difference between tissues.

    Args:
        low_C: physical intensity of -1.
        high_C: physical intensity of 1.
        spread_C: standard deviation of the foreground (nnU-Net's fingerprint); 0: unknown.
    """
    step_C = (high_C - low_C) / 255
    return 16 if ((spread_C > 0) & (step_C > SHARE_OF_SPREAD * spread_C)).any() else 8


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
    masks_NHW: np.ndarray | None = None
    """uint8 label values; None where nobody has asked for them."""

    def physical(self, images_NCHW: np.ndarray) -> np.ndarray:
        """[-1, 1] to the site's units, float32."""
        shape = (1, -1, 1, 1)
        low, high = self.low_C.reshape(shape), self.high_C.reshape(shape)
        physical_NCHW: np.ndarray = (images_NCHW + 1) / 2 * (high - low) + low
        return physical_NCHW.astype(np.float32)

    def step_C(self, levels: int) -> np.ndarray:
        """Physical units a step, where `levels` steps are between -1 and 1."""
        step_C: np.ndarray = (self.high_C - self.low_C) / levels
        return step_C

    @classmethod
    def load(cls, path: Path) -> GeneratorView:
        """Read what `write_view` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls(
                images_NCHW=data["images"],
                patients_N=data["patients"],
                training_N=data["training"],
                low_C=data["low"],
                high_C=data["high"],
                spacing=(float(data["spacing"][0]), float(data["spacing"][1])),
                masks_NHW=data.get("masks"),
            )


def fit_into_patch(
    image_CHW: np.ndarray, spacing: tuple[float, float], patch: tuple[int, int], target: float
) -> tuple[np.ndarray, tuple[slice, slice], tuple[float, float]]:
    """Resample a slice to square `target` mm pixels times what makes all of it fit the patch.

    nnU-Net resamples to the plan's spacing; a slice that is then larger than the patch is
    scaled down further, isotropically, so that the generator always sees whole images.

    Returns:
        The slice in the patch, centred; the rows and columns that it covers; its spacing.
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
    box = (slice(top, top + height), slice(left, left + width))
    inside = (slice(None), *box)
    placed[inside] = resized
    return placed, box, (target / scale, target / scale)


def fit_mask_into_patch(
    label_HW: np.ndarray, box: tuple[slice, slice], patch: tuple[int, int]
) -> np.ndarray:
    """Resample a mask to the rows and columns that its image covers: uint8 label_HW.

    Each pixel takes the value of the nearest one; the margin is background.
    """
    rows, columns = (side.stop - side.start for side in box)
    label = torch.from_numpy(np.ascontiguousarray(label_HW, dtype=np.float32))[None, None]
    resized = torch.nn.functional.interpolate(label, size=(rows, columns), mode="nearest-exact")
    placed = np.zeros(patch, np.uint8)
    placed[box] = resized[0, 0].numpy().astype(np.uint8)
    return placed


@dataclass(frozen=True, kw_only=True)
class RawSlice:
    """A slice of a case, as it was read."""

    image_CHW: np.ndarray
    """Physical units."""
    spacing: tuple[float, float]
    """(h, w) in mm."""
    patient: int
    training: bool
    label_HW: np.ndarray | None = None
    """Label values; None where the view is to have none."""


def write_view(
    path: Path,
    slices: Iterable[RawSlice],
    *,
    patch: tuple[int, int],
    target_spacing: tuple[float, float],
    site: str,
) -> None:
    """Build the view of a site's slices and write it, an uncompressed .npz.

    Slices are taken one at a time, and what they become waits on disk: a large site needs no more
    memory than a small one.

    Args:
        path: the file; a scratch file lies beside it meanwhile.
        slices: training and validation slices.
        patch: the plan's patch size.
        target_spacing: the plan's spacing (h, w) in mm.
        site: named in errors.

    Raises:
        HyfreeError: a channel is constant over all training images.
    """
    with (
        tempfile.TemporaryFile(dir=path.parent) as scratch,
        tempfile.TemporaryFile(dir=path.parent) as masks,
    ):
        placed = _place(slices, scratch, masks, patch, target_spacing)
        low_C, high_C = placed.window(PERCENTILES)
        if not (high_C > low_C).all():
            channel = int(np.argmin(high_C > low_C))
            raise HyfreeError(
                "data.constant-channel",
                f"{site}: channel {channel} has the same value in all training images; "
                "check the export or leave the channel out of dataset.json",
            )
        arrays = {
            "patients": np.array(placed.patients, dtype=np.int64),
            "training": np.array(placed.training, dtype=bool),
            "low": low_C.astype(np.float32),
            "high": high_C.astype(np.float32),
            "spacing": np.median(np.array(placed.spacings), axis=0),
        }
        with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
            with archive.open("images.npy", "w", force_zip64=True) as member:
                shape = (len(placed.boxes), *placed.shape_CHW)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for image_CHW, box in placed.images():
                    member.write(_scaled(image_CHW, box, low_C, high_C).tobytes())
            if placed.with_masks:
                with archive.open("masks.npy", "w", force_zip64=True) as member:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (shape[0], *patch)}
                    np.lib.format.write_array_header_1_0(member, header)
                    masks.seek(0)
                    shutil.copyfileobj(masks, member)
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


_Box = tuple[slice, slice]


@dataclass(kw_only=True)
class _Placed:
    """Slices in the patch, in a file, and what is known of each."""

    file: IO[bytes]
    with_masks: bool = False
    shape_CHW: tuple[int, int, int] = (0, 0, 0)
    boxes: list[_Box] = field(default_factory=list)
    """The pixels that each covers."""
    spacings: list[tuple[float, float]] = field(default_factory=list)
    patients: list[int] = field(default_factory=list)
    training: list[bool] = field(default_factory=list)

    def images(self) -> Iterator[tuple[np.ndarray, _Box]]:
        """Each image_CHW with its box."""
        self.file.seek(0)
        size = 4 * int(np.prod(self.shape_CHW))
        for box in self.boxes:
            flat = np.frombuffer(self.file.read(size), np.float32)
            yield flat.reshape(self.shape_CHW), box

    def window(self, percentiles: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """The two percentiles of each channel (float64) over all covered training pixels."""
        pairs = zip(self.boxes, self.training, strict=True)
        total = sum(
            (rows.stop - rows.start) * (columns.stop - columns.start)
            for (rows, columns), training in pairs
            if training
        )
        tails = [_Tails(total, percentiles) for _ in range(self.shape_CHW[0])]
        for (image_CHW, box), training in zip(self.images(), self.training, strict=True):
            for tail, image_HW in zip(tails, image_CHW, strict=True):
                if training:
                    tail.add(image_HW[box].ravel())
        low_C, high_C = np.array([tail.percentiles() for tail in tails]).T
        return low_C, high_C


class _Tails:
    """Two outer percentiles of values that come in parts, exact, without keeping the middle.

    Args:
        total: how many values will come.
        percentiles: the lower and the upper one, as `np.percentile` interpolates them.
    """

    def __init__(self, total: int, percentiles: tuple[float, float]) -> None:
        self.at = [percentile / 100 * (total - 1) for percentile in percentiles]
        self.kept = max(int(self.at[0]) + 2, total - int(self.at[1]))
        self.total = total
        self.low = np.empty(0, np.float32)
        self.high = np.empty(0, np.float32)

    def add(self, values: np.ndarray) -> None:
        """Take some of the values in."""
        # Cut back only now and then: partitioning costs as much as it keeps.
        self.low = np.concatenate([self.low, values])
        self.high = np.concatenate([self.high, values])
        if len(self.low) > 4 * self.kept + len(values):
            self._cut()

    def _cut(self) -> None:
        if len(self.low) > self.kept:
            self.low = np.partition(self.low, self.kept - 1)[: self.kept]
            self.high = np.partition(self.high, -self.kept)[-self.kept :]

    def percentiles(self) -> tuple[float, float]:
        """The two percentiles of all values."""
        self._cut()
        low, high = np.sort(self.low), np.sort(self.high)
        first = self.total - len(high)
        return _interpolated(low, self.at[0]), _interpolated(high, self.at[1] - first)


def _interpolated(ordered: np.ndarray, at: float) -> float:
    """The value at a place between two, by the formula of `np.percentile`, to the last bit."""
    before = min(int(at), len(ordered) - 1)
    after = min(before + 1, len(ordered) - 1)
    one, other, share = ordered[before], ordered[after], np.float64(at - before)
    if share >= 0.5:
        return float(other - (other - one) * (1 - share))
    return float(one + (other - one) * share)


def _place(
    slices: Iterable[RawSlice],
    file: IO[bytes],
    masks: IO[bytes],
    patch: tuple[int, int],
    target_spacing: tuple[float, float],
) -> _Placed:
    # One number for both axes: an image is scaled isotropically, its proportions are anatomy.
    target = float(np.sqrt(target_spacing[0] * target_spacing[1]))
    placed = _Placed(file=file)
    for one in slices:
        image_CHW, box, spacing = fit_into_patch(one.image_CHW, one.spacing, patch, target)
        file.write(image_CHW.tobytes())
        if one.label_HW is not None:
            placed.with_masks = True
            masks.write(fit_mask_into_patch(one.label_HW, box, patch).tobytes())
        placed.shape_CHW = image_CHW.shape
        placed.boxes.append(box)
        placed.spacings.append(spacing)
        placed.patients.append(one.patient)
        placed.training.append(one.training)
    return placed


def _scaled(image_CHW: np.ndarray, box: _Box, low_C: np.ndarray, high_C: np.ndarray) -> np.ndarray:
    """In [-1, 1], float32; the margin gets the lowest value: air, as beyond most scans."""
    low, high = low_C.reshape(-1, 1, 1), high_C.reshape(-1, 1, 1)
    scaled_CHW = np.full(image_CHW.shape, -1.0, np.float32)
    inside = (slice(None), *box)
    scaled_CHW[inside] = np.clip((image_CHW[inside] - low) / (high - low) * 2 - 1, -1, 1)
    return scaled_CHW
