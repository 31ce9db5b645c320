"""A release: the synthetic images and their labels that a site submits to the pool.

One Arrow IPC file and, beside it, a JSON manifest with the file's hash. The pool reads both as
hostile input. Shapes: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyfree_ray.border.arrow_layout import LayoutError
from hyfree_ray.border.manifest import (
    MANIFEST_FILE,
    RELEASE_VERSION,
    ROUND,
    Addressee,
    Limits,
    Manifest,
    as_release_error,
    canonical,
    check_rows,
    quoted,
    read_manifest,
)
from hyfree_ray.border.release_arrow import Pixels, declared, read_pixels, write_arrow
from hyfree_ray.core.errors import ReleaseError
from hyfree_ray.core.files import replacing
from hyfree_ray.core.strict_json import StrictObject
from hyfree_ray.core.untrusted import read_untrusted

RELEASE_FILE = "release.arrow"
_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ReleaseMetadata:
    """Everything needed to use the images. No file name, no patient, no distance."""

    version: int = RELEASE_VERSION
    site: str
    channel_names: tuple[str, ...]
    """As in nnU-Net's `dataset.json`: they choose its normalisation."""
    label_names: dict[str, int]
    """Background (0) included; the values are consecutive. A region has the value that encodes
    it."""
    spacing: tuple[float, float]
    """mm between pixels, (height, width)."""
    slice_axis: int
    """The axis of the site's volumes that slices were cut along; 0 for 2D images."""
    scale: tuple[float, ...]
    """One a channel: physical value = stored value x scale + offset."""
    offset: tuple[float, ...]
    card: dict[str, Any]
    """The privacy card."""
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Names with the values that each region consists of, in encoding order; empty if labels are
    not regions."""
    quality: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The quality card; empty: nothing was measured."""

    def to_json(self) -> str:
        return canonical(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ReleaseMetadata:
        """Parse strictly: unknown, missing and doubled keys and wrong types are errors.

        Raises:
            ValueError: what is wrong, in one line.
        """
        read = StrictObject.parse(text, [field.name for field in dataclasses.fields(cls)])
        spacing = read.numbers("spacing", positive=True)
        if len(spacing) != 2:
            raise ValueError("spacing is not a pair (height, width)")
        metadata = cls(
            version=read.integer("version", least=RELEASE_VERSION, most=RELEASE_VERSION),
            site=read.name("site"),
            channel_names=read.names("channel_names"),
            label_names=read.label_names("label_names"),
            spacing=(spacing[0], spacing[1]),
            slice_axis=read.integer("slice_axis", least=0, most=2),
            scale=read.numbers("scale", positive=True),
            offset=read.numbers("offset", positive=False),
            card=read.free("card"),
            regions=read.named_numbers("regions"),
            quality=read.free("quality"),
        )
        _check_regions(metadata)
        names, scales = len(metadata.channel_names), len(metadata.scale)
        if not 0 < names == scales == len(metadata.offset):
            raise ValueError(f"{names} channels, {scales} scales, {len(metadata.offset)} offsets")
        return metadata


def _check_regions(metadata: ReleaseMetadata) -> None:
    """Check that regions are those of the labels, made of their values."""
    names = [name for name, value in metadata.label_names.items() if value]
    values = set(metadata.label_names.values()) - {0}
    if metadata.regions and (
        sorted(name for name, _ in metadata.regions) != sorted(names)
        or any(not classes or not values.issuperset(classes) for _, classes in metadata.regions)
    ):
        raise ValueError("regions are not made of the labels")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release that has passed every check."""

    manifest: Manifest
    metadata: ReleaseMetadata
    images_NCHW: Pixels
    labels_NHW: npt.NDArray[np.uint8]

    def physical(self, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Return the images in the site's own units (NCHW), as before quantisation."""
        scale = np.asarray(self.metadata.scale, np.float32)[None, :, None, None]
        offset = np.asarray(self.metadata.offset, np.float32)[None, :, None, None]
        return self.images_NCHW[rows].astype(np.float32) * scale + offset


def repeated_rows(images_NCHW: Pixels) -> npt.NDArray[np.bool_]:
    """Mark images equal, byte for byte, to an earlier one: a release may not have any."""
    seen: set[bytes] = set()
    repeated = np.zeros(len(images_NCHW), np.bool_)
    for row, image in enumerate(images_NCHW):
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        repeated[row] = digest in seen
        seen.add(digest)
    return repeated


def nonce_of(
    seed: int,
    metadata: ReleaseMetadata,
    images_NCHW: Pixels,
    labels_NHW: npt.NDArray[np.uint8],
    *,
    experiment: str,
) -> str:
    """Return 32 hexadecimal digits, equal for equal releases and different for any others.

    The same images for another experiment are another release, whose file differs.
    """
    digest = hashlib.sha256(f"{seed}\n{experiment}\n{metadata.to_json()}".encode())
    for pixels in (images_NCHW, labels_NHW):
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:32]


def write_release(
    folder: Path,
    metadata: ReleaseMetadata,
    images_NCHW: Pixels,
    labels_NHW: npt.NDArray[np.uint8],
    *,
    experiment: str,
    nonce: str,
    round_number: int = ROUND,
    addressee: Addressee | None = None,
) -> Manifest:
    """Write `folder/release.arrow` and then `folder/manifest.json`, each whole or not at all.

    The file is uncompressed, can be memory-mapped, and holds these rows only. Equal arguments
    give equal bytes.

    Args:
        images_NCHW: uint8 or uint16.
        labels_NHW: uint8, values of `metadata.label_names`.
        addressee: who may take it, the one of the experiment's key; None: names were not agreed on.

    Raises:
        ReleaseError: where the pool would refuse it (see `read_release`).
    """
    with as_release_error(metadata.site, "metadata"):
        metadata = ReleaseMetadata.from_json(metadata.to_json())
    _check_pixels(metadata, images_NCHW, labels_NHW, Limits())
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RELEASE_FILE) as file:
        write_arrow(file, images_NCHW, labels_NHW, metadata.to_json())
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        size = file.tell()
    manifest = Manifest(
        site=metadata.site,
        experiment=experiment,
        round=round_number,
        **dataclasses.asdict(addressee or Addressee()),
        nonce=nonce,
        rows=len(images_NCHW),
        sha256=digest.hexdigest(),
        bytes=size,
    )
    with replacing(folder / MANIFEST_FILE) as file:
        file.write(manifest.to_json().encode())
    return manifest


def read_release(
    folder: Path,
    *,
    site: str,
    experiment: str,
    round_number: int = ROUND,
    manifest: Manifest | None = None,
    limits: Limits | None = None,
) -> Release:
    """Read a release as the pool does: as a file that may have been made to do harm.

    The file is opened once, and only the very bytes that were hashed are parsed. Needs twice
    as much memory as the file has bytes.

    Args:
        folder: where the site's manifest and Arrow file are.
        site: who submitted it, as the pool knows it.
        experiment: key of the experiment that is running.
        round_number: the round that is open.
        manifest: as read before, perhaps with its signature, so that the file is checked against
            that very one; None: the folder's is read.

    Raises:
        ReleaseError: with the rule that was broken. The rules: `missing`, `not-a-file`,
            `too-large`, `manifest`, `site`, `addressee`, `experiment`, `round`, `bytes`,
            `sha256`, `magic`, `layout`, `endianness`, `compressed`, `schema`, `metadata`, `rows`,
            `nulls`, `shape`, `values`, `labels`, `duplicates`, `arrow`.
    """
    limits = limits or Limits()
    manifest = manifest or read_manifest(folder, site=site, limits=limits)
    manifest.check_made_for(site=site, experiment=experiment, round_number=round_number)
    check_rows(site, manifest.rows, limits)
    with as_release_error(site, "layout"):
        path, max_bytes = folder / RELEASE_FILE, limits.file_bytes
        file = memoryview(read_untrusted(path, most=max_bytes, expected=manifest.bytes))
        if hashlib.sha256(file).hexdigest() != manifest.sha256:
            raise LayoutError("sha256", "the file is not the one that the manifest describes")
        found = declared(file, max_rows=manifest.rows, metadata_bytes=limits.metadata_bytes)
        if found.rows != manifest.rows:
            raise LayoutError("rows", f"{found.rows} rows, the manifest says {manifest.rows}")
    with as_release_error(site, "metadata"):
        metadata = ReleaseMetadata.from_json(found.metadata.decode())
    if metadata.site != site:
        raise ReleaseError(site, "site", f"made by {quoted(metadata.site)}")
    with as_release_error(site, "arrow"):
        images_NCHW, labels_NHW = read_pixels(file, manifest.rows)
    _check_pixels(metadata, images_NCHW, labels_NHW, limits)
    return Release(
        manifest=manifest, metadata=metadata, images_NCHW=images_NCHW, labels_NHW=labels_NHW
    )


def _check_pixels(
    metadata: ReleaseMetadata,
    images_NCHW: Pixels,
    labels_NHW: npt.NDArray[np.uint8],
    limits: Limits,
) -> None:
    """Check pixels and labels: the site before it writes, the pool after it has read."""
    site, shape = metadata.site, images_NCHW.shape
    if len(shape) != 4 or labels_NHW.shape != (shape[0], *shape[2:]):
        raise ReleaseError(site, "shape", f"images {shape}, labels {labels_NHW.shape}")
    if images_NCHW.dtype not in (np.uint8, np.uint16) or labels_NHW.dtype != np.uint8:
        kinds = f"images of {images_NCHW.dtype}, labels of {labels_NHW.dtype}"
        raise ReleaseError(site, "shape", f"{kinds}; images must be uint8 or uint16, labels uint8")
    rows, channels, height, width = shape
    check_rows(site, rows, limits)
    if channels != len(metadata.channel_names) or channels > limits.channels:
        names = len(metadata.channel_names)
        raise ReleaseError(site, "shape", f"{channels} channels, {names} channel names")
    if not (0 < height <= limits.side and 0 < width <= limits.side):
        raise ReleaseError(site, "shape", f"images of {height}x{width} pixels")
    _check_values(metadata, (height, width), int(np.iinfo(images_NCHW.dtype).max), limits)
    highest, found = max(metadata.label_names.values()), int(labels_NHW.max())
    if found > highest or highest > limits.highest_label:
        raise ReleaseError(site, "labels", f"a label of {found}; the highest declared: {highest}")
    repeated = int(repeated_rows(images_NCHW).sum())
    if repeated:
        raise ReleaseError(site, "duplicates", f"{repeated} images are duplicates of others in it")


def _check_values(
    metadata: ReleaseMetadata, size: tuple[int, int], levels: int, limits: Limits
) -> None:
    """Check that nnU-Net can be planned and trained on these physical values and spacings."""
    minimum, maximum = limits.spacing
    for spacing, pixels in zip(metadata.spacing, size, strict=True):
        if not minimum <= spacing <= maximum or spacing * pixels > limits.extent:
            raise ReleaseError(
                metadata.site,
                "values",
                f"{pixels} pixels {spacing:g} mm apart; {minimum:g} to {maximum:g} mm and, in all, "
                f"{limits.extent:g} mm are allowed",
            )
    with np.errstate(over="ignore"):
        low_C = np.asarray(metadata.offset, np.float32)
        high_C = np.asarray(metadata.scale, np.float32) * np.float32(levels) + low_C
    # Written so that NaN fails too.
    if not ((low_C < high_C) & (np.maximum(-low_C, high_C) < limits.magnitude)).all():
        raise ReleaseError(
            metadata.site,
            "values",
            f"a channel's scale and offset give values that float32 cannot distinguish, or of "
            f"{limits.magnitude:g} and more; use other units for the images",
        )
